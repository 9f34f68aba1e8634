//! A lock that the server holds for a request: how long it lives, and how it ends.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::{Entry, Notes, call_limit, within};
use lockkit_core::{
    Applied, Clock, Error, FencingToken, Grant, Instant, Kind, Lease, LossReason, Result, Term,
};
use tokio::sync::watch;

use super::budget::Reserved;
use super::names::{Group, Turn};
use super::session::{Lives, LockSession, Use};
use super::sessions::Sessions;
use crate::error::at;

/// What the client notes of a request.
#[derive(Debug, Default)]
pub(super) struct Asked {
    pub(super) held: Option<Arc<Held>>,
    /// What was sent for the request, and may still give it the lock.
    pub(super) traces: Vec<Arc<Trace>>,
}

impl Notes for Asked {
    fn are_kept(&self) -> bool {
        self.live().is_some() || self.traces.iter().any(|trace| !trace.is_settled())
    }
}

impl Asked {
    pub(super) fn live(&self) -> Option<Arc<Held>> {
        self.held.as_ref().filter(|held| held.is_live()).cloned()
    }
}

/// What a request may have in the server, on one session.
#[derive(Debug)]
pub(super) struct Trace {
    pub(super) session: Arc<LockSession>,
    is_settled: watch::Sender<bool>,
}

impl Trace {
    pub(super) fn is_settled(&self) -> bool {
        *self.is_settled.borrow()
    }

    fn settle(&self) {
        self.is_settled.send_replace(true);
    }

    /// Completes once nothing is in the server: it was undone, or the session's backend is gone.
    pub(super) async fn settled(&self, sessions: &Sessions, clock: &Clock) -> Result<()> {
        let mut is_settled = self.is_settled.subscribe();
        let undone = async { drop(is_settled.wait_for(|is_settled| *is_settled).await) };
        tokio::select! {
            biased;
            () = undone => Ok(()),
            () = self.session.ended() => sessions.bury(clock, &self.session).await,
        }
    }
}

/// A lock that the server holds for a request, or may hold soon. Dropped, it is undone, and the
/// name's turn passes on after that.
#[derive(Debug)]
pub(super) struct Life(Option<Parts>);

#[derive(Debug)]
struct Parts {
    session: Use,
    trace: Arc<Trace>,
    turn: Turn,
    /// Those that the lock is shared with, until this request has left them.
    group: Option<Arc<Group>>,
    _reserved: Option<Reserved>,
}

impl Life {
    /// Notes in the record of the request what is about to be sent.
    ///
    /// # Errors
    /// `Unavailable` (not applied): the request was withdrawn.
    pub(super) fn begin(
        entry: &Entry<Asked>,
        turn: Turn,
        session: Use,
        reserved: Reserved,
    ) -> Result<Self> {
        if turn.kind() == Kind::Shared {
            let group = Group::of(session.session(), reserved);
            return Self::of(entry, turn, session, Some(group), None);
        }
        Self::of(entry, turn, session, None, Some(reserved))
    }

    /// The same of a request that has joined those that share a lock.
    pub(super) fn joined(entry: &Entry<Asked>, turn: Turn, group: Arc<Group>) -> Result<Self> {
        let session = Use::of(group.session());
        Self::of(entry, turn, session, Some(group), None)
    }

    fn of(
        entry: &Entry<Asked>,
        turn: Turn,
        session: Use,
        group: Option<Arc<Group>>,
        reserved: Option<Reserved>,
    ) -> Result<Self> {
        let is_settled = watch::Sender::new(false);
        let trace = Arc::new(Trace { session: Arc::clone(session.session()), is_settled });
        // Whatever becomes of it, it leaves its group.
        let parts = Parts { session, trace: Arc::clone(&trace), turn, group, _reserved: reserved };
        let life = Self(Some(parts));
        let mut asked = entry.data();
        if asked.is_withdrawn() {
            drop(asked);
            return Err(Error::withdrawn());
        }
        let traces = &mut asked.for_others().traces;
        traces.retain(|trace| !trace.is_settled());
        traces.push(trace);
        drop(asked);
        Ok(life)
    }

    fn parts(&self) -> &Parts {
        self.0.as_ref().expect("only `settled` and `drop` take it, and both end it")
    }

