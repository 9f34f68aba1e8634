//! What a provider promises, declared so that it can be tested.

use std::fmt;
use std::time::Duration;

use crate::Kind;

/// The shortest ttl that any store accepts.
pub(crate) const MIN_TTL: Duration = Duration::from_millis(50);
/// The longest ttl that any store accepts.
pub(crate) const MAX_TTL: Duration = Duration::from_secs(24 * 3600);

/// What a provider promises; the conformance suite fails every claim that does not hold.
///
/// Upholds C13. Build it with [`Guarantees::new`], which claims as little as possible, and set the
/// fields that hold.
///
/// ```
/// use lockkit_core::{Exclusion, Expiry, Fairness, Guarantees};
///
/// let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::HolderDeath);
/// guarantees.fairness = Fairness::Fifo;
/// assert!(!guarantees.token_survives.failover);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Guarantees {
    /// What exclusion rests on.
    pub exclusion: Exclusion,
    /// What ends the lease of a holder that no longer answers.
    pub expiry: Expiry,
    /// In which order waiters are granted.
    pub fairness: Fairness,
    /// How a waiter learns that the name is free.
    pub wake_up: WakeUp,
    /// The kinds of lock that can be taken.
    pub kinds: &'static [Kind],
    /// What keeps a name taken for its minimum hold, once its guard has ended.
    pub minimum_hold: MinimumHold,
    /// The events that the order of tokens survives.
    pub token_survives: TokenScope,
    /// Whether a request can have a floor for its token
    /// ([`Request::token_floor`](crate::Request::token_floor)), and a grant can be raised
    /// ([`Lease::raise`](crate::Lease::raise)): what a quorum needs of its members.
    pub raises_tokens: bool,
    /// What can make two holders believe at once that they hold, in words for the operator.
    pub belief_breaks_on: &'static [&'static str],
}

impl Guarantees {
    /// The least claims for this exclusion and expiry: eventual fairness, wake-up by polling every
    /// second, exclusive locks, a minimum hold that ends with its process, tokens that survive release, expiry and the holder's crash.
    pub const fn new(exclusion: Exclusion, expiry: Expiry) -> Self {
        Self {
            exclusion,
            expiry,
            fairness: Fairness::Eventual,
            wake_up: WakeUp::Poll(Duration::from_secs(1)),
            kinds: &[Kind::Exclusive],
            minimum_hold: MinimumHold::ByHolder,
            token_survives: TokenScope {
                release: true,
                expiry: true,
                holder_crash: true,
                server_restart: false,
                failover: false,
                data_loss: false,
            },
            raises_tokens: false,
            belief_breaks_on: &[],
        }
    }
}

/// What exclusion rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Exclusion {
    /// A replicated log: no single failure breaks it.
    Consensus,
    /// A majority of independent servers, and clocks that run at a bounded rate.
    QuorumAndClocks,
    /// One server, or one primary: its failover may break it.
    OneServer,
    /// One machine's kernel.
    OneHost,
    /// The memory of one process.
    OneProcess,
}

/// What ends the lease of a holder that no longer answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Expiry {
    /// A ttl for each lease, counted by the store.
    Ttl(TtlRange),
    /// A ttl for each session, shared by the leases on it; a session outlives its connections.
    Session(TtlRange),
    /// The same, where a session ends with its one connection too: a reset ends the lease at once.
    Connection(TtlRange),
    /// The death of the holder's process, noticed by the kernel; a ttl has no effect.
    HolderDeath,
}

impl Expiry {
    /// The ttls that the store can grant; `None` where a ttl has no effect.
    pub const fn range(&self) -> Option<TtlRange> {
        match self {
            Self::Ttl(range) | Self::Session(range) | Self::Connection(range) => Some(*range),
            Self::HolderDeath => None,
        }
    }
}

/// The ttls that a store can grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TtlRange {
    /// The least; a smaller wish is rounded up to it.
    pub min: Duration,
    /// The greatest; a greater wish is lowered to it, or refused under manual renewal.
    pub max: Duration,
    /// The steps between; a wish is rounded up to the next one.
    pub granularity: Duration,
}

impl TtlRange {
    /// Every ttl that lockkit accepts, to the millisecond.
    pub const ANY: Self =
        Self { min: MIN_TTL, max: MAX_TTL, granularity: Duration::from_millis(1) };
}

