//! The one error that users act on.

use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;

use crate::{Holder, LossReason, Named, NotAToken};

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
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The time limit of the call passed while another caller held the name: try later.
    TimedOut {
        /// The holder that the store named last, if it named one.
        holder: Option<Holder>,
        /// The lock that the call was about.
        lock: Option<Named>,
    },
    /// The lease has ended: stop the work it protected.
    Lost {
        /// How it ended.
        reason: LossReason,
        /// The lock that the call was about.
        lock: Option<Named>,
    },
    /// The store did not answer, or answered that it cannot serve now: try again.
    Unavailable {
        /// Whether the request may have taken effect all the same.
        applied: Applied,
        /// What the store or its client said.
        cause: Cause,
        /// The lock that the call was about; none where it was about the whole store.
        lock: Option<Named>,
    },
    /// The store refused, and will refuse again until the remedy is followed.
    Rejected {
        /// What was refused.
        what: String,
        /// What to do about it.
        remedy: String,
        /// The lock that the call was about; none where it was about the whole store.
        lock: Option<Named>,
    },
    /// The caller's input cannot be served: correct it.
    Invalid {
        /// What is wrong.
        what: String,
        /// What to write instead.
        remedy: String,
        /// The lock that the call was about; none where it was about the whole store.
        lock: Option<Named>,
    },
    /// These [`Locks`](crate::Locks) were closed: connect again.
    Closed,
    /// There is no tokio runtime to work in, or it ended during the call.
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
///
/// ```
/// use lockkit_core::{Applied, Error};
/// use std::io;
///
/// let reset = io::Error::from(io::ErrorKind::ConnectionReset);
/// let error = Error::unavailable(Applied::Maybe, reset);
/// let Error::Unavailable { cause, .. } = error else { unreachable!() };
/// let io = cause.downcast_ref::<io::Error>().expect("what was given");
/// assert_eq!(io.kind(), io::ErrorKind::ConnectionReset);
/// ```
#[derive(Clone, Debug)]
pub struct Cause(Arc<dyn StdError + Send + Sync>);

impl Error {
    /// An [`Error::Unavailable`] with its cause: a message, or the driver crate's own error.
    pub fn unavailable(
        applied: Applied,
        cause: impl Into<Box<dyn StdError + Send + Sync>>,
    ) -> Self {
        Self::Unavailable { applied, cause: Cause(Arc::from(cause.into())), lock: None }
    }

    /// An [`Error::Rejected`].
    pub fn rejected(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Rejected { what: what.into(), remedy: remedy.into(), lock: None }
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Invalid { what: what.into(), remedy: remedy.into(), lock: None }
    }

    /// An [`Error::Lost`].
    pub const fn lost(reason: LossReason) -> Self {
        Self::Lost { reason, lock: None }
    }

    /// What every further attempt ends with after a loss for this reason; `None`: another attempt can succeed.
    pub(crate) const fn after_loss(reason: LossReason) -> Option<Self> {
        match reason {
            LossReason::Closed => Some(Self::Closed),
            LossReason::DriverStopped | LossReason::Forked => Some(Self::NoRuntime),
            _ => None,
        }
    }

    /// An [`Error::TimedOut`], with the holder that the store named.
    pub const fn timed_out(holder: Option<Holder>) -> Self {
        Self::TimedOut { holder, lock: None }
    }

    /// Whether the same call can succeed later with no change by the caller or an operator.
    ///
    /// A lost lease is not: it stays lost, and its lock must be acquired again.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::TimedOut { .. } | Self::Unavailable { .. })
    }

    /// The name of the lock that the call was about; `None`: the call was about the whole store.
    pub fn lock(&self) -> Option<&str> {
        self.named().map(|named| &*named.name)
    }

    /// The lock or the semaphore that the call was about.
    const fn named(&self) -> Option<&Named> {
        match self {
            Self::TimedOut { lock, .. }
            | Self::Lost { lock, .. }
            | Self::Unavailable { lock, .. }
            | Self::Rejected { lock, .. }
            | Self::Invalid { lock, .. } => lock.as_ref(),
            Self::Closed | Self::NoRuntime => None,
        }
    }

    /// This error, about the lock of this name.
    pub(crate) fn about(mut self, name: impl Into<Named>) -> Self {
        match &mut self {
            Self::TimedOut { lock, .. }
            | Self::Lost { lock, .. }
            | Self::Unavailable { lock, .. }
            | Self::Rejected { lock, .. }
            | Self::Invalid { lock, .. } => *lock = Some(name.into()),
            Self::Closed | Self::NoRuntime => {}
        }
        self
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
            Self::Unavailable { cause, lock, .. } => Self::Unavailable { applied, cause, lock },
            other => other,
        }
    }

    /// Whether the request behind this error may have taken effect.
    pub const fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Unavailable { applied: Applied::Maybe, .. })
    }
}

