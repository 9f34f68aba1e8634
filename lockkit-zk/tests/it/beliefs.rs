//! Every way in which the servers' operator ends a grant early, and for how long two clients then
//! believe at once, beside what is declared. The table in `docs/zookeeper.md` is what this prints.

mod place;

use std::time::Duration;

use crate::common::{BUSY, TICK, ms};
use lockkit_core::LossReason;
use lockkit_zk::ZkProvider;
use place::{Place, Seen};
use testbed::{in_time, timing};

/// So many ways run side by side, and so many of their servers start so.
const AT_ONCE: usize = 5;
const STARTS_AT_ONCE: usize = 2;
/// Longer than servers take to come back on a busy machine, and to elect a leader.
const LONG: Duration = ms(8_000);
const TTL: Duration = ms(3_000);
/// A push, or the driver's first try after its connection was closed, on a busy machine.
const TOLD: Duration = ms(500);
/// What the servers' tick becomes.
const LONGER_TICK: Duration = ms(2_000);

const DELETED: &str = "deletes the holder's node, or ends its session";
const RESTORED: &str = "a restore of the servers from an older snapshot";

/// What an operator does to the servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    EndTheSession,
    DeleteTheNode,
    DeleteTheNodeUnheard,
    CutUntilItExpires,
    RestartQuickly,
    RestartAfterATimeout,
    RestartWithShorterSessions,
    RestartWithShorterSessionsUnheard,
    RestartWithALongerTick,
    KillTheLeader,
    RestoreWithTheGrant,
    RestoreFromBeforeTheGrant,
    RestoreWithTheSession,
    LoseAllData,
}

const ALL: [Way; 14] = [
    Way::EndTheSession,
    Way::DeleteTheNode,
    Way::DeleteTheNodeUnheard,
    Way::CutUntilItExpires,
    Way::RestartQuickly,
    Way::RestartAfterATimeout,
    Way::RestartWithShorterSessions,
    Way::RestartWithShorterSessionsUnheard,
    Way::RestartWithALongerTick,
    Way::KillTheLeader,
    Way::RestoreWithTheGrant,
    Way::RestoreFromBeforeTheGrant,
    Way::RestoreWithTheSession,
    Way::LoseAllData,
];

