//! One round of a request: a place on every member, under an id that no other round has.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, watch};

use super::member::Member;
use super::seats::{self, Held, Seat};
use crate::kit::call_limit;
use crate::request::Listener;
use crate::{FencingToken, Instant, LossReason, Request, RequestId, Result, StoreSays, Term};

/// A request's places on all members.
///
/// ```text
/// open --a majority agrees and has time--> granted --released, withdrawn or lost--> over --every place is clean--> gone
///   | split, refused, out of reach, withdrawn, or its caller left                     ^
///   +---------------------------------------------------------------------------------+
/// ```
///
/// A withdrawn id is never used again: a late copy of its acquire must not hold.
#[derive(Debug)]
pub(super) struct Round {
    pub(super) members: Arc<[Arc<Member>]>,
    /// The caller's.
    pub(super) request: Request,
    /// Whether it waits in the members' queues.
    pub(super) waits: bool,
    /// The same wish under the id and the floor of this round.
    asked: (RequestId, FencingToken),
    state: watch::Sender<State>,
    /// Two calls of one request decide one after the other.
    turn: Mutex<()>,
    gone: Gone,
}

/// Is told of a round of which nothing is left.
pub(super) struct Gone(pub(super) Box<dyn Fn(&Round) + Send + Sync>);

impl fmt::Debug for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gone")
    }
}

/// What is known of a round.
#[derive(Debug)]
pub(super) struct State {
    pub(super) seats: Vec<Seat>,
    pub(super) stage: Stage,
    /// When the last renewal began that a majority acknowledged.
    pub(super) renewed: Option<Instant>,
    /// Until when the driver was told that the whole holds.
    pub(super) told: Option<Instant>,
    /// How each place was left.
    pub(super) left: Vec<Option<Left>>,
    /// How many callers and leases there are.
    parties: usize,
}

/// Where a round stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Open,
    Granted(FencingToken),
    Over(LossReason),
}

/// How a place was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    /// Its grant was released, as the member acknowledged.
    Released,
    /// Nothing is left there.
    Clean,
    /// The task that cleans it up has ended with its runtime.
    Abandoned,
}

/// A caller or a lease of a round, which is over when the last one is dropped.
#[derive(Debug)]
pub(super) struct Party(pub(super) Arc<Round>);

impl Round {
    /// A round that has asked none of its members yet.
    pub(super) fn open(
        members: &Arc<[Arc<Member>]>,
        request: &Request,
        asked: (RequestId, FencingToken),
        waits: bool,
        gone: Gone,
    ) -> Party {
        let seat = |member: &Arc<Member>| match member.silence() {
            Some(error) => Seat::Apart(Some(error)),
            None => Seat::Asked,
        };
        let state = State {
            seats: members.iter().map(seat).collect(),
            stage: Stage::Open,
            renewed: None,
            told: None,
            left: vec![None; members.len()],
            parties: 0,
        };
        let round = Arc::new(Self {
            members: Arc::clone(members),
            request: request.clone(),
            waits,
            asked,
            state: watch::Sender::new(state),
            turn: Mutex::default(),
            gone,
        });
        round.party()
    }

    /// One more caller or lease.
    pub(super) fn party(self: &Arc<Self>) -> Party {
        self.state.send_modify(|state| state.parties += 1);
        Party(Arc::clone(self))
    }

    /// The request as this member is asked for it.
    pub(super) fn request_of(self: &Arc<Self>, number: usize) -> Request {
        let round = Arc::downgrade(self);
        let heard = move |word: StoreSays| {
            if let Some(round) = round.upgrade() {
                round.hear(number, word);
            }
        };
        let (id, floor) = self.asked;
        self.request.for_member(id, floor, Listener(Arc::new(heard)))
    }

    fn hear(&self, number: usize, word: StoreSays) {
        self.change(|state| {
            let seat = &mut state.seats[number];
            let next = match word {
                StoreSays::Held(holder) => Seat::Waits(holder),
                StoreSays::Unreachable => Seat::Apart(None),
            };
            if !matches!(seat, Seat::Held(_)) {
                *seat = next;
            }
        });
        self.report();
    }

    /// Tells the driver what the members say together.
    pub(super) fn report(&self) {
        let state = self.state.borrow();
        if state.stage != Stage::Open {
            return;
        }
        let apart = state.seats.iter().filter(|seat| matches!(seat, Seat::Apart(_))).count();
        if state.seats.len() - apart < self.majority() {
            drop(state);
            return self.request.report(StoreSays::Unreachable);
        }
        let holder = state.seats.iter().find_map(|seat| match seat {
            Seat::Waits(holder) => Some(holder.clone()),
            _ => None,
        });
        drop(state);
        if let Some(holder) = holder {
            self.request.report(StoreSays::Held(holder));
        }
    }

