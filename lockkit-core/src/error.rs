//! The one error that users act on.

use std::error::Error as StdError;
use std::sync::Arc;

use crate::{Holder, LossReason};

/// What went wrong, in terms of what the caller can do about it.
///
/// A name that another caller holds is not an error: `try_acquire` answers `None`.
///
/// ```
/// use lockkit_core::{Applied, Error};
///
/// let error = Error::unavailable(Applied::Maybe, "connection reset");
/// assert!(error.is_retryable());
/// assert!(!Error::invalid("ttl 0", "give a ttl of at least 50 ms").is_retryable());
/// ```
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The time limit of the call passed while another caller held the name: try later.
    #[error("timed out: the name is held{}", held_by(holder.as_ref()))]
    TimedOut {
        /// The holder that the store named last, if it named one.
        holder: Option<Holder>,
    },
    /// The lease has ended: stop the work it protected.
    #[error("the lease is lost: {reason}")]
    Lost {
        /// How it ended.
        reason: LossReason,
    },
    /// The store did not answer, or answered that it cannot serve now: try again.
    #[error("the store is unavailable ({applied}): {cause}")]
    Unavailable {
        /// Whether the request may have taken effect all the same.
        applied: Applied,
        /// What the store or its client said.
        cause: Cause,
    },
    /// The store refused, and will refuse again until the remedy is followed.
    #[error("the store refused: {what}; {remedy}")]
    Rejected {
        /// What was refused.
        what: String,
        /// What to do about it.
        remedy: String,
    },
    /// The caller's input cannot be served: correct it.
    #[error("invalid: {what}; {remedy}")]
    Invalid {
        /// What is wrong.
        what: String,
        /// What to write instead.
        remedy: String,
    },
    /// These [`Locks`](crate::Locks) were closed: connect again.
    #[error("these locks were closed; connect again to take more")]
    Closed,
    /// There is no tokio runtime to work in, or it ended during the call.
    #[error(
        "no tokio runtime: call inside one that lives on, or give one with Locks::builder().runtime(handle)"
    )]
    NoRuntime,
}

/// Whether a request that got no answer may have taken effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Applied {
    /// It certainly did not.
    No,
    /// It may have; the store's answer is missing.
    Maybe,
}

/// The underlying cause of an [`Error::Unavailable`]: displays as its message.
#[derive(Clone, Debug)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl Error {
    /// An [`Error::Unavailable`] with its cause: a message, or the driver crate's own error.
    pub fn unavailable(
        applied: Applied,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { applied, cause: Cause(Arc::from(cause.into())) }
    }

    /// An [`Error::Rejected`].
    pub fn rejected(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Rejected { what: what.into(), remedy: remedy.into() }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), remedy: remedy.into() }
    }

    /// An [`Error::Lost`].
    pub const fn lost(reason: LossReason) -> Self {
        Self::Lost { reason }
    }

    /// Whether the same call can succeed later without anybody changing anything.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Unavailable { .. } | Self::Lost { .. })
    }

    /// What a call on a withdrawn request ends in.
    pub fn withdrawn() -> Self {
        Self::unavailable(Applied::No, "the request was withdrawn")
    }

    /// This error, with another answer to whether the request may have taken effect.
    ///
    /// A backend knows more than its client crate: that nothing was sent yet, or that an earlier sending
    /// may still take effect. Errors that do not say it stay as they are.
    #[must_use]
    pub fn with_applied(self, applied: Applied) -> Self {
        match self {
            Self::Unavailable { cause, .. } => Self::Unavailable { applied, cause },
            other => other,
        }
    }

    /// Whether the request behind this error may have taken effect.
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unavailable { applied: Applied::Maybe, .. })
    }
}

impl std::fmt::Display for Applied {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::No => "the request did not take effect",
            Self::Maybe => "the request may have taken effect",
        })
    }
}

impl std::fmt::Display for Cause {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

fn held_by(holder: Option<&Holder>) -> String {
    holder.map(|holder| format!(" by {holder}")).unwrap_or_default()
}
