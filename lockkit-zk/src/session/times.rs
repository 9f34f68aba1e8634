//! When a session's task does what.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lockkit_core::Instant;
use zookeeper_client::SessionState;

use super::life::{Life, Link};
use super::reopening::Reopening;

/// When the session's task does what, if nothing happens before.
pub(super) struct Times {
    /// Between two heartbeats.
    pub(super) interval: Duration,
    /// Whether there are heartbeats.
    pub(super) beats: bool,
    /// When a session is closed that stays unused.
    pub(super) closes: Option<Instant>,
    /// When it is seen again whether the session is reopened, or ends early.
    pub(super) looks: Option<Instant>,
}

impl Times {
    /// Tells of the link in this state, and plans; `None`: the session has ended, or another may be
    /// granted from now on, before the holders' own deadlines.
    pub(super) fn of(
        life: &Life,
        state: SessionState,
        reopening: &Reopening,
        idle: Duration,
        is_busy: bool,
    ) -> Option<Self> {
        let is_up = match state {
            SessionState::SyncConnected => true,
            SessionState::Disconnected | SessionState::ConnectedReadOnly => false,
            SessionState::Expired | SessionState::Closed | SessionState::AuthFailed => return None,
        };
        life.set_link(if is_up { Link::Up } else { Link::Down });
        let proof = life.proof();
        let ends_early = proof.ends_early();
        if ends_early.is_some_and(|end| end <= life.clock.now()) {
            life.is_early.store(true, Ordering::SeqCst);
            return None;
        }
        let idle_since = life.users.idle_since();
        let looks_again = (!is_up).then(|| reopening.looks_at());
        Some(Self {
            interval: reopening.interval(&proof),
            beats: is_up && idle_since.is_none(),
            closes: idle_since
                .filter(|_| is_up && !is_busy)
                .map(|since| since.saturating_add(idle)),
            looks: [ends_early, looks_again].into_iter().flatten().min(),
        })
    }

    /// When the next heartbeat is sent after this one: after a silence it takes two to trust the
    /// session again.
    pub(super) fn next_beat(&self, life: &Life, sent: Instant) -> Instant {
        let silent = sent.saturating_since(life.proof().before) > self.interval * 3;
        sent.saturating_add(if silent { self.interval / 8 } else { self.interval })
    }
}
