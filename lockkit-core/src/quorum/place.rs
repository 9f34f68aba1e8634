//! A round's place on one member: asked for, held, taken again, and cleaned up, by one task.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use super::member::Member;
use super::round::{Left, Round, Stage};
use super::seats::{Held, Seat};
use crate::kit::{Backoff, within};
use crate::{Applied, Error, Grant, Instant, Lease, Request, Result};

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

type Call = Pin<Box<dyn Future<Output = Result<Option<Grant>>> + Send>>;

/// The place of one round on one member.
pub(super) struct Place {
    round: Arc<Round>,
    number: usize,
    member: Arc<Member>,
    request: Request,
    /// A call that may still make a grant.
    call: Option<Call>,
    /// Whether a call had no answer: something may be there that is not known here.
    is_unsure: bool,
    /// Until when something may be there, as far as it expires by itself.
    until: Instant,
    left: Option<Left>,
}

/// What came of asking a member.
enum Asked {
    Held(Arc<dyn Lease>),
    /// Another holds there, or the member did not answer.
    Not,
    /// The round is over; the call goes on.
    Over,
}

impl Place {
    pub(super) fn new(round: Arc<Round>, number: usize) -> Self {
        let (member, request) = (Arc::clone(&round.members[number]), round.request_of(number));
        let until = round.now();
        Self { round, number, member, request, call: None, is_unsure: false, until, left: None }
    }

    /// Takes the place, keeps it for as long as the round lasts, and leaves nothing there.
    pub(super) async fn sit(mut self) {
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut lease = None;
        while self.may_ask().await {
            match self.ask().await {
                Asked::Held(held) => {
                    backoff.reset();
                    hold(&self.round, self.number, &*held).await;
                    // Known to be lost, it is not released.
                    lease = self.round.look(|state| {
                        matches!(state.seats[self.number], Seat::Held(_)).then_some(held)
                    });
                }
                Asked::Not => {
                    let pause = self.request.clock().sleep(backoff.next_pause());
                    tokio::select! {
                        biased;
                        () = pause => {}
                        _ = self.round.over() => {}
                    }
                }
                Asked::Over => {}
            }
        }
        self.left = Some(self.clean(lease).await);
    }

    /// Waits until the member is to be asked; `false`: the round is over.
    async fn may_ask(&mut self) -> bool {
        let (round, number) = (&self.round, self.number);
        let may_ask = round.until(|state| match (&state.seats[number], state.stage) {
            (_, Stage::Over(_)) => Some(false),
            // Not from another, and not before a majority has said that the lease goes on: a revocation is not undone.
            (Seat::Lost(_, lost), Stage::Granted(_)) => {
                (state.renewed > Some(*lost)).then_some(true)
            }
            (Seat::Lost(..), Stage::Open) => None,
            (Seat::Refused, Stage::Open) => None,
            (_, Stage::Open | Stage::Granted(_)) => Some(true),
        });
        if !may_ask.await {
            return false;
        }
        if let Some(silence) = self.member.silence() {
            self.set(Seat::Apart(Some(silence)));
            tokio::select! {
                biased;
                () = self.member.answers() => {}
                _ = self.round.over() => return false,
            }
        }
        true
    }

    /// Asks the member, for its queue once the round has its majority.
    async fn ask(&mut self) -> Asked {
        let clock = self.request.clock().clone();
        let sent = clock.now();
        self.until = self.until.max(sent.saturating_add(self.request.ttl()));
        self.set(Seat::Asked);
        let waits = self.round.waits || self.round.look(|state| state.token().is_some());
        let mut call = call(&self.member, &self.request, waits);
        let mut is_slow = false;
        let answer = loop {
            let limit = clock.sleep_until(sent.saturating_add(self.round.limit()));
            tokio::select! {
               biased;
                answer = &mut call => break answer,
                _ = self.round.over() => {
                    self.call = Some(call);
                    return Asked::Over;
                }
                () = limit, if !is_slow => {
                    is_slow = true;
                    self.slow();
                }
            }
        };
        match answer {
            Ok(Some(grant)) => Asked::Held(self.held(grant)),
            Ok(None) => {
                self.set(Seat::Refused);
                self.round.report();
                Asked::Not
            }
            Err(error) => {
                self.is_unsure |= !matches!(error, Error::Unavailable { applied: Applied::No, .. });
                if matches!(error, Error::Unavailable { .. }) {
                    self.member.note_silence(&self.request, &error);
                }
                self.set(Seat::Apart(Some(error)));
                self.round.report();
                Asked::Not
            }
        }
    }

