//! A lock that the server holds for a request: how many there may be, how long it lives, and how it ends.
//!
//! They are counted because a full lock table keeps all clients out.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::{Entry, Notes, call_limit, within};
use lockkit_core::{
    Applied, Clock, Error, FencingToken, Grant, Instant, Kind, Lease, LossReason, Result, Term,
};
use tokio::sync::watch;

use super::names::{Group, Turn};
use super::session::{Lives, LockSession, Use};
use super::sessions::Sessions;
use crate::error::at;

/// A part of the lock table for all advisory locks: what is left serves the other clients.
const SHARE: usize = 4;
/// How many clients may grow at the same time before a client checks the count again.
const GROWING: usize = 16;

/// What a full budget is told.
pub(crate) const MORE_LOCKS: &str = "raise max_locks_per_transaction on the server (the budget is a quarter of the \
    locks that it has room for, unless `budget` is set), or use the strategy \"table\"";

#[derive(Debug)]
pub(super) struct Budget {
    limit: usize,
    counts: Mutex<Counts>,
}

#[derive(Debug)]
struct Counts {
    ours: usize,
    /// What the server had at the last check, and what of it was ours.
    seen: usize,
    ours_then: usize,
}

/// One lock that is counted, until this is dropped.
#[derive(Debug)]
pub(super) struct Reserved(Arc<Budget>);

impl Budget {
    pub(super) fn new(limit: Option<usize>, lock_table: usize, seen: usize) -> Self {
        let limit = budget_of(limit, lock_table);
        Self { limit, counts: Mutex::new(Counts { ours: 0, seen, ours_then: 0 }) }
    }

    /// Counts one more, before it is asked for.
    pub(super) fn take(self: &Arc<Self>) -> Reserved {
        self.counts().ours += 1;
        Reserved(Arc::clone(self))
    }

    /// Whether so many have come since the last check that the server must be asked again.
    pub(super) fn is_stale(&self) -> bool {
        let counts = self.counts();
        let more = counts.ours.saturating_sub(counts.ours_then);
        more > self.limit.saturating_sub(counts.seen) / GROWING
    }

    /// Takes in what the server has now, without what is only asked for.
    pub(super) fn saw(&self, locks: usize) {
        let mut counts = self.counts();
        counts.seen = locks;
        counts.ours_then = counts.ours;
    }

    /// Refuses one more where there are too many.
    pub(super) fn check(&self) -> Result<()> {
        check_budget(self.counts().seen, self.limit)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many advisory locks there may be on a server with a lock table for so many.
pub(crate) fn budget_of(limit: Option<usize>, lock_table: usize) -> usize {
    limit.unwrap_or(lock_table / SHARE)
}

/// Refuses one more lock where the server has so many.
pub(crate) fn check_budget(seen: usize, limit: usize) -> Result<()> {
    if seen < limit {
        return Ok(());
    }
    Err(Error::rejected(
        format!("one more advisory lock: the server has {seen}, and the budget is {limit}"),
        MORE_LOCKS,
    ))
}

impl Drop for Reserved {
    fn drop(&mut self) {
        let mut counts = self.0.counts();
        counts.ours -= 1;
        counts.ours_then = counts.ours_then.min(counts.ours);
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_server_is_looked_at_more_often_the_fuller_it_is() {
        let budget = Arc::new(Budget::new(None, 6_400, 0));
        let mut reserved: Vec<_> = (0..100).map(|_| budget.take()).collect();
        assert!(!budget.is_stale());
        reserved.push(budget.take());
        assert!(budget.is_stale());
        budget.saw(1_590);
        assert!(!budget.is_stale());
        reserved.push(budget.take());
        assert!(budget.is_stale());
        budget.check().expect("some are left");
        budget.saw(1_600);
        let refused = budget.check().expect_err("none is left").to_string();
        assert!(refused.contains("max_locks_per_transaction"), "{refused}");
        drop(reserved);
        budget.saw(3);
        budget.check().expect("all are left");
    }
}
