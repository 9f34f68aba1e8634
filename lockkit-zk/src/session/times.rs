//! When a session's task does what.

use std::sync::atomic::Ordering;
use std::time::Duration;

use lockkit_core::Instant;
use zookeeper_client::SessionState;

use super::life::{Life, Link};
use super::reopening::Reopening;
use crate::usage::Beat;

/// When the session's task does what, if nothing happens before.
pub(super) struct Times {
    /// Between two heartbeats.
    pub(super) interval: Duration,
    /// What the heartbeats are, if there are any.
    pub(super) beats: Option<Beat>,
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
        let looks_again = (!is_up).then(|| reopening.looks_at());
        Some(Self {
            interval: reopening.interval(&proof),
            beats: life.users.beat().filter(|_| is_up),
            closes: life.users.closes_at(idle).filter(|_| is_up && !is_busy),
            looks: [ends_early, looks_again].into_iter().flatten().min(),
        })
    }
}
