//! Hand-offs between waiters of one provider, told to the server in groups.
//!
//! Entries before a waiter in the queue can only leave, never come. So whoever holds the name, and
//! knows that the next in the queue are its own provider's, may grant to them in that order at
//! once; the server learns of it by one script at a time, which tells all that happened meanwhile
//! (Dice, Marathe and Shavit, "Lock Cohorting", PPoPP 2012, with the queue's order kept).

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockkit_core::{Error, Instant, Late, LossReason, Request, RequestId, Result};
use tokio::sync::Notify;

use crate::error::after;
use crate::protocol::{Pass, Passed, Place};
use crate::provider::Inner;
use crate::seat::{Offered, Word};
use crate::wake::Wake;

/// How many tokens after one that the server issued it keeps for hand-offs; as in the scripts.
const AHEAD: u64 = 16;
/// A hand-off counts from the last acknowledged request; older than this part of the ttl, it would
/// leave the next holder too little.
const FRESH: u32 = 8;

/// A grant of the server, and the hand-offs that followed it inside this provider.
#[derive(Debug)]
pub(crate) struct Cohort {
    wake: Arc<Wake>,
    state: Mutex<State>,
    changed: Notify,
}

/// A grant given to a waiter by the holder before it.
#[derive(Clone, Debug)]
pub(crate) struct HandedOn {
    pub(crate) cohort: Arc<Cohort>,
    pub(crate) token: u64,
    /// When the last acknowledged request that set the key's expiry was sent.
    pub(crate) sent: Instant,
}

#[derive(Debug)]
struct State {
    /// In the order of their grants: whom the server knows to hold, then those it does not know of,
    /// or not for certain. The last one holds, unless it has ended.
    members: VecDeque<Member>,
    has_ended: bool,
    sent: Instant,
    /// The last token that may be given without the server.
    spare: u64,
    /// The first of the queue, as the server last told.
    line: VecDeque<Place>,
    passing: bool,
    /// Whether a pass that frees the name was never answered, and may have freed it.
    unheard: bool,
    fate: Fate,
}

#[derive(Debug)]
struct Member {
    request: Request,
    token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Live,
    /// The server was told that the name is free, and may know.
    Freeing,
    Freed,
    Lost(LossReason),
}

impl State {
    fn holder(&self) -> Option<&Member> {
        self.members.back().filter(|_| !self.has_ended)
    }

    /// Whether a name that is no longer ours was freed by ourselves: until its ttl nothing else ends
    /// a grant but force.
    fn was_freed_unheard(&self) -> bool {
        let Some(first) = self.members.front().filter(|_| self.unheard) else { return false };
        first.request.clock().now() < self.sent.saturating_add(first.request.ttl())
    }

    fn is_member(&self, id: RequestId) -> bool {
        self.members.iter().any(|member| member.request.id() == id)
    }

    /// Everything that the server is to be told.
    fn pass(&mut self, late: &Late) -> Option<Pass> {
        let (first, last) = (self.members.front()?, self.members.back()?);
        let (from, token) = (first.request.id(), last.token);
        let to = self.holder().map(|holder| holder.request.clone());
        if to.is_none() && self.fate == Fate::Live {
            // From here on no one of us may hold it: the server reserves it for its head.
            self.fate = Fate::Freeing;
        }
        let ended = self.members.len() - usize::from(to.is_some());
        let ended = self.members.iter().take(ended).map(|member| member.request.id());
        let ended = ended.map(|id| (id, late.may_arrive(id))).collect();
        Some(Pass { from, token, to, ended })
    }
}

impl Cohort {
    pub(crate) fn new(
        wake: Arc<Wake>,
        request: &Request,
        token: u64,
        sent: Instant,
        line: Vec<Place>,
    ) -> Self {
        let state = State {
            members: VecDeque::from([Member { request: request.clone(), token }]),
            has_ended: false,
            sent,
            spare: token + AHEAD,
            line: line.into(),
            passing: false,
            unheard: false,
            fate: Fate::Live,
        };
        Self { wake, state: Mutex::new(state), changed: Notify::new() }
    }

    /// The token of this request's grant, if it belongs to this cohort.
    pub(crate) fn token_of(&self, id: RequestId) -> Option<u64> {
        let state = self.state();
        state.members.iter().find(|member| member.request.id() == id).map(|member| member.token)
    }

