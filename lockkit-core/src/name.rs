//! What is locked.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::{Error, Family, Named};

/// The name of a lock or of a semaphore: any UTF-8 text from 1 to 512 bytes, compared byte by byte.
///
/// Upholds C3: two names that differ in a byte are two locks on every store. Nothing is special
/// in a name: not `/`, not `..`, not case, not a NUL byte. A lock and a semaphore with the same text have
/// two names, which are not equal: all names of locks come before all names of semaphores.
///
/// ```
/// use lockkit_core::LockName;
///
/// assert_eq!(LockName::new("billing/nightly")?.as_str(), "billing/nightly");
/// assert!(LockName::new("").is_err());
/// assert_ne!(LockName::new("pool")?, LockName::semaphore("pool")?);
/// # Ok::<(), lockkit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct LockName(Text);

/// Short names are most, and are kept in place.
#[derive(Clone)]
enum Text {
    Short { family: Family, len: u8, bytes: [u8; SHORT] },
    Long { family: Family, text: Arc<str> },
}

/// As many bytes as fit beside the family and the length where a shared text has its pointer.
const SHORT: usize = 21;

impl LockName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// The name of a lock with this text.
    ///
    /// # Errors
    /// `Invalid`: the text is empty or longer than [`MAX_LEN`](Self::MAX_LEN) bytes.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
        Self::of(Family::Lock, text.as_ref())
    }

    /// The name of a semaphore with this text.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn semaphore(text: impl AsRef<str>) -> Result<Self, Error> {
        Self::of(Family::Semaphore, text.as_ref())
    }

    /// The name of this family with this text.
    ///
    /// # Errors
    /// As [`new`](Self::new).
    pub fn of(family: Family, text: &str) -> Result<Self, Error> {
        match text.len() {
            0 => {
                let what = format!("an empty {family} name");
                Err(Error::invalid(what, format!("give the {family} a name of 1 to 512 bytes")))
            }
            len if len > Self::MAX_LEN => Err(Error::invalid(
                format!("a {family} name of {len} bytes"),
                "shorten it to at most 512 bytes, for example by hashing its tail",
            )),
            _ => Ok(Self(Text::new(family, text))),
        }
    }

    /// Whether a lock or a semaphore has this name.
    pub const fn family(&self) -> Family {
        match &self.0 {
            Text::Short { family, .. } | Text::Long { family, .. } => *family,
        }
    }

    /// The name of the same text in this family.
    #[must_use]
    pub(crate) fn in_family(mut self, wanted: Family) -> Self {
        match &mut self.0 {
            Text::Short { family, .. } | Text::Long { family, .. } => *family = wanted,
        }
        self
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was a text when it came in.
            Text::Short { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Text::Long { text, .. } => text,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { len, bytes, .. } => &bytes[..usize::from(*len)],
            Text::Long { text, .. } => text.as_bytes(),
        }
    }
}

impl From<&LockName> for Named {
    fn from(name: &LockName) -> Self {
        Self::new(name.family(), name.as_str())
    }
}

impl Text {
    fn new(family: Family, text: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(text.as_bytes());
                Self::Short { family, len, bytes }
            }
            _ => Self::Long { family, text: text.into() },
        }
    }
}

impl PartialEq for LockName {
    fn eq(&self, other: &Self) -> bool {
        self.family() == other.family() && self.as_bytes() == other.as_bytes()
    }
}

impl Eq for LockName {}

impl PartialOrd for LockName {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for LockName {
    fn cmp(&self, other: &Self) -> Ordering {
        self.family().cmp(&other.family()).then_with(|| self.as_bytes().cmp(other.as_bytes()))
    }
}

impl Hash for LockName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.family().hash(state);
        self.as_bytes().hash(state);
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.family() {
            Family::Lock => fmt::Debug::fmt(self.as_str(), f),
            family => write!(f, "{family} {:?}", self.as_str()),
        }
    }
}

impl FromStr for LockName {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::new(text)
    }
}

impl AsRef<str> for LockName {
    fn as_ref(&self) -> &str {
        self.as_str()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashMap};

    use super::*;

    #[test]
    fn names_of_every_length_are_their_text_and_no_longer_name_is_larger() {
        assert_eq!(size_of::<LockName>(), 24);
        let text = "\u{e9}\0z".repeat(200);
        let texts: Vec<&str> = (1..=512).filter_map(|len| text.get(..len)).collect();
        assert!(texts.len() > 300);
        let mut found = HashMap::new();
        for text in &texts {
            let name = LockName::new(text).expect("a name");
            assert_eq!((name.as_str(), name.family()), (*text, Family::Lock));
            assert!(
                name == text.parse().expect("a name") && format!("{name:?}") == format!("{text:?}")
            );
            let semaphore = LockName::semaphore(text).expect("a name");
            assert_eq!((semaphore.as_str(), semaphore.family()), (*text, Family::Semaphore));
            assert!(name < semaphore && semaphore.clone().in_family(Family::Lock) == name);
            assert!(found.insert(semaphore, 0).is_none());
            found.insert(name, text.len());
        }
        let len = |text: &str| found.get(&LockName::new(text).expect("a name")).copied();
        assert!(texts.iter().all(|text| len(text) == Some(text.len())), "found by their text");
        found.retain(|name, _| name.family() == Family::Lock);
        let sorted: BTreeSet<_> = found.into_keys().collect();
        assert!(
            sorted.iter().map(LockName::as_str).eq(texts.iter().copied().collect::<BTreeSet<_>>())
        );
    }
}
