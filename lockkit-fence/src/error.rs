//! Why a fence did not let an access pass.

use crate::{NotAToken, Stale};

/// Why a fence did not let an access pass.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A newer token has been seen: the lock was lost. Stop the work that it protected.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// What the caller gave, or what the resource keeps, cannot be served: correct it.
    #[error("invalid: {what}; {remedy}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// What to do instead.
        remedy: String,
    },
    /// The resource did not answer, or answered that it cannot serve now; a write that it may have taken stays.
    #[error("the resource is unavailable: {0}")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl Error {
    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), remedy: remedy.into() }
    }

    /// An [`Error::Unavailable`] with its cause: a message, or the error of the resource's client.
    pub fn unavailable(cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Unavailable(cause.into())
    }

    /// The refusal of a stale token, if this error is one.
    pub const fn stale(&self) -> Option<Stale> {
        match self {
            Self::Stale(stale) => Some(*stale),
            _ => None,
        }
    }
}

impl From<NotAToken> for Error {
    fn from(not: NotAToken) -> Self {
        Self::invalid(not.what(), not.remedy())
    }
}