    /// Notes that a waiter of ours is the head of the queue behind the grant with this token: if that
    /// is none of this cohort's, the server no longer knows us to hold.
    pub(crate) fn head(&self, place: Place, token: u64) {
        let mut state = self.state();
        let is_ours = state.members.iter().any(|member| member.token == token);
        if is_ours && !state.line.contains(&place) && !state.is_member(place.0) {
            state.line = VecDeque::from([place]);
        }
    }

    /// Notes that a waiter leaves the queue.
    pub(crate) fn forget(&self, id: RequestId) {
        self.state().line.retain(|next| next.0 != id);
    }

    /// Ends this request's grant, if it holds, and hands the name on at once where that may be.
    pub(crate) fn end(self: &Arc<Self>, id: RequestId) {
        let mut state = self.state();
        if state.holder().is_some_and(|holder| holder.request.id() == id) {
            state.has_ended = true;
            self.hand_on(&mut state);
        }
    }

    /// Grants to the next in the queue, where that is a waiter of ours whom nothing keeps.
    fn hand_on(self: &Arc<Self>, state: &mut State) {
        let (true, Fate::Live, Some(last)) = (state.has_ended, state.fate, state.members.back())
        else {
            return;
        };
        let (of, token, sent) = (last.request.clone(), last.token + 1, state.sent);
        if of.clock().now().saturating_since(sent) >= of.ttl() / FRESH || token > state.spare {
            return;
        }
        while let Some((next, ticket)) = state.line.front().copied() {
            let Some(seat) = self.wake.taken(next) else { return };
            let handed_on = HandedOn { cohort: Arc::clone(self), token, sent };
            match seat.offer(&of, ticket, handed_on) {
                Offered::Taken(request) => {
                    state.line.pop_front();
                    state.members.push_back(Member { request, token });
                    state.has_ended = false;
                    return;
                }
                Offered::Left => drop(state.line.pop_front()),
                Offered::Busy => return,
            }
        }
    }

    /// Ends every grant of this cohort: the server no longer knows it.
    fn lose(&self, state: &mut State, reason: LossReason) {
        if matches!(state.fate, Fate::Live | Fate::Freeing) {
            state.fate = Fate::Lost(reason);
            if let Some(seat) = state.holder().and_then(|it| self.wake.taken(it.request.id())) {
                seat.tell(Word::Lost(reason));
            }
        }
        self.changed.notify_waiters();
    }

    /// The same, if this request belongs to it.
    pub(crate) fn lost(&self, id: RequestId, reason: LossReason) {
        let mut state = self.state();
        if state.is_member(id) {
            self.lose(&mut state, reason);
        }
    }

    /// Notes that a renewal sent at this instant was acknowledged.
    pub(crate) fn renewed(&self, sent: Instant) {
        let mut state = self.state();
        state.sent = state.sent.max(sent);
    }

    /// Completes when the server knows that this request's grant has [`end`](Self::end)ed.
    pub(crate) async fn ended(
        self: &Arc<Self>,
        provider: &Inner,
        request: &Request,
        token: u64,
    ) -> Result<()> {
        let id = request.id();
        let lost = self
            .told(provider, request, |state| match state.fate {
                Fate::Lost(reason) => Some(Some((reason, state.is_member(id)))),
                Fate::Freed => Some(None),
                Fate::Live | Fate::Freeing => (!state.is_member(id)).then_some(None),
            })
            .await?;
        let Some((reason, is_left_over)) = lost else { return Ok(()) };
        if is_left_over {
            // It may still be in the queue, or be granted by an attempt that came late.
            let ended = vec![(id, provider.late.may_arrive(id))];
            let pass = Pass { from: id, token, to: None, ended };
            if matches!(provider.pass(request, &pass).await.0?, Passed::Freed) {
                return Ok(());
            }
        }
        Err(Error::lost(reason))
    }

    /// Completes when the server knows that this request holds.
    pub(crate) async fn known(self: &Arc<Self>, provider: &Inner, request: &Request) -> Result<()> {
        let id = request.id();
        let holds = |member: Option<&Member>| member.is_some_and(|it| it.request.id() == id);
        self.told(provider, request, |state| match state.fate {
            Fate::Lost(reason) => Some(Err(Error::lost(reason))),
            Fate::Live if holds(state.holder()) => holds(state.members.front()).then_some(Ok(())),
            _ => Some(Err(Error::lost(LossReason::Removed))),
        })
        .await?
    }

