//! What is locked.

use std::borrow::Borrow;
use std::fmt;
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
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LockName(Arc<str>);

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
            _ => Ok(Self(text.into())),
        }
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub(crate) fn shared(&self) -> Arc<str> {
        Arc::clone(&self.0)
    }
}

impl fmt::Display for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LockName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
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
        &self.0
    }
}

impl Borrow<str> for LockName {
    fn borrow(&self) -> &str {
        &self.0
    }
}
