//! What an error is about.

use std::fmt;
use std::sync::Arc;

use crate::Family;

/// The lock or the semaphore that a call was about.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Named {
    /// Which of the two it is.
    pub family: Family,
    /// Its name.
    pub name: Arc<str>,
}

impl Named {
    pub(crate) fn new(family: Family, name: &str) -> Self {
        Self { family, name: name.into() }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {:?}", self.family, self.name)
    }
}