    /// Completes when the server knows of every grant that there is by now.
    pub(crate) async fn caught_up(self: &Arc<Self>, provider: &Inner) -> Result<()> {
        let Some((request, newest)) = ({
            let state = self.state();
            state.members.back().map(|newest| (newest.request.clone(), newest.token))
        }) else {
            return Ok(());
        };
        self.told(provider, &request, |state| {
            let behind = state.members.front().is_some_and(|first| first.token < newest);
            (state.fate != Fate::Live || !behind).then_some(())
        })
        .await
    }

    /// Tells the server, one pass at a time, until `done` has an answer.
    async fn told<R>(
        self: &Arc<Self>,
        provider: &Inner,
        request: &Request,
        done: impl Fn(&State) -> Option<R> + Send,
    ) -> Result<R> {
        loop {
            let changed = self.changed.notified();
            let pass = {
                let mut state = self.state();
                if let Some(answer) = done(&state) {
                    return Ok(answer);
                }
                let pass = if state.passing { None } else { state.pass(&provider.late) };
                state.passing |= pass.is_some();
                pass
            };
            // Whoever passes tells of us too, or we of those who come while it is under way.
            let Some(pass) = pass else {
                changed.await;
                continue;
            };
            let mut passing = Passing { cohort: self, unheard: pass.to.is_none() };
            let sent = request.clock().now();
            let (passed, may_arrive) = provider.pass(request, &pass).await;
            passing.unheard &= may_arrive;
            // Even this answer may be that to its second sending.
            self.state().unheard |= passing.unheard;
            // Whom the name was handed to has it, also where the server refused to hear of it.
            let passed = passed.map_err(|error| after(pass.to.is_some(), error))?;
            self.passed(&pass, sent, passed);
        }
    }

    fn passed(self: &Arc<Self>, pass: &Pass, sent: Instant, passed: Passed) {
        let mut state = self.state();
        match passed {
            Passed::Refused if state.fate == Fate::Freeing && state.was_freed_unheard() => {
                state.fate = Fate::Freed;
            }
            Passed::Refused => {
                let is_over = |id| pass.ended.iter().any(|(ended, _)| *ended == id);
                self.lose(&mut state, LossReason::Removed);
                state.members.retain(|member| !is_over(member.request.id()));
            }
            Passed::Freed if state.fate == Fate::Freeing => state.fate = Fate::Freed,
            Passed::Freed => {}
            Passed::On(line) => {
                let holder = pass.to.as_ref().map(Request::id);
                while state.members.front().is_some_and(|it| Some(it.request.id()) != holder) {
                    state.members.pop_front();
                }
                // Those who were handed the name since were in the queue when this was read.
                let line = line.into_iter().filter(|next| !state.is_member(next.0)).collect();
                state.line = line;
                state.sent = state.sent.max(sent);
                state.spare = state.spare.max(pass.token + AHEAD);
                self.hand_on(&mut state);
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One pass under way, until dropped.
struct Passing<'a> {
    cohort: &'a Cohort,
    /// Whether it frees the name, and gets no answer.
    unheard: bool,
}

impl Drop for Passing<'_> {
    fn drop(&mut self) {
        let mut state = self.cohort.state();
        state.passing = false;
        state.unheard |= self.unheard;
        drop(state);
        self.cohort.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lockkit_core::{Clock, LockName};

    use super::*;

    #[test]
    fn who_waits_behind_another_grant_is_not_next_here() {
        let clock = Clock::manual();
        let name = LockName::new("a").expect("a name");
        let request = || Request::new(name.clone(), Duration::from_secs(3), clock.clone());
        let (holds, waits) = (request().expect("valid"), request().expect("valid").id());
        let cohort = Cohort::new(Arc::default(), &holds, 7, clock.now(), Vec::new());
        cohort.head((waits, 1), 8);
        assert!(cohort.state().line.is_empty(), "the server knows another holder by now");
        cohort.head((waits, 1), 7);
        assert_eq!(cohort.state().line, [(waits, 1)]);
    }
}
