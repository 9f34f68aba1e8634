//! A lock that is held in the server: for whom, and by what it lives.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Clock, FencingToken, Instant, LossReason, Request};
use tokio::sync::watch;

use super::budget::Reserved;
use super::session::Use;

/// A part of the ttl: a term that began longer ago is not handed on.
const FRESH: u32 = 20;

/// A lock that a session of ours holds, for one request.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) key: i64,
    pub(super) request: Request,
    pub(super) token: FencingToken,
    pub(super) ttl: Duration,
    pub(super) state: watch::Sender<State>,
    renewed: Mutex<Instant>,
    /// Taken when the session's lock goes on to another request, or ends.
    life: Mutex<Option<Life>>,
}

/// A lock that is in the server or may be, and what it lives on; it is freed when this is dropped.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) key: i64,
    pub(super) session: Use,
    /// Counted for as long as the lock is in the server.
    _reserved: Reserved,
    /// Tokens that were fetched since it was taken, the next one first.
    pub(super) spare: VecDeque<FencingToken>,
    /// When the server was asked that granted it, gave the tokens, or said that we still wait.
    pub(super) heard: Instant,
    is_over: bool,
}

impl Life {
    pub(super) const fn new(key: i64, session: Use, reserved: Reserved, heard: Instant) -> Self {
        Self { key, session, _reserved: reserved, spare: VecDeque::new(), heard, is_over: false }
    }

    /// The server has said that the session does not hold it, or no longer.
    pub(super) fn over(mut self) {
        self.settle();
    }

    /// The same of one that is kept for a moment.
    pub(super) const fn settle(&mut self) {
        self.is_over = true;
    }

    /// A token for the next holder, if the session was heard of a moment ago, with the ttl it has.
    pub(super) fn spare(&mut self, now: Instant) -> Option<FencingToken> {
        let fresh = now.saturating_since(self.heard) < self.session.ttl() / FRESH;
        if fresh && self.session.is_aimed() { self.spare.pop_front() } else { None }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        if self.is_over || self.session.is_ended() {
            return;
        }
        // The task that was to free it has ended with its runtime; the session may live in another one.
        if self.session.is_waiting() {
            self.session.cut();
        } else {
            self.session.undo_later(self.key);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Live,
    /// It is being released.
    Ending,
    Released,
    Lost(LossReason),
}

impl Held {
    pub(super) fn new(
        key: i64,
        request: Request,
        token: FencingToken,
        sent: Instant,
        life: Life,
    ) -> Self {
        Self {
            key,
            request,
            token,
            ttl: life.session.ttl(),
            state: watch::Sender::new(State::Live),
            renewed: Mutex::new(sent),
            life: Mutex::new(Some(life)),
        }
    }

    pub(super) fn is_live(&self) -> bool {
        *self.state.borrow() == State::Live
    }

    pub(super) fn is_lost(&self) -> bool {
        matches!(*self.state.borrow(), State::Lost(_))
    }

    /// Whether its session has ended, also where no task has taken it in yet.
    pub(super) fn is_cut_off(&self) -> bool {
        self.life().as_ref().is_some_and(|life| life.session.is_ended())
    }

    /// Ends it if it lives; whether it did.
    pub(super) fn end(&self, how: State) -> bool {
        self.state.send_if_modified(|state| {
            let ends = *state == State::Live || *state == State::Ending;
            if ends {
                *state = how;
            }
            ends
        })
    }

    /// Whether its renewals have stopped: others' on its session may go on.
    pub(super) fn has_lapsed(&self) -> bool {
        let renewed = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        self.request.clock().now().saturating_since(renewed) >= self.ttl
    }

    pub(super) fn renew(&self, sent: Instant) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        *renewed = sent.max(*renewed);
    }

    pub(super) fn life(&self) -> MutexGuard<'_, Option<Life>> {
        self.life.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clock(&self) -> &Clock {
        self.request.clock()
    }
}
