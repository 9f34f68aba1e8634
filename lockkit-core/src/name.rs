//! What is locked.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use crate::Error;

/// The name of a lock: any UTF-8 text from 1 to 512 bytes, compared byte by byte.
///
/// Upholds C3: two names that differ in a byte are two locks on every store. Nothing is special
/// in a name: not `/`, not `..`, not case, not a NUL byte.
///
/// ```
/// use lockkit_core::LockName;
///
/// assert_eq!(LockName::new("billing/nightly")?.as_str(), "billing/nightly");
/// assert!(LockName::new("").is_err());
/// # Ok::<(), lockkit_core::Error>(())
/// ```
#[derive(Clone)]
pub struct LockName(Text);

/// Short names are most, and are kept in place.
#[derive(Clone)]
enum Text {
    Short { len: u8, bytes: [u8; SHORT] },
    Long(Arc<str>),
}

/// As many bytes as fit beside the length where a shared text has its pointer.
const SHORT: usize = 22;

impl LockName {
    /// The longest name, in bytes.
    pub const MAX_LEN: usize = 512;

    /// The name with this text.
    ///
    /// # Errors
    /// `Invalid`: the text is empty or longer than [`MAX_LEN`](Self::MAX_LEN) bytes.
    pub fn new(text: impl AsRef<str>) -> Result<Self, Error> {
        let text = text.as_ref();
        match text.len() {
            0 => {
                Err(Error::invalid("an empty lock name", "give the lock a name of 1 to 512 bytes"))
            }
            len if len > Self::MAX_LEN => Err(Error::invalid(
                format!("a lock name of {len} bytes"),
                "shorten it to at most 512 bytes, for example by hashing its tail",
            )),
            _ => Ok(Self(Text::new(text))),
        }
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        match &self.0 {
            // It was a text when it came in.
            Text::Short { .. } => std::str::from_utf8(self.as_bytes()).unwrap_or_default(),
            Text::Long(text) => text,
        }
    }

    fn as_bytes(&self) -> &[u8] {
        match &self.0 {
            Text::Short { len, bytes } => &bytes[..usize::from(*len)],
            Text::Long(text) => text.as_bytes(),
        }
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        match &self.0 {
            Text::Short { .. } => self.as_str().into(),
            Text::Long(text) => Arc::clone(text),
        }
    }
}

impl Text {
    fn new(text: &str) -> Self {
        let mut bytes = [0; SHORT];
        match (bytes.get_mut(..text.len()), u8::try_from(text.len())) {
            (Some(room), Ok(len)) => {
                room.copy_from_slice(text.as_bytes());
                Self::Short { len, bytes }
            }
            _ => Self::Long(text.into()),
        }
    }
}

impl PartialEq for LockName {
    fn eq(&self, other: &Self) -> bool {
        self.as_bytes() == other.as_bytes()
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
        self.as_bytes().cmp(other.as_bytes())
    }
}

/// As its text, by which a name is found too.
impl Hash for LockName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
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

impl Borrow<str> for LockName {
    fn borrow(&self) -> &str {
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
            assert_eq!((name.as_str(), &*name.shared()), (*text, *text));
            assert!(
                name == text.parse().expect("a name") && format!("{name:?}") == format!("{text:?}")
            );
            found.insert(name, text.len());
        }
        assert!(
            texts.iter().all(|text| found.get(*text) == Some(&text.len())),
            "found by their text"
        );
        let sorted: BTreeSet<_> = found.into_keys().collect();
        assert!(
            sorted.iter().map(LockName::as_str).eq(texts.iter().copied().collect::<BTreeSet<_>>())
        );
    }
}