    /// It has not answered in time: it may do so later.
    fn slow(&self) {
        let is_asked = self.round.look(|state| matches!(state.seats[self.number], Seat::Asked));
        if is_asked {
            let why = format!("no answer for {:?}", self.round.limit());
            let why = Error::unavailable(Applied::Maybe, why);
            self.member.note_silence(&self.request, &why);
            self.set(Seat::Apart(Some(why)));
            self.round.report();
        }
    }

    fn held(&mut self, grant: Grant) -> Arc<dyn Lease> {
        let lease: Arc<dyn Lease> = Arc::from(grant.lease);
        let token = self.member.raises.then_some(grant.token);
        let held = Held { lease: Arc::clone(&lease), token, agreed: None, term: grant.term };
        self.set(Seat::Held(held));
        lease
    }

    fn set(&self, seat: Seat) {
        self.round.change(|state| state.seats[self.number] = seat);
    }

    /// Has the member forget the round, once and for all.
    async fn clean(&mut self, lease: Option<Arc<dyn Lease>>) -> Left {
        let clock = self.request.clock().clone();
        let limit = self.round.limit();
        let until = self.round.look(|state| match &state.seats[self.number] {
            Seat::Held(held) => super::seats::ends(held.term).unwrap_or(self.until),
            _ => self.until,
        });
        let until = until.max(self.until);
        if lease.is_none() && self.call.is_none() && !self.is_unsure {
            return Left::Clean;
        }
        if let Some(lease) = lease.filter(|_| !self.is_unsure && !self.member.is_silent()) {
            match self.member.ask(&self.request, limit, lease.release()).await {
                Ok(()) => return Left::Released,
                Err(Error::Lost { .. }) => return Left::Clean,
                Err(_) => {}
            }
        }
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            // A silent member is asked when it answers again; what is there expires until then.
            let expired = clock.sleep_until(until);
            tokio::select! {
               biased;
                () = self.member.answers() => {}
                () = expired => return Left::Clean,
            }
            if self.withdraw(limit).await {
                return Left::Clean;
            }
            clock.sleep(backoff.next_pause()).await;
        }
    }

    /// Withdraws, polling the call that is under way on; whether nothing is left.
    async fn withdraw(&mut self, limit: Duration) -> bool {
        let (member, request) = (Arc::clone(&self.member), self.request.clone());
        let withdrawal = member.ask(&request, limit, member.provider.withdraw(&request));
        let Some(mut call) = self.call.take() else { return withdrawal.await.is_ok() };
        let mut withdrawal = pin!(withdrawal);
        let ended = tokio::select! {
           biased;
            ended = &mut call => Some(ended),
            withdrawn = &mut withdrawal => {
                if withdrawn.is_err() {
                    self.call = Some(call);
                    return false;
                }
                within(request.clock(), limit, call).await
            }
        };
        match ended {
            // Dropped, for a withdrawn request has nothing to wait for; what it left is withdrawn once more.
            None => false,
            Some(Ok(None)) => true,
            Some(Err(Error::Unavailable { applied: Applied::No, .. })) => true,
            // It may have come before or after the withdrawal.
            Some(Ok(Some(_)) | Err(_)) => false,
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let left = self.left.unwrap_or(Left::Abandoned);
        self.round.leave(self.number, left);
    }
}

fn call(member: &Arc<Member>, request: &Request, waits: bool) -> Call {
    let (member, request) = (Arc::clone(member), request.clone());
    Box::pin(async move {
        match waits {
            true => member.provider.acquire(&request).await.map(Some),
            false => member.provider.try_acquire(&request).await,
        }
    })
}

/// Watches a member's grant until it has ended, or the round is over.
async fn hold(round: &Round, number: usize, lease: &dyn Lease) {
    let is_lost = round.until(|state| {
        let is_held = matches!(state.seats[number], Seat::Held(_));
        (!is_held || state.over().is_some()).then_some(())
    });
    tokio::select! {
       biased;
        () = is_lost => {}
        reason = lease.lost() => round.lost_on(number, reason),
        () = write_back(round, number, lease) => {}
    }
}

/// Has the member carry the token of the whole too: so its counter stays level with those of the others.
async fn write_back(round: &Round, number: usize, lease: &dyn Lease) {
    let token = round.until(|state| {
        let token = state.token()?;
        let Seat::Held(held) = &state.seats[number] else { return None };
        // `None`: its tokens do not compare.
        let differs = held.token.is_some_and(|answered| answered != token);
        Some((differs && held.agreed != Some(token)).then_some(token))
    });
    if let Some(token) = token.await {
        // What is granted does not need it: an error changes nothing.
        within(round.request.clock(), round.limit(), lease.raise(token)).await;
    }
    std::future::pending::<()>().await;
}