    pub(super) fn session(&self) -> &Use {
        &self.parts().session
    }

    pub(super) fn trace(&self) -> &Arc<Trace> {
        &self.parts().trace
    }

    pub(super) fn turn(&self) -> &Turn {
        &self.parts().turn
    }

    /// Others may join a lock that is shared: the server has granted it.
    pub(super) fn open(&self) {
        if let Some(group) = &self.parts().group {
            self.turn().opens(group);
        }
    }

    /// Has the server free the lock, unless others of ours share it; whether it was held until now.
    pub(super) async fn unlock(&mut self, clock: &Clock, limit: Duration) -> Result<bool> {
        let parts = self.0.as_mut().expect("only `settled` and `drop` take it, and both end it");
        if parts.session.is_ended() {
            return Err(Error::lost(LossReason::SessionEnded));
        }
        if parts.group.as_ref().is_some_and(|group| !group.leave()) {
            return Ok(true);
        }
        // Dropped from here on, it is undone.
        parts.group = None;
        let (kind, key) = (parts.turn.kind(), parts.turn.key());
        parts.session.unlock(clock, limit, kind, key).await
    }

    /// The server has said that the session does not hold the lock, or no longer, or others need it.
    pub(super) fn settled(mut self) -> Option<Turn> {
        let parts = self.0.take()?;
        parts.trace.settle();
        Some(parts.turn)
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let Some(mut parts) = self.0.take() else { return };
        // Whether another client holds the name is not known any more.
        parts.turn.leaves();
        let group = parts.group.take();
        if group.as_ref().is_some_and(|group| !group.leave()) {
            return parts.settle();
        }
        drop(group);
        let session = Arc::clone(parts.session.session());
        if session.is_silent() && session.users() == 1 {
            // Nothing else lives on it: it is of no more use.
            session.cut();
        }
        if !session.is_ended() {
            let (kind, key) = (parts.turn.kind(), parts.turn.key());
            session.undo_later(kind, key, Box::new(move || parts.settle()));
        }
    }
}

impl Parts {
    /// All of it ends here: the use of the session, and the turn.
    fn settle(self) {
        self.trace.settle();
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Live,
    Ending,
    Released,
    Lost(LossReason),
}

/// A lock that a session of ours holds for one request.
///
/// ```text
/// live --release--> ending --unlocked--> released
///   |                  +---the session ended---> lost
///   +--the session ended, not renewed for a ttl, withdrawn--> lost
/// ```
#[derive(Debug)]
pub(super) struct Held {
    pub(super) token: FencingToken,
    pub(super) ttl: Duration,
    clock: Clock,
    state: watch::Sender<State>,
    renewed: Mutex<Instant>,
    trace: Arc<Trace>,
    /// Taken when the lock is about to end.
    life: Mutex<Option<Life>>,
}

impl Held {
    pub(super) fn new(token: FencingToken, clock: &Clock, sent: Instant, life: Life) -> Arc<Self> {
        let held = Arc::new(Self {
            token,
            ttl: life.session().ttl(),
            clock: clock.clone(),
            state: watch::Sender::new(State::Live),
            renewed: Mutex::new(sent),
            trace: Arc::clone(life.trace()),
            life: Mutex::new(Some(life)),
        });
        let lives: Weak<Self> = Arc::downgrade(&held);
        held.trace.session.hold(lives);
        held
    }

    pub(super) fn term(&self) -> Term {
        let sent = *self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        Term { sent, ttl: Some(self.ttl) }
    }

    fn take(&self) -> Option<Life> {
        let mut life: MutexGuard<'_, _> = self.life.lock().unwrap_or_else(PoisonError::into_inner);
        life.take()
    }

    pub(super) async fn renew(&self) -> Result<Term> {
        let sent = self.clock.now();
        let answer = self.trace.session.ping(&self.clock, call_limit(self.ttl)).await;
        let state = *self.state.borrow();
        match state {
            State::Live if self.trace.session.is_ended() => {
                self.lose(LossReason::SessionEnded);
                return Err(Error::lost(LossReason::SessionEnded));
            }
            State::Live => {}
            State::Ending | State::Released => return Err(Error::lost(LossReason::Released)),
            State::Lost(reason) => return Err(Error::lost(reason)),
        }
        answer?;
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        *renewed = sent.max(*renewed);
        Ok(Term { sent, ttl: Some(self.ttl) })
    }

