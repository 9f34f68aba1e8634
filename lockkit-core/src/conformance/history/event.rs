//! What one process saw at one instant.

use std::fmt;

use crate::{FencingToken, Instant, LockName};

/// One thing that a process saw.
///
/// All instants of a history are of one clock, which every process on one machine can read:
/// [`Clock::system`](crate::Clock::system).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When: read before a call, and after an answer, as [`What`] says.
    pub at: Instant,
    /// Of which attempt.
    pub attempt: AttemptId,
    /// What happened.
    pub what: What,
}

/// One attempt to take a lock, and the grant that it may lead to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AttemptId {
    /// The process, or the incarnation of one: a process that was killed does not come back.
    pub process: u64,
    /// How many attempts this process made before.
    pub number: u64,
}

/// What a process saw. An answer that never comes is an outcome that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum What {
    /// It asks for the name alone; read before the call.
    Asks(LockName),
    /// It asks for a share of the name; read before the call.
    AsksShared(LockName),
    /// It was granted; read after the call.
    Granted(FencingToken),
    /// It was told that it is not granted, and never will be.
    Refused,
    /// It gave up, and does not know whether the store granted.
    Unknown,
    /// It looked, and still held; read before the look.
    Believes,
    /// It releases; read before the call.
    Releases,
    /// The release was acknowledged: it held to the end.
    Released,
    /// It learned that it no longer holds.
    Lost,
    /// It reads the fenced resource under its token; read before the call.
    Reads,
    /// The read was accepted, and saw this version: 0 is what was there before all writes.
    Read(u64),
    /// It writes a version of its own, which nobody else writes, over the one that it has seen;
    /// read before the call.
    Writes {
        /// The version that the write is based on.
        seen: u64,
        /// The version that it writes.
        wrote: u64,
    },
    /// The write was accepted.
    Wrote,
    /// The read or write was refused, because its token is stale.
    Stale,
}

impl fmt::Display for AttemptId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.process, self.number)
    }
}
