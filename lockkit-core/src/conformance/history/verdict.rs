//! What the check of a history finds.

use std::fmt;
use std::time::Duration;

use super::event::AttemptId;
use crate::{FencingToken, Instant, LockName};

/// What is in a history without violations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Summary {
    /// How many names were asked for.
    pub names: usize,
    /// How often somebody asked.
    pub attempts: usize,
    /// How many attempts were granted.
    pub grants: usize,
    /// How many accesses the fenced resources accepted.
    pub accepted: usize,
    /// How many they refused.
    pub refused: usize,
    /// How many accesses have an outcome that nobody knows.
    pub unknown: usize,
    /// The shortest time from the last belief of one holder to the next grant of the name.
    pub smallest_gap: Option<Duration>,
}

/// What a store that keeps the contract cannot have led to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Two believed at the same time that they hold (C1, C5).
    #[error("{name:?}: {} and {} believed at the same time, for {by:?}", who(first), who(second))]
    Overlap {
        /// What they believed to hold.
        name: LockName,
        /// The one with the smaller token.
        first: (AttemptId, FencingToken),
        /// The other one.
        second: (AttemptId, FencingToken),
        /// For how long.
        by: Duration,
    },
    /// Two grants have one token (C4).
    #[error("{name:?}: token {token} was granted twice")]
    DuplicateToken {
        /// The name.
        name: LockName,
        /// The token.
        token: FencingToken,
    },
    /// A later grant has a smaller token (C4).
    #[error("{name:?}: {} came before {}, and its token is greater", who(first), who(second))]
    TokenAgainstTime {
        /// The name.
        name: LockName,
        /// The earlier grant.
        first: (AttemptId, FencingToken),
        /// The later one.
        second: (AttemptId, FencingToken),
    },
    /// An attempt was granted after it had given up, or twice (C9).
    #[error("{name:?}: attempt {attempt} was granted at {at:?}, after it had ended")]
    LateGrant {
        /// The name.
        name: LockName,
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Instant,
    },
    /// An attempt released what it did not hold (C6).
    #[error("{name:?}: attempt {attempt} released at {at:?} what it did not hold")]
    GhostRelease {
        /// The name.
        name: LockName,
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Instant,
    },
    /// A holder believed again after its loss or release (C7).
    #[error("{name:?}: attempt {attempt} believed at {at:?}, after it had lost or released")]
    BeliefAfterLoss {
        /// The name.
        name: LockName,
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Instant,
    },
    /// Two updates are based on one version: the first of them is lost (C14).
    #[error("{name:?}: {} and {} both wrote over version {version}", who(first), who(second))]
    LostUpdate {
        /// The name.
        name: LockName,
        /// The version that both had seen.
        version: u64,
        /// The one.
        first: (AttemptId, FencingToken),
        /// The other one.
        second: (AttemptId, FencingToken),
    },
    /// A version was seen that nobody wrote, or whose write was refused (C14).
    #[error("{name:?}: attempt {attempt} saw version {version}, which nobody wrote")]
    SeenFromNowhere {
        /// The name.
        name: LockName,
        /// The attempt.
        attempt: AttemptId,
        /// The version.
        version: u64,
    },
    /// Two writes write one version: a mistake of whoever recorded.
    #[error("{name:?}: version {version} is not the own version of one write")]
    VersionTwice {
        /// The name.
        name: LockName,
        /// The version.
        version: u64,
    },
    /// The resource accepted a token after a newer one (C14).
    #[error("{name:?}: token {token} of {attempt} was accepted after token {after}")]
    FenceWentBack {
        /// The name.
        name: LockName,
        /// The attempt.
        attempt: AttemptId,
        /// Its token.
        token: FencingToken,
        /// The newer one.
        after: FencingToken,
    },
    /// The resource refused a token, and no newer one can have come before (C14).
    #[error("{name:?}: token {token} of {attempt} was refused, and was not stale")]
    WrongRefusal {
        /// The name.
        name: LockName,
        /// The attempt.
        attempt: AttemptId,
        /// Its token.
        token: FencingToken,
    },
    /// An access saw what was not there yet, or no longer (C14).
    #[error("{name:?}: the access of {attempt} at {at:?} is out of order with what was seen")]
    AccessAgainstTime {
        /// The name.
        name: LockName,
        /// The attempt.
        attempt: AttemptId,
        /// When it was called.
        at: Instant,
    },
    /// Events that no attempt can have led to: a mistake of whoever recorded.
    #[error("attempt {attempt}: an event at {at:?} does not follow from those before it")]
    OutOfOrder {
        /// The attempt.
        attempt: AttemptId,
        /// When.
        at: Instant,
    },
}

/// All that was found: the first fault of each name, and every event that contradicts another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violations(pub Vec<Violation>);

impl fmt::Display for Violations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 10;
        for (number, violation) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{violation}", if number == 0 { "" } else { "; " })?;
        }
        match self.0.len() {
            all if all > SHOWN => write!(f, "; and {} more", all - SHOWN),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Violations {}

fn who((attempt, token): &(AttemptId, FencingToken)) -> String {
    format!("attempt {attempt} with token {token}")
}
