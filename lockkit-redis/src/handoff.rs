//! Hand-offs between waiters of one client, told to the server in groups.
//!
//! Entries before a waiter in the queue can only leave, never come. So a holder that knows the next
//! entries in the queue to be its own client's may grant to them in that order at once. The server
//! learns of it by one script at a time, which tells all that happened meanwhile (Dice, Marathe and
//! Shavit, "Lock Cohorting", PPoPP 2012, with the queue's order kept).
//!
//! ```text
//! Live --the last grant has ended, and the server is told so--> Freeing --it knows--> Freed
//!   |                                                              |
//!   +---- the server no longer knows our grant --------------------+--> Lost
//! ```
//!
//! While a cohort is `Live`, its last member holds unless `has_ended`, and only then the name may be
//! handed on. From `Freeing` on the server decides who is next.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockkit_core::kit::{Notice, Requests};
use lockkit_core::{Applied, Error, Instant, LossReason, Request, RequestId, Result};
use tokio::sync::Notify;

use crate::protocol::{Pass, Passed, Ticket};
use crate::waiter::{Offered, Waiter, offer};

/// How many tokens after one that the server issued it keeps for hand-offs; as in the scripts.
const AHEAD: u64 = 16;
/// A hand-off counts from the last acknowledged request; older than this part of the ttl, it would
/// leave the next holder too little.
const FRESH: u32 = 8;

/// The requests of a client, some of which wait for what another holds.
pub(crate) type Waiters = Requests<Waiter<HandedOn>>;

/// How a cohort speaks to the server.
pub(crate) trait Server: Sync {
    fn waiters(&self) -> &Waiters;

    /// Tells which grants have ended, and who holds by now; beside the answer, whether a sending of it
    /// got none.
    fn pass(
        &self,
        request: &Request,
        pass: &Pass,
    ) -> impl Future<Output = (Result<Passed>, bool)> + Send;
}

/// A grant of the server, and the hand-offs that followed it inside this client.
#[derive(Debug)]
pub(crate) struct Cohort {
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
    /// Grants in order. The first is the holder the server knows; the rest were handed off here and are
    /// not yet reported, or not for certain. The last one holds, unless `has_ended`.
    members: VecDeque<Member>,
    has_ended: bool,
    sent: Instant,
    /// The last token that may be given without the server.
    spare: u64,
    /// The first of the queue, as the server last told.
    queue_head: VecDeque<Ticket>,
    passing: bool,
    /// Whether a pass that frees the name was never answered, and may have freed it.
    unheard: bool,
    phase: Phase,
}

#[derive(Debug)]
struct Member {
    request: Request,
    token: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
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
    fn pass(&mut self, waiters: &Waiters) -> Option<Pass> {
        let (first, last) = (self.members.front()?, self.members.back()?);
        let (from, token) = (first.request.id(), last.token);
        let to = self.holder().map(|holder| holder.request.clone());
        if to.is_none() && self.phase == Phase::Live {
            // From here on no one of us may hold it: the server reserves it for its head.
            self.phase = Phase::Freeing;
        }
        let ended = self.members.len() - usize::from(to.is_some());
        let ended = self.members.iter().take(ended).map(|member| member.request.id());
        let ended = ended.map(|id| (id, waiters.may_still_arrive(id))).collect();
        Some(Pass { from, token, to, ended })
    }
}

impl Cohort {
    pub(crate) fn new(
        request: &Request,
        token: u64,
        sent: Instant,
        queue_head: Vec<Ticket>,
    ) -> Self {
        let state = State {
            members: VecDeque::from([Member { request: request.clone(), token }]),
            has_ended: false,
            sent,
            spare: token + AHEAD,
            queue_head: queue_head.into(),
            passing: false,
            unheard: false,
            phase: Phase::Live,
        };
        Self { state: Mutex::new(state), changed: Notify::new() }
    }

    /// The token of this request's grant, if it belongs to this cohort.
    pub(crate) fn token_of(&self, id: RequestId) -> Option<u64> {
        let state = self.state();
        state.members.iter().find(|member| member.request.id() == id).map(|member| member.token)
    }

    /// Records that one of our waiters now heads the queue. Ignored if the holder's token is not from
    /// this cohort: then another client holds.
    pub(crate) fn head(&self, ticket: Ticket, token: u64) {
        let mut state = self.state();
        let is_ours = state.members.iter().any(|member| member.token == token);
        if is_ours && !state.queue_head.contains(&ticket) && !state.is_member(ticket.0) {
            state.queue_head = VecDeque::from([ticket]);
        }
    }

    /// Notes that a waiter leaves the queue.
    pub(crate) fn forget(&self, id: RequestId) {
        self.state().queue_head.retain(|next| next.0 != id);
    }

    /// Ends this request's grant, if it holds, and hands the name on at once where that may be.
    pub(crate) fn end(self: &Arc<Self>, waiters: &Waiters, id: RequestId) {
        let mut state = self.state();
        if state.holder().is_some_and(|holder| holder.request.id() == id) {
            state.has_ended = true;
            self.hand_on(waiters, &mut state);
        }
    }

    /// Grants to the next in the queue, if that is a waiter of this client that rests.
    fn hand_on(self: &Arc<Self>, waiters: &Waiters, state: &mut State) {
        let (true, Phase::Live, Some(last)) = (state.has_ended, state.phase, state.members.back())
        else {
            return;
        };
        let (of, token, sent) = (last.request.clone(), last.token + 1, state.sent);
        if of.clock().now().saturating_since(sent) >= of.ttl() / FRESH || token > state.spare {
            return;
        }
        while let Some((next, ticket)) = state.queue_head.front().copied() {
            let Some(waiter) = waiters.find(next) else { return };
            let handed_on = HandedOn { cohort: Arc::clone(self), token, sent };
            match offer(&waiter, &of, ticket, handed_on) {
                Offered::Taken(request) => {
                    state.queue_head.pop_front();
                    state.members.push_back(Member { request, token });
                    state.has_ended = false;
                    return;
                }
                Offered::Left => drop(state.queue_head.pop_front()),
                Offered::Busy => return,
            }
        }
    }

