//! A case: what it is called, what it is tied to, what it needs, and its body.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::context::Context;
use super::fixture::{Fixture, Time};
use super::hook::Hook;
use super::outcome::Outcome;
use super::stop::Verdict;
use crate::{Expiry, Fairness, Guarantees, Kind, LockProvider, MinimumHold, WakeUp};

/// One case of the suite.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Case {
    /// Its stable id, for example `AT-01`.
    pub id: &'static str,
    /// The challenge it belongs to.
    pub challenge: Challenge,
    /// The clause of the [`contract`](crate::contract) that it checks, for example `C1`.
    pub clause: &'static str,
    /// What holds, as a sentence.
    pub sentence: &'static str,
    pub(super) needs: &'static [Need],
    pub(super) limit: Duration,
    pub(super) virtual_limit: Option<Duration>,
    pub(super) least_operations: u64,
    pub(super) least_faults: u64,
    pub(super) body: Body,
}

pub(super) type Body = fn(Context) -> Pin<Box<dyn Future<Output = Verdict> + Send>>;

/// The six challenges of distributed locking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Challenge {
    /// An operation happens whole or not at all, whoever drops it and whenever.
    Atomicity,
    /// Who waits is granted in the end, and who dies frees the name.
    Liveness,
    /// At most one holds, and knows when it no longer does.
    Safety,
    /// Nobody overtakes, and nobody starves.
    Fairness,
    /// Hand-offs are prompt, and nothing grows.
    Performance,
    /// Two sides that each believe they hold do no harm.
    SplitBrain,
}

/// How deep a case goes: what it disturbs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Level {
    /// 1: the public API and the traits, with clients that fall silent or leave at any point.
    Api,
    /// 2: virtual time, in which hours pass at once.
    Virtual,
    /// 3: the network between a client and its store.
    Link,
    /// 4: processes and servers that are killed, paused and started again.
    Processes,
}

/// What a case rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Leases end by a ttl, their own or their session's.
    Ttl,
    /// Each lease ends by a ttl of its own, which nothing but its renewal extends.
    LeaseTtl,
    /// Leases end with their holder only.
    NoTtl,
    /// A lease outlives the connections of its client, for as long as its ttl.
    Reconnects,
    Fifo,
    /// Waiters are told of a release.
    Push,
    /// The order of tokens survives the loss of the name's data.
    DataLoss,
    /// The order of tokens survives a restart of the server.
    ServerRestart,
    Operator,
    /// Tokens have floors, and grants can be raised.
    Raises,
    /// Shared locks are offered.
    Shared,
    /// Semaphores are offered.
    Counted,
    /// The store frees a name by itself after its minimum hold.
    HoldByStore,
    Hook(Hook),
    /// Threads, processes or a blocked runtime.
    RealTime,
    /// Hours that pass at once.
    VirtualTime,
}

impl Case {
    pub(super) const fn new(
        id: &'static str,
        challenge: Challenge,
        clause: &'static str,
        sentence: &'static str,
        body: Body,
    ) -> Self {
        let limit = Duration::from_secs(30);
        Self {
            id,
            challenge,
            clause,
            sentence,
            needs: &[],
            limit,
            virtual_limit: None,
            least_operations: 0,
            least_faults: 0,
            body,
        }
    }

    pub(super) const fn needs(mut self, needs: &'static [Need]) -> Self {
        self.needs = needs;
        self
    }

    /// Allows the case more than the usual time, for a store with the shortest ttls.
    pub(super) const fn within(mut self, seconds: u64) -> Self {
        self.limit = Duration::from_secs(seconds);
        self
    }

    /// In virtual time allows the case this much, in which clients renew or wait for hours.
    pub(super) const fn within_virtual(mut self, limit: Duration) -> Self {
        self.virtual_limit = Some(limit);
        self
    }

    /// Its own limit in this time.
    pub(super) fn limit_in(&self, time: Time) -> Duration {
        self.virtual_limit.filter(|_| time == Time::Virtual).unwrap_or(self.limit)
    }

    /// Fails the case if its disturbed clients did fewer operations: it would prove nothing.
    pub(super) const fn operations(mut self, least: u64) -> Self {
        self.least_operations = least;
        self
    }

    /// Fails the case if it made fewer faults: it would prove nothing.
    pub(super) const fn faults(mut self, least: u64) -> Self {
        self.least_faults = least;
        self
    }

    /// The level that it belongs to.
    pub fn level(&self) -> Level {
        let level = |need: &Need| match need {
            Need::VirtualTime => Level::Virtual,
            Need::Hook(Hook::Link) => Level::Link,
            Need::Hook(Hook::Processes | Hook::Server | Hook::ServerLoss | Hook::ReadOnly) => {
                Level::Processes
            }
            _ => Level::Api,
        };
        self.needs.iter().map(level).max().unwrap_or(Level::Api)
    }