    /// Unlocks it in the server.
    async fn release(&self, sessions: &Sessions) -> Result<()> {
        let session = &self.trace.session;
        let Some(mut life) = self.take() else { return self.released(sessions).await };
        self.state.send_replace(State::Ending);
        let answer = life.unlock(&self.clock, call_limit(self.ttl)).await;
        let was_held = match answer {
            Ok(was_held) => was_held,
            Err(error) if session.is_ended() => {
                self.lose(LossReason::SessionEnded);
                // The server may have unlocked it just before.
                let lost = Error::lost(LossReason::SessionEnded);
                return Err(if error.is_ambiguous() { error } else { lost });
            }
            // Whatever was sent, it is undone as soon as the session answers.
            Err(Error::Unavailable { cause, .. }) => {
                return Err(Error::unavailable(Applied::Maybe, cause));
            }
            Err(error) => return Err(error),
        };
        // The turn passes on before the caller hears of it.
        drop(life.settled());
        let (state, outcome) = match was_held {
            true => (State::Released, Ok(())),
            false => (State::Lost(LossReason::Removed), Err(Error::lost(LossReason::Removed))),
        };
        self.state.send_replace(state);
        outcome
    }

    /// What became of a release that was sent before, or of the lock that was to be released.
    async fn released(&self, sessions: &Sessions) -> Result<()> {
        let settled = self.trace.settled(sessions, &self.clock);
        let Some(settled) = within(&self.clock, call_limit(self.ttl), settled).await else {
            let silence = "PostgreSQL gave no answer to a release in time";
            return Err(Error::unavailable(Applied::Maybe, silence));
        };
        settled?;
        match *self.state.borrow() {
            State::Lost(reason) => Err(Error::lost(reason)),
            State::Released => Ok(()),
            // Unlocked over a session that held it until then.
            _ if self.trace.is_settled() => Ok(()),
            _ => Err(Error::lost(LossReason::SessionEnded)),
        }
    }
}

impl Lives for Held {
    fn is_live(&self) -> bool {
        *self.state.borrow() == State::Live && !self.trace.session.is_ended()
    }

    fn lapses(&self) -> Instant {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).saturating_add(self.ttl)
    }

    fn lose(&self, reason: LossReason) {
        self.state.send_if_modified(|state| {
            let ends = matches!(state, State::Live | State::Ending);
            if ends {
                *state = State::Lost(reason);
            }
            ends
        });
        drop(self.take());
    }
}

/// What the holder has of its grant.
#[derive(Debug)]
struct AdvisoryLease {
    sessions: Arc<Sessions>,
    held: Arc<Held>,
    /// Keeps the request's record.
    _entry: Entry<Asked>,
}

/// The grant to a request, with this term.
pub(super) fn grant(
    sessions: &Arc<Sessions>,
    entry: Entry<Asked>,
    held: Arc<Held>,
    term: Term,
) -> Grant {
    let (sessions, token) = (Arc::clone(sessions), held.token);
    Grant::new(token, term, AdvisoryLease { sessions, held, _entry: entry })
}

#[async_trait]
impl Lease for AdvisoryLease {
    async fn renew(&self) -> Result<Term> {
        self.held.renew().await.map_err(|error| at(&self.sessions.address, error))
    }

    async fn lost(&self) -> LossReason {
        let mut states = self.held.state.subscribe();
        let lost = states.wait_for(|state| matches!(state, State::Lost(_)));
        tokio::select! {
            biased;
            lost = lost => match lost.as_deref() {
                Ok(State::Lost(reason)) => *reason,
                _ => LossReason::SessionEnded,
            },
            () = self.held.trace.session.ended() => {
                // The turn passes on before the caller hears of it: the name is free.
                self.held.lose(LossReason::SessionEnded);
                LossReason::SessionEnded
            }
        }
    }

    async fn release(&self) -> Result<()> {
        let released = self.held.release(&self.sessions).await;
        released.map_err(|error| at(&self.sessions.address, error))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
