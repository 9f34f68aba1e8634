//! What this provider knows of its requests: whether they were withdrawn, and what of them may be
//! in the store, now or later.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Clock, Instant, Request, RequestId};
use tokio::sync::Notify;

use crate::session::{Session, Use};

/// The requests of a provider that somebody works on, or that may have left a trace.
#[derive(Debug, Default)]
pub(crate) struct Seats(Mutex<HashMap<RequestId, Arc<Seat>>>);

/// One request.
#[derive(Debug)]
pub(crate) struct Seat {
    id: RequestId,
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The attempts and the lease that live.
    workers: usize,
    left_at: Option<Instant>,
    /// Its key, and the session on which that is, or may come to be.
    place: Option<(Use, Vec<u8>)>,
    /// Sendings so far, and those without an answer.
    sent: usize,
    under_way: usize,
    /// Whether one was given up without an answer, and may still arrive.
    late: bool,
    withdrawn: bool,
    sweep: Sweep,
}

/// What is known of a removal that began because no call worked on the request any more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Sweep {
    /// There is none that might still be applied.
    #[default]
    Over,
    UnderWay,
    /// It had no answer, and may be applied until the session key is touched.
    InDoubt,
}

/// A sweep under way: a request that comes back waits for its end.
#[derive(Debug)]
pub(crate) struct Sweeping {
    pub(crate) seat: Arc<Seat>,
    answered: bool,
}

/// Somebody who works on a request: an attempt, and then the lease that it leads to.
#[derive(Debug)]
pub(crate) struct Worker {
    seats: Arc<Seats>,
    seat: Arc<Seat>,
}

/// One sending under way; dropped without [`answered`](Self::answered), it may still arrive.
#[derive(Debug)]
pub(crate) struct Sending<'a> {
    seat: &'a Seat,
    answered: bool,
}

impl Seats {
    /// Takes part in a request.
    pub(crate) fn attempt(self: &Arc<Self>, request: &Request) -> Worker {
        let new = || {
            let (id, clock) = (request.id(), request.clock().clone());
            Arc::new(Seat { id, clock, state: Mutex::default(), changed: Notify::new() })
        };
        let seat = Arc::clone(self.all().entry(request.id()).or_insert_with(new));
        {
            let mut state = seat.state();
            state.workers += 1;
            state.left_at = None;
        }
        Worker { seats: Arc::clone(self), seat }
    }

    pub(crate) fn find(&self, id: RequestId) -> Option<Arc<Seat>> {
        self.all().get(&id).cloned()
    }

    /// Nothing of this request is in the store, or will be.
    pub(crate) fn is_clear(&self, seat: &Seat) {
        let mut all = self.all();
        let mut state = seat.state();
        (state.place, state.late) = (None, false);
        if state.workers == 0 {
            all.remove(&seat.id);
        }
    }

    /// Forgets the requests that ended with their sessions.
    pub(crate) fn prune(&self) {
        self.all().retain(|_, seat| {
            let state = seat.state();
            state.workers > 0 || state.place.as_ref().is_some_and(|(on, _)| !on.has_ended())
        });
    }

    /// The requests on a lease that no call has worked on for so long, to be swept: their driver has
    /// ended.
    pub(crate) fn orphans(&self, lease: i64, age: Duration) -> Vec<Sweeping> {
        // Locked for all of it: an attempt that comes back finds the sweep, or is found.
        let all = self.all();
        let sweep = |seat: &Arc<Seat>| {
            let mut state = seat.state();
            let is_on = state.place.as_ref().is_some_and(|(on, _)| on.lease == lease);
            let left = state.left_at.map(|at| seat.clock.now().saturating_since(at));
            let is_due = is_on && state.sweep != Sweep::UnderWay && left >= Some(age);
            is_due.then(|| {
                state.sweep = Sweep::UnderWay;
                Sweeping { seat: Arc::clone(seat), answered: false }
            })
        };
        all.values().filter_map(sweep).collect()
    }