/// In which order waiters are granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fairness {
    /// In the order in which the store queued them, among lockkit's clients.
    Fifo,
    /// Each is granted at some time; the order is not promised.
    Eventual,
}

/// How a waiter learns that the name is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum WakeUp {
    /// The store, or the kernel, tells it.
    Push,
    /// It asks again after at most this long.
    Poll(Duration),
}

/// What keeps a name taken until the end of [`hold_at_least`](crate::Lock::hold_at_least), once its guard has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MinimumHold {
    /// The store, whatever becomes of the holder's process ([`Lease::release_after`](crate::Lease::release_after)).
    ByStore,
    /// The holder's process: if it ends before, the name is free as after any crash (C11).
    ByHolder,
}

/// The events after which the next token of a name is still greater than every earlier one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools)] // one claim for each event: they are independent
pub struct TokenScope {
    /// A release.
    pub release: bool,
    /// The end of a lease by its ttl.
    pub expiry: bool,
    /// The crash of the holder's process.
    pub holder_crash: bool,
    /// A restart of the server, or of the machine where there is no server.
    pub server_restart: bool,
    /// A failover to another server.
    pub failover: bool,
    /// The loss of what the store kept for the name.
    pub data_loss: bool,
}

impl fmt::Display for Exclusion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Consensus => "consensus",
            Self::QuorumAndClocks => "a quorum and clocks",
            Self::OneServer => "one server",
            Self::OneHost => "one host",
            Self::OneProcess => "one process",
        })
    }
}

impl fmt::Display for Expiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ttl(range) => write!(f, "after the ttl ({range})"),
            Self::Session(range) => write!(f, "after the ttl of its session ({range})"),
            Self::Connection(range) => {
                write!(f, "after the ttl of its session ({range}), or when its connection breaks")
            }
            Self::HolderDeath => f.write_str("when its process ends"),
        }
    }
}

impl fmt::Display for TtlRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [min, max, step] = [self.min, self.max, self.granularity].map(words);
        write!(f, "{min} to {max}, in steps of {step}")
    }
}

/// A duration as people write it: whole hours and minutes, else what its debug form says.
fn words(duration: Duration) -> String {
    match (duration.as_secs(), duration.subsec_nanos()) {
        (seconds @ 1.., 0) if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        (seconds @ 1.., 0) if seconds % 60 == 0 => format!("{} min", seconds / 60),
        (seconds @ 1.., 0) => format!("{seconds} s"),
        (0, nanos) if nanos % 1_000_000 == 0 => format!("{} ms", nanos / 1_000_000),
        _ => format!("{duration:?}"),
    }
}

impl fmt::Display for Fairness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fifo => "first come, first served",
            Self::Eventual => "some order",
        })
    }
}

impl fmt::Display for WakeUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push => f.write_str("told at once"),
            Self::Poll(every) => write!(f, "after {} at most", words(*every)),
        }
    }
}

impl fmt::Display for MinimumHold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ByStore => "the store",
            Self::ByHolder => "the holder's process",
        })
    }
}

impl fmt::Display for TokenScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { release, expiry, holder_crash, server_restart, failover, data_loss } = *self;
        let events = [
            (release, "a release"),
            (expiry, "an expiry"),
            (holder_crash, "the holder's crash"),
            (server_restart, "a restart"),
            (failover, "a failover"),
            (data_loss, "a loss of data"),
        ];
        let survived: Vec<_> =
            events.iter().filter(|(survives, _)| *survives).map(|(_, event)| *event).collect();
        f.write_str(if survived.is_empty() { "nothing" } else { "" })?;
        f.write_str(&survived.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_shown_in_words() {
        let range = TtlRange { min: Duration::from_secs(2), ..TtlRange::ANY };
        let session = Expiry::Session(range).to_string();
        assert_eq!(session, "after the ttl of its session (2 s to 24 h, in steps of 1 ms)");
        let connection = Expiry::Connection(range).to_string();
        assert_eq!(connection, format!("{session}, or when its connection breaks"));
        let every = WakeUp::Poll(Duration::from_millis(10)).to_string();
        assert_eq!(every, "after 10 ms at most");
        let least = Guarantees::new(Exclusion::OneHost, Expiry::HolderDeath).token_survives;
        assert_eq!(least.to_string(), "a release, an expiry, the holder's crash");
        assert_eq!(words(Duration::from_micros(1500)), "1.5ms");
        assert_eq!(words(Duration::ZERO), "0 ms");
    }
}
