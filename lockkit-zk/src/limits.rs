//! How long a session the servers grant now.
//!
//! The driver reads that once for each session. A server with other limits shortens a session as it
//! reopens it, and the driver keeps that part of the answer to itself. So short clients of our own
//! ask each server, after each reconnection.

use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt};
use lockkit_core::kit::LONGEST_CALL;
use lockkit_core::{Clock, Finding, Instant, Severity};
use tokio::sync::Mutex;

use crate::connect::Connector;

/// More than any server grants: what it grants instead is its maximum.
pub(crate) const MOST: Duration = Duration::from_secs(24 * 3600);
/// The least that servers grant unless they are told otherwise, in ticks.
const LEAST: u32 = 2;
/// Clients spread over no more than this, nor than a quarter of a tick.
const SPREAD: Duration = Duration::from_millis(500);
/// So long, or as long again as the first server took, the others have for their answers: one that
/// is down or silent holds no session.
const OTHERS: Duration = Duration::from_millis(500);

/// What the servers of one configuration grant; asked once for all sessions of a client.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) connector: Arc<Connector>,
    clock: Clock,
    learnt: Mutex<Option<Learnt>>,
}

/// What the servers answered when they were asked last.
#[derive(Debug)]
struct Learnt {
    asked: Instant,
    most: Option<Duration>,
}

impl Limits {
    pub(crate) fn new(connector: Arc<Connector>, clock: Clock) -> Self {
        Self { connector, clock, learnt: Mutex::default() }
    }

    pub(crate) fn tick(&self) -> Duration {
        self.connector.config.tick
    }

    /// What each server grants that does not say what it does.
    pub(crate) fn least(&self) -> Duration {
        self.connector.config.tick * LEAST
    }

    /// The longest session that all servers grant which answer, asked after `since`; `None`: none
    /// answers. `id` is the session that asks: by it clients spread over an eighth of the outage that
    /// they come from, so that all of an ensemble's do not ask at once after its restart.
    pub(crate) async fn most(&self, since: Instant, id: i64, outage: Duration) -> Option<Duration> {
        let mut learnt = self.learnt.lock().await;
        if let Some(Learnt { asked, most }) = learnt.as_ref()
            && *asked >= since
        {
            return *most;
        }
        let all = (outage / 8).min(self.connector.config.tick / 4).min(SPREAD);
        self.clock.sleep(spread(all, id)).await;
        let asked = self.clock.now();
        let most = self.each(MOST).await.into_iter().map(|(_, granted)| granted).min();
        *learnt = Some(Learnt { asked, most });
        most
    }

    /// What each server grants for a wish of this timeout, of those that answer in time.
    async fn each(&self, wish: Duration) -> Vec<(String, Duration)> {
        let began = self.clock.now();
        let mut ends_at = began.saturating_add(LONGEST_CALL);
        let servers = self.connector.config.addresses().into_iter();
        let mut asked: FuturesUnordered<_> = servers.map(|server| self.one(server, wish)).collect();
        let mut granted = Vec::new();
        loop {
            let answer = tokio::select! {
                biased;
                Some(answer) = asked.next() => answer,
                () = self.clock.sleep_until(ends_at), if !asked.is_empty() => return granted,
                else => return granted,
            };
            let Some(answer) = answer else { continue };
            if granted.is_empty() {
                let took = self.clock.now().saturating_since(began);
                ends_at = ends_at.min(began.saturating_add((took * 2).max(OTHERS)));
            }
            granted.push(answer);
        }
    }

    async fn one(&self, server: String, wish: Duration) -> Option<(String, Duration)> {
        let client = self.connector.connect_once(&server, wish).ok()?.await.ok()?;
        // The session is closed with the client.
        Some((server, client.session_timeout()))
    }

    /// Asks all servers as a client connects, of which one has granted `most`: the longest session
    /// that all grant. Warns of servers that differ, and of another tick than was configured.
    pub(crate) async fn compare(&self, most: Duration) -> Duration {
        let (granted, mismatches) = self.look(Some(most)).await;
        mismatches.iter().for_each(Mismatch::warn);
        granted.unwrap_or(most)
    }