    /// The sessions that live and may have a request's key on them.
    pub(crate) fn sessions(&self) -> Vec<Arc<Session>> {
        let session = |seat: &Arc<Seat>| seat.place().map(|(on, _)| Arc::clone(&on));
        let sessions = self.all().values().filter_map(session).collect::<Vec<_>>();
        sessions.into_iter().filter(|session| !session.has_ended()).collect()
    }

    fn all(&self) -> MutexGuard<'_, HashMap<RequestId, Arc<Seat>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Counts a sending in, before it leaves, with its key and the session that this is to live on.
    pub(crate) fn sending(&self, session: &Use, key: &[u8]) -> Sending<'_> {
        let mut state = self.state();
        state.sent += 1;
        state.under_way += 1;
        state.place = Some((session.clone(), key.to_vec()));
        Sending { seat: self, answered: false }
    }

    /// The request's key, and the session on which it is, or may come to be.
    pub(crate) fn place(&self) -> Option<(Use, Vec<u8>)> {
        self.state().place.clone()
    }

    /// Whether an enqueueing of this request may still arrive.
    pub(crate) fn may_arrive(&self) -> bool {
        let state = self.state();
        state.under_way > 0 || state.late
    }

    /// What was sent before will be refused when it comes.
    pub(crate) fn settled(&self) {
        self.state().late = false;
    }

    /// Waits for the end of a sweep under way; whether it may still be applied after that.
    pub(crate) async fn swept(&self) -> bool {
        loop {
            let changed = self.changed.notified();
            match self.state().sweep {
                Sweep::Over => return false,
                Sweep::InDoubt => return true,
                Sweep::UnderWay => {}
            }
            changed.await;
        }
    }

    /// What was sent before, a sweep too, will be refused when it comes.
    pub(crate) fn outlived_its_sweep(&self) {
        let mut state = self.state();
        (state.sweep, state.late) = (Sweep::Over, false);
    }

    /// Its key is no reason any more to keep the session alive.
    pub(crate) fn let_go(&self) {
        if let Some((on, _)) = &mut self.state().place {
            on.let_go();
        }
    }

    pub(crate) fn withdraw(&self) {
        self.state().withdrawn = true;
        self.changed.notify_waiters();
    }

    pub(crate) fn is_withdrawn(&self) -> bool {
        self.state().withdrawn
    }

    /// Completes when the request was withdrawn; level-triggered.
    pub(crate) async fn withdrawn(&self) {
        loop {
            let changed = self.changed.notified();
            if self.is_withdrawn() {
                return;
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::ops::Deref for Worker {
    type Target = Seat;

    fn deref(&self) -> &Seat {
        &self.seat
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let mut all = self.seats.all();
        let mut state = self.seat.state();
        state.workers -= 1;
        if state.workers == 0 {
            state.left_at = Some(self.seat.clock.now());
            if state.place.is_none() {
                all.remove(&self.seat.id);
            }
        }
    }
}

impl Sending<'_> {
    /// The store has answered this sending, and every one that was repeated within it.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }

    /// The store will never apply it: a request that sent nothing else has left nothing.
    pub(crate) fn refused(self) {
        {
            let mut state = self.seat.state();
            if state.sent == 1 {
                state.place = None;
            }
        }
        self.answered();
    }
}

impl Drop for Sending<'_> {
    fn drop(&mut self) {
        let mut state = self.seat.state();
        state.under_way -= 1;
        state.late |= !self.answered;
    }
}

impl Sweeping {
    /// The store has answered, and applies no copy of it any more.
    pub(crate) fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for Sweeping {
    fn drop(&mut self) {
        self.seat.state().sweep = if self.answered { Sweep::Over } else { Sweep::InDoubt };
        self.seat.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use lockkit_core::LockName;

    use super::*;

    #[test]
    fn a_request_that_sent_nothing_is_forgotten_with_its_last_worker() {
        let seats = Arc::new(Seats::default());
        let name = LockName::new("a").expect("a name");
        let request = Request::new(name, Duration::from_secs(2), Clock::manual()).expect("an id");
        let (first, second) = (seats.attempt(&request), seats.attempt(&request));
        first.withdraw();
        assert!(second.is_withdrawn());
        drop(first);
        assert!(seats.find(request.id()).is_some());
        drop(second);
        assert!(seats.find(request.id()).is_none());
    }
}
