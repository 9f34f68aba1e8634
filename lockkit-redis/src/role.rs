//! What is known of the server's role: whether the address leads to a primary.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;

/// The pause before the second connection in a row that follows a replica's refusal.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

/// ```text
/// primary --a replica refuses--> replica --a request is served--> primary
/// ```
///
/// While the address leads to a replica, each connection is given up at its first refusal, and the next
/// one is made after a pause, the first at once. Each change, and each connection that follows a silent one, is told to
/// the subscription, which is made again: it may listen at the server that is no primary any more.
#[derive(Debug, Default)]
pub(crate) struct Role {
    /// How many connections in a row led to a replica.
    refused: AtomicU64,
    /// The last of them.
    generation: AtomicU64,
    /// Whether the last connection was given up for its silence.
    silent: AtomicBool,
    changes: watch::Sender<u64>,
}

impl Role {
    /// Notes that the connection of this generation leads to a replica.
    pub(crate) fn is_replica(&self, generation: u64) {
        // Each call under way on it says so.
        if self.generation.fetch_max(generation, Ordering::SeqCst) < generation {
            self.refused.fetch_add(1, Ordering::SeqCst);
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Notes that a request was served.
    pub(crate) fn is_primary(&self) {
        if self.refused.load(Ordering::Relaxed) > 0 && self.refused.swap(0, Ordering::SeqCst) > 0 {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Notes that a connection was given up for its silence.
    pub(crate) fn is_silent(&self) {
        self.silent.store(true, Ordering::SeqCst);
    }

    /// Notes that a connection was made: after a silent one the address may lead to another server.
    pub(crate) fn is_made(&self) {
        if self.silent.swap(false, Ordering::SeqCst) {
            self.changes.send_modify(|changes| *changes += 1);
        }
    }

    /// Pauses before the next connection.
    pub(crate) async fn pause(&self) {
        tokio::time::sleep(self.next_pause()).await;
    }

    fn next_pause(&self) -> Duration {
        let Some(doublings) = self.refused.load(Ordering::SeqCst).checked_sub(2) else {
            return Duration::ZERO;
        };
        FIRST_PAUSE.saturating_mul(1 << doublings.min(10)).min(LONGEST_PAUSE)
    }

    /// Hears of every change from now on.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_once_and_only_the_first_connection_is_made_at_once() {
        let role = Role::default();
        let changes = role.changes();
        role.is_primary();
        assert_eq!(*changes.borrow(), 0);
        let mut pauses = Vec::new();
        for generation in 1..=8 {
            role.is_replica(generation);
            role.is_replica(generation);
            role.is_replica(generation - 1);
            assert_eq!(*changes.borrow(), generation);
            pauses.push(role.next_pause().as_millis());
        }
        assert_eq!(pauses, [0, 25, 50, 100, 200, 400, 400, 400]);
        role.is_primary();
        role.is_primary();
        assert_eq!(*changes.borrow(), 9);
    }
}