    pub(super) const fn turn(&self) -> &Mutex<()> {
        &self.turn
    }

    pub(super) fn watch(&self) -> watch::Receiver<State> {
        self.state.subscribe()
    }

    pub(super) fn majority(&self) -> usize {
        seats::majority(self.members.len())
    }

    pub(super) fn now(&self) -> Instant {
        self.request.clock().now()
    }

    /// How long one member may take for one call.
    pub(super) fn limit(&self) -> Duration {
        call_limit(self.request.ttl())
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut changed = None;
        self.state.send_modify(|state| changed = Some(change(state)));
        changed.expect("send_modify calls it once")
    }

    pub(super) fn look<T>(&self, look: impl FnOnce(&State) -> T) -> T {
        look(&self.state.borrow())
    }

    /// What `look` finds, as soon as it finds something; level-triggered.
    pub(super) async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let (mut seen, mut found) = (self.state.subscribe(), None);
        let looked = seen.wait_for(|state| {
            found = look(state);
            found.is_some()
        });
        // The sender lives as long as this.
        drop(looked.await);
        match found {
            Some(found) => found,
            None => std::future::pending().await,
        }
    }

    /// Completes when the round is over.
    pub(super) async fn over(&self) -> LossReason {
        self.until(State::over).await
    }

    /// Ends it: every place is cleaned up. The first reason stays.
    pub(super) fn end(&self, reason: LossReason) {
        self.state.send_if_modified(|state| {
            let ends = state.over().is_none();
            if ends {
                state.stage = Stage::Over(reason);
            }
            ends
        });
    }

    /// A member's grant has ended, as the member says.
    pub(super) fn lost_on(&self, number: usize, reason: LossReason) {
        let now = self.now();
        self.change(|state| {
            if matches!(state.seats[number], Seat::Held(_)) {
                state.seats[number] = Seat::Lost(reason, now);
            }
            if let (Stage::Granted(_), Some(reason)) = (state.stage, seats::lost(&state.seats)) {
                state.stage = Stage::Over(reason);
            }
        });
    }

    /// A member has extended its grant.
    pub(super) fn extended(&self, number: usize, term: Term) {
        self.change(|state| {
            if let Seat::Held(held) = &mut state.seats[number] {
                held.extend(term);
            }
        });
    }

    /// The leases of the members that hold, each with its number.
    pub(super) fn held(&self) -> Vec<(usize, Held)> {
        self.look(|state| {
            let held = state.seats.iter().enumerate().filter_map(|(number, seat)| match seat {
                Seat::Held(held) => Some((number, held.clone())),
                _ => None,
            });
            held.collect()
        })
    }

    /// Completes when every place is clean, or left by a task that has ended.
    pub(super) async fn left(&self) {
        self.until(|state| state.left.iter().all(Option::is_some).then_some(())).await;
    }

    /// Has the members forget the places whose tasks have ended with their runtime.
    ///
    /// # Errors
    /// `Unavailable`: one of them did not answer.
    pub(super) async fn withdraw_abandoned(self: &Arc<Self>) -> Result<()> {
        let abandoned: Vec<_> = self.look(|state| {
            let left = state.left.iter().enumerate();
            left.filter(|(_, left)| **left == Some(Left::Abandoned)).map(|(at, _)| at).collect()
        });
        for number in abandoned {
            let (member, request) = (&self.members[number], self.request_of(number));
            member.ask(&request, self.limit(), member.provider.withdraw(&request)).await?;
            self.leave(number, Left::Clean);
        }
        Ok(())
    }

    /// A place was left; after the last one the round is gone.
    pub(super) fn leave(&self, number: usize, left: Left) {
        let is_gone = self.change(|state| {
            state.left[number] = Some(left);
            let is_clean = |left: &Option<Left>| left.is_some_and(|left| left != Left::Abandoned);
            state.left.iter().all(is_clean)
        });
        if is_gone {
            (self.gone.0)(self);
        }
    }
}

impl State {
    pub(super) const fn over(&self) -> Option<LossReason> {
        match self.stage {
            Stage::Over(reason) => Some(reason),
            Stage::Open | Stage::Granted(_) => None,
        }
    }

    pub(super) const fn token(&self) -> Option<FencingToken> {
        match self.stage {
            Stage::Granted(token) => Some(token),
            Stage::Open | Stage::Over(_) => None,
        }
    }
}

impl Clone for Party {
    fn clone(&self) -> Self {
        self.0.party()
    }
}

impl Drop for Party {
    fn drop(&mut self) {
        let is_last = self.0.change(|state| {
            state.parties -= 1;
            state.parties == 0
        });
        if is_last {
            self.0.end(LossReason::Released);
        }
    }
}