    /// The longest session that all servers grant which answer, and what is amiss with their limits. `most` is what
    /// one of them has granted already.
    pub(crate) async fn look(&self, most: Option<Duration>) -> (Option<Duration>, Vec<Mismatch>) {
        let servers = self.connector.config.addresses();
        let are_asked = most.is_none() || servers.len() > 1;
        let others = async { if are_asked { self.each(MOST).await } else { Vec::new() } };
        // A wish of one tick is raised to the servers' least.
        let least = async {
            let asked = self.one(servers.first()?.clone(), self.connector.config.tick);
            Some(tokio::time::timeout(OTHERS, asked).await.ok()??.1)
        };
        let (others, least) = tokio::join!(others, least);
        let granted = || most.into_iter().chain(others.iter().map(|(_, granted)| *granted));
        let shortest = granted().min();
        let differ = granted().max() != shortest;
        let tick = least.filter(|least| *least != self.least());
        let tick =
            tick.map(|least| Mismatch::Tick { configured: self.connector.config.tick, least });
        let differ = differ.then_some(Mismatch::Sessions { granted: others });
        (shortest, differ.into_iter().chain(tick).collect())
    }
}

/// What is amiss with the servers' limits on sessions.
#[derive(Debug)]
pub(crate) enum Mismatch {
    /// They are not the same.
    Sessions { granted: Vec<(String, Duration)> },
    /// The shortest session is not two of the configured ticks.
    Tick { configured: Duration, least: Duration },
}

impl Mismatch {
    fn warn(&self) {
        let Finding { what, remedy, .. } = self.finding();
        match self {
            Self::Sessions { granted } => tracing::warn!(
                target: "lockkit", event = "session_limits_differ", servers = ?granted,
                "{what}: {remedy}",
            ),
            Self::Tick { configured, least } => tracing::warn!(
                target: "lockkit", event = "tick_differs", tick = ?configured, ?least,
                "{what}: {remedy}",
            ),
        }
    }

    pub(crate) fn finding(&self) -> Finding {
        match self {
            Self::Sessions { granted } => {
                let each = granted.iter().map(|(server, granted)| format!("{server} {granted:?}"));
                Finding::new(
                    Severity::Warning,
                    format!(
                        "servers of one ensemble grant different sessions ({})",
                        each.collect::<Vec<_>>().join(", ")
                    ),
                    "give all of them the same tickTime, minSessionTimeout and maxSessionTimeout",
                )
            }
            Self::Tick { configured, least } => {
                let (severity, so) = if *least > *configured * LEAST {
                    (Severity::Danger, ": deadlines may come too late")
                } else {
                    (Severity::Warning, "")
                };
                Finding::new(
                    severity,
                    format!(
                        "the servers' shortest session is {least:?}, not two of the configured \
                         ticks of {configured:?}{so}"
                    ),
                    "set `tick` to their tickTime, and leave their minSessionTimeout at two of it",
                )
            }
        }
    }
}

/// A part of `all` that differs from session to session.
fn spread(all: Duration, id: i64) -> Duration {
    let [.., a, b] = id.wrapping_mul(0x9e37_79b9_7f4a_7c15_u64.cast_signed()).to_le_bytes();
    all * u32::from(u16::from_le_bytes([a, b])) / u32::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_that_follow_each_other_are_spread_over_the_whole_time() {
        const ALL: Duration = Duration::from_millis(500);
        let first = 0x0100_0123_4567_0000_i64;
        let mut quarters = [0; 4];
        for id in first..first + 400 {
            let at = spread(ALL, id);
            assert!(at <= ALL);
            quarters[usize::try_from(at.as_millis() / 126).expect("small")] += 1;
        }
        assert!(quarters.iter().all(|count| *count > 60), "{quarters:?}");
    }
}