impl Way {
    /// As the table calls it.
    const fn name(self) -> &'static str {
        match self {
            Self::EndTheSession => "the session is ended by another client that knows its password",
            Self::DeleteTheNode => "the holder's node is deleted",
            Self::DeleteTheNodeUnheard => "the same, while the holder hears nothing of the servers",
            Self::CutUntilItExpires => "the connection is cut until the session expires",
            Self::RestartQuickly => "the server is killed and restarted at once",
            Self::RestartAfterATimeout => {
                "the server is killed and restarted after the session's timeout"
            }
            Self::RestartWithShorterSessions => {
                "a restart with a smaller `maxSessionTimeout`, then the connection is cut"
            }
            Self::RestartWithShorterSessionsUnheard => {
                "the same, while the holder hears nothing of the servers from the restart on"
            }
            Self::RestartWithALongerTick => {
                "a restart of three members with a `tickTime` of 2 s, where clients are told of \
                 0.5 s; then the holder's member is cut off from the others"
            }
            Self::KillTheLeader => "the leader of three members is killed",
            Self::RestoreWithTheGrant => "a restore from a backup that has the grant",
            Self::RestoreFromBeforeTheGrant => "a restore from a backup without the grant",
            Self::RestoreWithTheSession => "the same, where the backup has the holder's session",
            Self::LoseAllData => "a restart without data",
        }
    }

    /// For how long both may believe, and what in `guarantees()` says so.
    fn declared(self) -> (Duration, Option<&'static str>) {
        match self {
            Self::EndTheSession | Self::DeleteTheNode => (TOLD, Some(DELETED)),
            // Told by its deadline alone.
            Self::DeleteTheNodeUnheard => (self.ttl(), Some(DELETED)),
            Self::RestartWithShorterSessionsUnheard => {
                (self.ttl(), Some("session limits that are lowered by a restart of the servers"))
            }
            Self::RestartWithALongerTick => {
                (LONGER_TICK - TICK, Some("tickTime is longer than the tick that was configured"))
            }
            // The servers are older than what their clients have seen, and refuse them.
            Self::RestoreFromBeforeTheGrant | Self::RestoreWithTheSession => {
                (self.ttl(), Some(RESTORED))
            }
            Self::LoseAllData => (self.ttl(), Some("the loss of all data")),
            Self::CutUntilItExpires
            | Self::RestartQuickly
            | Self::RestartAfterATimeout
            | Self::RestartWithShorterSessions
            | Self::KillTheLeader
            | Self::RestoreWithTheGrant => (Duration::ZERO, None),
        }
    }

    /// The ttl of the grant.
    const fn ttl(self) -> Duration {
        match self {
            Self::EndTheSession
            | Self::DeleteTheNode
            | Self::DeleteTheNodeUnheard
            | Self::CutUntilItExpires
            | Self::RestartAfterATimeout => TTL,
            _ => LONG,
        }
    }

    /// Whether the holder may hold on.
    const fn may_be_survived(self) -> bool {
        matches!(self, Self::RestartQuickly | Self::KillTheLeader | Self::RestoreWithTheGrant)
    }

    const fn has_three_members(self) -> bool {
        matches!(self, Self::RestartWithALongerTick | Self::KillTheLeader)
    }

    /// Whether a client that is new can be granted the name before the waiter.
    const fn loses_data(self) -> bool {
        matches!(
            self,
            Self::RestoreWithTheGrant
                | Self::RestoreFromBeforeTheGrant
                | Self::RestoreWithTheSession
                | Self::LoseAllData
        )
    }
}

const fn told(lost: Option<LossReason>) -> &'static str {
    match lost {
        None => "no: it holds on",
        Some(LossReason::Expired) => "by its deadline",
        Some(_) => "yes",
    }
}

/// What `work` gives for each way, side by side: each in a thread of its own.
fn each<T: Send + 'static, U: Send + 'static>(
    all: Vec<T>,
    work: impl Fn(T) -> U + Send + Copy + 'static,
) -> Vec<U> {
    let running: Vec<_> =
        all.into_iter().map(|one| std::thread::spawn(move || work(one))).collect();
    running.into_iter().map(|thread| thread.join().unwrap()).collect()
}

#[test]
fn two_believe_at_once_for_no_longer_than_declared_whatever_ends_a_grant_early() {
    let _busy = BUSY.blocking_lock();
    let began = timing::start();
    let rows = ALL.chunks(AT_ONCE).flat_map(|ways| {
        // All servers run before the first one is harmed: a start takes much of a machine.
        let pairs = ways.chunks(STARTS_AT_ONCE);
        let places = pairs.flat_map(|ways| each(ways.to_vec(), Place::set_up)).collect();
        each(places, Place::both_believed)
    });
    let rows: Vec<_> = rows.collect();
    println!("| way of ending | the holder is told | both believed | declared, at most |");
    println!("|---|---|---|---|");
    let breaks_on = ZkProvider::declared().belief_breaks_on;
    for (way, Seen { both, lost }) in ALL.into_iter().zip(rows) {
        let (most, words) = way.declared();
        let (name, told) = (way.name(), told(lost));
        println!("| {name} | {told} | {} ms | {} ms |", both.as_millis(), most.as_millis());
        if let Some(words) = words {
            assert!(breaks_on.iter().any(|one| one.contains(words)), "{way:?}: {words}");
        } else if way == Way::RestartWithShorterSessions {
            // A client whose runtime stands still may hear of the new limit too late: that is declared.
            in_time!(began, both.is_zero(), "{way:?}: both believed for {both:?}");
        } else {
            assert_eq!(both, Duration::ZERO, "{way:?}");
        }
        in_time!(began, both <= most, "{way:?}: both believed for {both:?}, {most:?} declared");
    }
}