    /// Why this case does not run here; `None`: it does.
    pub(super) fn barred(
        &self,
        fixture: &dyn Fixture,
        provider: &dyn LockProvider,
    ) -> Option<Outcome> {
        let guarantees = provider.guarantees();
        self.needs.iter().find_map(|need| need.barred(fixture, provider, &guarantees))
    }
}

impl Need {
    fn barred(
        self,
        fixture: &dyn Fixture,
        provider: &dyn LockProvider,
        guarantees: &Guarantees,
    ) -> Option<Outcome> {
        let claim = |holds: bool, text: &str| (!holds).then(|| Outcome::NotClaimed(text.into()));
        match self {
            Self::Ttl => claim(guarantees.expiry.range().is_some(), "C11: leases end by a ttl"),
            Self::LeaseTtl => claim(
                matches!(guarantees.expiry, Expiry::Ttl(_)),
                "C11: each lease ends by a ttl of its own",
            ),
            Self::NoTtl => {
                claim(guarantees.expiry == Expiry::HolderDeath, "C11: leases do not end by a ttl")
            }
            Self::Reconnects => claim(
                matches!(guarantees.expiry, Expiry::Ttl(_) | Expiry::Session(_)),
                "C12: a lease outlives its client's connections",
            ),
            Self::Shared => {
                claim(guarantees.kinds.contains(&Kind::Shared), "C1: locks can be shared")
            }
            Self::Counted => {
                claim(guarantees.kinds.contains(&Kind::Counted), "C1: there are semaphores")
            }
            Self::HoldByStore => claim(
                guarantees.minimum_hold == MinimumHold::ByStore,
                "C11: the store itself keeps minimum holds",
            ),
            Self::Raises => claim(guarantees.raises_tokens, "C4: a grant's token can be raised"),
            Self::Fifo => claim(guarantees.fairness == Fairness::Fifo, "C10: fairness is Fifo"),
            Self::Push => claim(guarantees.wake_up == WakeUp::Push, "C8: waiters are told"),
            Self::DataLoss => {
                claim(guarantees.token_survives.data_loss, "C4: tokens survive a data loss")
            }
            Self::ServerRestart => claim(
                guarantees.token_survives.server_restart,
                "C4: tokens survive a restart of the server",
            ),
            Self::Operator => claim(provider.operator().is_some(), "C16: there is an operator"),
            Self::Hook(hook) => (!fixture.hooks().contains(&hook))
                .then(|| Outcome::NotReached(format!("the fixture lacks {hook}"))),
            Self::RealTime => (fixture.time() != Time::Real)
                .then(|| Outcome::NotReached("it needs real time, and time is virtual".into())),
            Self::VirtualTime => (fixture.time() != Time::Virtual)
                .then(|| Outcome::NotReached("it needs virtual time, and time is real".into())),
        }
    }
}

impl Challenge {
    /// All six, in the order of the report.
    pub const ALL: [Self; 6] = [
        Self::Atomicity,
        Self::Liveness,
        Self::Safety,
        Self::Fairness,
        Self::Performance,
        Self::SplitBrain,
    ];

    /// Its name as test names show it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Atomicity => "atomicity",
            Self::Liveness => "liveness",
            Self::Safety => "safety",
            Self::Fairness => "fairness",
            Self::Performance => "performance",
            Self::SplitBrain => "split-brain",
        }
    }
}

impl fmt::Display for Challenge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Level {
    /// All that the suite has cases for.
    pub const ALL: [Self; 4] = [Self::Api, Self::Virtual, Self::Link, Self::Processes];

    /// Its number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Api => 1,
            Self::Virtual => 2,
            Self::Link => 3,
            Self::Processes => 4,
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Api => "the API and the traits",
            Self::Virtual => "virtual time",
            Self::Link => "the link",
            Self::Processes => "processes and servers",
        };
        write!(f, "{} {what}", self.number())
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}: {}", self.id, self.challenge, self.clause, self.sentence)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::conformance::cases::cases;

    #[test]
    fn each_case_has_an_id_of_its_own() {
        let mut seen = HashSet::new();
        assert_eq!(cases().iter().find(|case| !seen.insert(case.id)).map(|case| case.id), None);
    }

    #[test]
    fn each_case_checks_a_clause_of_the_contract_and_each_clause_has_a_case() {
        let contract = include_str!("../../CONTRACT.md");
        for case in cases() {
            assert!(contract.contains(&format!("| **{} ", case.clause)), "{case}");
        }
        for clause in (1..=16).map(|number| format!("C{number}")) {
            assert!(cases().iter().any(|case| case.clause == clause), "no case checks {clause}");
        }
    }

    #[test]
    fn each_challenge_has_its_cases() {
        for challenge in Challenge::ALL {
            assert!(cases().iter().filter(|case| case.challenge == challenge).count() >= 3);
        }
    }
}