impl From<NotAToken> for Error {
    fn from(not: NotAToken) -> Self {
        Self::invalid(not.what(), not.remedy())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(named) = self.named() {
            write!(f, "{named}: ")?;
        }
        match self {
            Self::TimedOut { holder: None, .. } => f.write_str("timed out: the name is held"),
            Self::TimedOut { holder: Some(holder), .. } => {
                write!(f, "timed out: the name is held by {holder}")
            }
            Self::Lost { reason, .. } => write!(f, "the lease is lost: {reason}"),
            Self::Unavailable { applied, cause, .. } => {
                write!(f, "the store is unavailable ({applied}): {cause}")
            }
            Self::Rejected { what, remedy, .. } => {
                write!(f, "the store refused: {what}; {remedy}")
            }
            Self::Invalid { what, remedy, .. } => write!(f, "invalid: {what}; {remedy}"),
            Self::Closed => f.write_str("these locks were closed; connect again to take more"),
            Self::NoRuntime => f.write_str(
                "no tokio runtime: call inside one that lives on, or give one with \
                 Locks::builder().runtime(handle)",
            ),
        }
    }
}

impl StdError for Error {
    /// What is behind the cause: the cause itself is in the message already.
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        match self {
            Self::Unavailable { cause, .. } => cause.source(),
            _ => None,
        }
    }
}

impl Cause {
    /// The error that the store's client gave, if it is of this type: also below a text that names the server.
    pub fn downcast_ref<T: StdError + 'static>(&self) -> Option<&T> {
        let mut error: &(dyn StdError + 'static) = &*self.0;
        loop {
            match error.downcast_ref() {
                Some(found) => return Some(found),
                None => error = below(error)?,
            }
        }
    }
}

/// The error below this one. A cause and an error of ours tell of what is behind theirs as their source, since
/// the text of theirs is in their own: here none is skipped.
fn below<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match (error.downcast_ref(), error.downcast_ref()) {
        (Some(Cause(inner)), _) => Some(&**inner),
        (_, Some(Error::Unavailable { cause, .. })) => Some(&*cause.0),
        _ => error.source(),
    }
}

impl fmt::Display for Applied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "the request did not take effect",
            Self::Maybe => "the request may have taken effect",
        })
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Cause {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    /// As a store's client names its server: what went wrong is its source.
    #[derive(Debug)]
    struct At(Cause);

    impl fmt::Display for At {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "db.internal: {}", self.0)
        }
    }

    impl StdError for At {
        fn source(&self) -> Option<&(dyn StdError + 'static)> {
            Some(&self.0)
        }
    }

    fn cause(error: Error) -> Cause {
        match error {
            Error::Unavailable { cause, .. } => cause,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn the_clients_own_error_is_found_below_the_name_of_its_server() {
        let refused = || io::Error::new(io::ErrorKind::ConnectionRefused, "nothing listens");
        let own = Error::unavailable(Applied::No, refused());
        let named = Error::unavailable(Applied::No, At(cause(own.clone())));
        let twice = Error::unavailable(Applied::Maybe, cause(named.clone()));
        let within = Error::unavailable(Applied::Maybe, named.clone());
        for error in [own, named, twice, within] {
            let cause = cause(error);
            let found = cause.downcast_ref::<io::Error>().expect("the client's own error");
            assert_eq!(found.kind(), io::ErrorKind::ConnectionRefused, "{cause}");
            assert!(cause.downcast_ref::<fmt::Error>().is_none(), "{cause}");
        }
    }
}