    /// Ends every grant of this cohort: the server no longer knows it.
    fn lose(&self, waiters: &Waiters, state: &mut State, reason: LossReason) {
        if matches!(state.phase, Phase::Live | Phase::Freeing) {
            state.phase = Phase::Lost(reason);
            if let Some(holder) = state.holder().and_then(|it| waiters.find(it.request.id())) {
                holder.data().mailbox.post(Notice::Lost(reason));
            }
        }
        self.changed.notify_waiters();
    }

    /// Ends every grant of this cohort, if this request belongs to it.
    pub(crate) fn lost(&self, waiters: &Waiters, id: RequestId, reason: LossReason) {
        let mut state = self.state();
        if state.is_member(id) {
            self.lose(waiters, &mut state, reason);
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
        server: &impl Server,
        request: &Request,
        token: u64,
    ) -> Result<()> {
        let id = request.id();
        let lost = self
            .told(server, request, |state| match state.phase {
                Phase::Lost(reason) => Some(Some((reason, state.is_member(id)))),
                Phase::Freed => Some(None),
                Phase::Live | Phase::Freeing => (!state.is_member(id)).then_some(None),
            })
            .await?;
        let Some((reason, is_left_over)) = lost else { return Ok(()) };
        if is_left_over {
            // It may still be in the queue, or be granted by an attempt that came late.
            let ended = vec![(id, server.waiters().may_still_arrive(id))];
            let pass = Pass { from: id, token, to: None, ended };
            if matches!(server.pass(request, &pass).await.0?, Passed::Freed) {
                return Ok(());
            }
        }
        Err(Error::lost(reason))
    }

    /// Completes when the server knows that this request holds.
    pub(crate) async fn known(
        self: &Arc<Self>,
        server: &impl Server,
        request: &Request,
    ) -> Result<()> {
        let id = request.id();
        let holds = |member: Option<&Member>| member.is_some_and(|it| it.request.id() == id);
        self.told(server, request, |state| match state.phase {
            Phase::Lost(reason) => Some(Err(Error::lost(reason))),
            Phase::Live if holds(state.holder()) => holds(state.members.front()).then_some(Ok(())),
            _ => Some(Err(Error::lost(LossReason::Removed))),
        })
        .await?
    }

    /// Completes when the server knows of every grant that there is by now.
    pub(crate) async fn caught_up(self: &Arc<Self>, server: &impl Server) -> Result<()> {
        let Some((request, newest)) = ({
            let state = self.state();
            state.members.back().map(|newest| (newest.request.clone(), newest.token))
        }) else {
            return Ok(());
        };
        self.told(server, &request, |state| {
            let behind = state.members.front().is_some_and(|first| first.token < newest);
            (state.phase != Phase::Live || !behind).then_some(())
        })
        .await
    }

    /// Tells the server, one pass at a time, until `done` has an answer.
    async fn told<R>(
        self: &Arc<Self>,
        server: &impl Server,
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
                let pass = if state.passing { None } else { state.pass(server.waiters()) };
                state.passing |= pass.is_some();
                pass
            };
            // The pass under way tells of this request too, or the next pass does.
            let Some(pass) = pass else {
                changed.await;
                continue;
            };
            let mut passing = Passing { cohort: self, unheard: pass.to.is_none() };
            let sent = request.clock().now();
            let (passed, may_arrive) = server.pass(request, &pass).await;
            passing.unheard &= may_arrive;
            // Even this answer may be that to its second sending.
            self.state().unheard |= passing.unheard;
            // The waiter that the name was handed to has it, even if the server refused this pass.
            let passed = match pass.to {
                Some(_) => passed.map_err(|error| error.with_applied(Applied::Maybe))?,
                None => passed?,
            };
            self.passed(server.waiters(), &pass, sent, passed);
        }
    }

    fn passed(self: &Arc<Self>, waiters: &Waiters, pass: &Pass, sent: Instant, passed: Passed) {
        let mut state = self.state();
        match passed {
            Passed::Refused if state.phase == Phase::Freeing && state.was_freed_unheard() => {
                state.phase = Phase::Freed;
            }
            Passed::Refused => {
                let is_over = |id| pass.ended.iter().any(|(ended, _)| *ended == id);
                self.lose(waiters, &mut state, LossReason::Removed);
                state.members.retain(|member| !is_over(member.request.id()));
            }
            Passed::Freed if state.phase == Phase::Freeing => state.phase = Phase::Freed,
            Passed::Freed => {}
            Passed::On(line) => {
                let holder = pass.to.as_ref().map(Request::id);
                while state.members.front().is_some_and(|it| Some(it.request.id()) != holder) {
                    state.members.pop_front();
                }
                // Those who were handed the name since were in the queue when this was read.
                let line = line.into_iter().filter(|next| !state.is_member(next.0)).collect();
                state.queue_head = line;
                state.sent = state.sent.max(sent);
                state.spare = state.spare.max(pass.token + AHEAD);
                self.hand_on(waiters, &mut state);
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
        let cohort = Cohort::new(&holds, 7, clock.now(), Vec::new());
        cohort.head((waits, 1), 8);
        assert!(cohort.state().queue_head.is_empty(), "the server knows another holder by now");
        cohort.head((waits, 1), 7);
        assert_eq!(cohort.state().queue_head, [(waits, 1)]);
    }
}
