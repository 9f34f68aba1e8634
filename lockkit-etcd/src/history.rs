//! What is known of the cluster's history: its newest revision, and whether it went back.
//!
//! A cluster that is restored from a backup takes its revision back, and brings back leases and keys
//! that had ended. An answer with a revision lower than one that was known before the request was
//! sent proves it, if the answer is linearizable: a transaction or a read. The headers of watches,
//! keep-alives and of a member's status prove nothing: a member that lags behind has a lower one.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

/// What an operator should do once the history went back.
const REMEDY: &str = "the cluster was restored from an older backup: its revisions, which are the \
    tokens, repeat. Connect every client with a token_base that is greater than any token so far";

#[derive(Debug, Default)]
pub(crate) struct History {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// How often it went back.
    age: u64,
    /// The newest revision that a linearizable answer of this age had.
    known: i64,
}

/// What was known when a request was sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    age: u64,
    known: i64,
}

impl History {
    /// How often it went back: what belongs to an earlier age has ended.
    pub(crate) fn age(&self) -> u64 {
        self.state().age
    }

    /// Taken before a request is sent.
    pub(crate) fn moment(&self) -> Moment {
        let state = self.state();
        Moment { age: state.age, known: state.known }
    }

    /// Takes in the revision of a linearizable answer; whether it proves that the history went back.
    ///
    /// Only what was known at the sending counts, because answers overtake each other.
    pub(crate) fn heard(&self, sent: Moment, now: i64) -> bool {
        {
            let mut state = self.state();
            // An answer that comes after a new age has begun may be of either one.
            if sent.age != state.age {
                return false;
            }
            if now >= sent.known {
                state.known = state.known.max(now);
                return false;
            }
        }
        self.went_back(sent.age, sent.known, now)
    }

    /// What this answer shows was never so before `sent`.
    pub(crate) fn fell_back(&self, sent: Moment, now: i64) -> bool {
        self.went_back(sent.age, sent.known, now)
    }

    /// The history that had `known` has only `now`: a new age begins, unless one has since `age`.
    pub(crate) fn went_back(&self, age: u64, known: i64, now: i64) -> bool {
        {
            let mut state = self.state();
            if state.age != age {
                return false;
            }
            *state = State { age: age + 1, known: now };
        }
        tracing::warn!(target: "lockkit", event = "history_went_back", known, now, "{REMEDY}");
        self.changed.notify_waiters();
        true
    }

    /// Completes when this age is over; level-triggered.
    pub(crate) async fn over(&self, age: u64) {
        loop {
            let changed = self.changed.notified();
            if self.age() != age {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_revision_below_one_known_before_the_sending_begins_a_new_age() {
        let history = History::default();
        let first = history.moment();
        assert!(!history.heard(first, 10));
        // Sent before 10 was known, and overtaken.
        assert!(!history.heard(first, 7));
        let second = history.moment();
        assert!(!history.heard(second, 10));
        assert!(history.heard(second, 9));
        assert_eq!(history.age(), 1);
        // Sent in the age before: it neither proves nor teaches anything.
        assert!(!history.heard(second, 3));
        assert!(!history.heard(second, 100));
        assert!(!history.heard(history.moment(), 9));
        assert!(!history.went_back(0, 9, 1), "already known");
    }
}
