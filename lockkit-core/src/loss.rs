//! Why a grant has ended.

use std::fmt;

/// Why a lease ended before its guard was done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum LossReason {
    /// No renewal was acknowledged before the deadline.
    Expired,
    /// The store no longer has the entry: it expired there, or an operator removed it.
    Removed,
    /// An operator revoked it.
    Revoked,
    /// The session or connection that it lived on has ended.
    SessionEnded,
    /// It reached the `max_hold` that its caller set.
    MaxHold,
    /// Its [`Locks`](crate::Locks) were closed.
    Closed,
    /// The runtime that renewed it has ended.
    DriverStopped,
    /// It was taken by the process that this one was forked from, which may hold it still.
    Forked,
    /// Its guard was released or dropped; only a [`GuardWatch`](crate::GuardWatch) sees this.
    Released,
}

impl fmt::Display for LossReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "no renewal was acknowledged before the deadline",
            Self::Removed => "the store no longer has it",
            Self::Revoked => "an operator revoked it",
            Self::SessionEnded => "the session it lived on has ended",
            Self::MaxHold => "it reached its max_hold",
            Self::Closed => "its locks were closed",
            Self::DriverStopped => "the runtime that renewed it has ended",
            Self::Forked => "another process took it, and this one was forked from that",
            Self::Released => "its guard was released",
        })
    }
}
