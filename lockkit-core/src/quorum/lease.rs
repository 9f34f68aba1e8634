//! What a grant of a quorum gives.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;

use super::round::{Left, Party, Round, State};
use super::seats;
use super::settle::RoundTrip;
use crate::kit::within;
use crate::{Applied, Error, Instant, Lease, LossReason, Result, Term};

#[derive(Debug)]
pub(super) struct QuorumLease {
    party: Party,
    round_trip: Arc<RoundTrip>,
}

/// What came of one renewal so far.
enum Renewed {
    Acknowledged(Term),
    Lost(LossReason),
}

impl QuorumLease {
    pub(super) fn new(party: Party, round_trip: Arc<RoundTrip>) -> Self {
        Self { party, round_trip }
    }

    fn round(&self) -> &Arc<Round> {
        &self.party.0
    }
}

/// Extends the members' grants; completes when a majority has acknowledged that.
pub(super) async fn renew(round: &Arc<Round>) -> Result<Term> {
    let (began, ttl) = (round.now(), round.request.ttl());
    if !has_time(round, began) {
        // Never again: another may hold since.
        round.end(LossReason::Expired);
    }
    let runtime = round.members[0].surroundings.runtime()?;
    let acknowledged = Arc::new(AtomicUsize::new(0));
    for (number, held) in round.held() {
        if round.members[number].is_silent() {
            continue;
        }
        // A slow one goes on while this returns: its acknowledgement counts when it comes.
        let (round, acknowledged) = (Arc::clone(round), Arc::clone(&acknowledged));
        runtime.spawn(async move {
            let member = &round.members[number];
            match member.ask(&round.request, ttl, held.lease.renew()).await {
                Ok(term) => {
                    acknowledged.fetch_add(1, Ordering::AcqRel);
                    round.extended(number, term);
                }
                Err(Error::Lost { reason, .. }) => round.lost_on(number, reason),
                Err(_) => {}
            }
        });
    }
    let renewed = round.until(|state| {
        if let Some(reason) = state.over() {
            return Some(Renewed::Lost(reason));
        }
        let term = seats::term(&state.seats)?;
        let by_majority = acknowledged.load(Ordering::Acquire) >= round.majority();
        by_majority.then_some(Renewed::Acknowledged(term))
    });
    match within(round.request.clock(), round.limit(), renewed).await {
        Some(Renewed::Acknowledged(term)) => {
            round.change(|state| {
                state.renewed = state.renewed.max(Some(began));
                state.told = state.told.max(seats::ends(term));
            });
            Ok(term)
        }
        Some(Renewed::Lost(reason)) => Err(Error::lost(reason)),
        None => {
            let why = "fewer than a majority of the members acknowledged the renewal";
            Err(Error::unavailable(Applied::Maybe, why))
        }
    }
}

/// Completes when the time ends for which a majority surely holds, if that is sooner than the driver was told: members
/// have lost the grant since. Ends a little before, as the driver would.
async fn short_of_time(round: &Round) -> LossReason {
    let margin = (round.request.ttl() / 10).min(Duration::from_secs(2));
    let mut seen = round.watch();
    loop {
        let end = {
            let state = seen.borrow_and_update();
            let end = seats::term(&state.seats).and_then(seats::ends);
            end.filter(|end| state.told.is_some_and(|told| *end < told))
        };
        let ends = async {
            match end {
                Some(end) => round.request.clock().sleep_until(end.saturating_sub(margin)).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            // The sender lives as long as the round.
            _ = seen.changed() => {}
            () = ends => {
                round.end(LossReason::Expired);
                return LossReason::Expired;
            }
        }
    }
}

/// Whether a majority surely holds at `now`.
fn has_time(round: &Round, now: Instant) -> bool {
    round.look(|state| seats::live(&state.seats, now) >= round.majority())
}

#[async_trait]
impl Lease for QuorumLease {
    async fn renew(&self) -> Result<Term> {
        renew(self.round()).await
    }

    async fn lost(&self) -> LossReason {
        tokio::select! {
            biased;
            reason = self.round().over() => reason,
            reason = short_of_time(self.round()) => reason,
        }
    }

    async fn out_of_reach(&self) {
        // A member's silence changes no round, so it is looked at again after each of its changes.
        let round = self.round();
        loop {
            let answering: Vec<_> =
                round.members.iter().filter(|member| !member.is_silent()).collect();
            if answering.len() < round.majority() {
                return;
            }
            let falls = answering.iter().map(|member| Box::pin(member.falls_silent()));
            futures_util::future::select_all(falls).await;
        }
    }

    async fn release(&self) -> Result<()> {
        let round = self.round();
        round.end(LossReason::Released);
        if let Some(reason @ (LossReason::Removed | LossReason::Revoked | LossReason::Expired)) =
            round.look(State::over)
        {
            return Err(Error::lost(reason));
        }
        let (majority, clock) = (round.majority(), round.request.clock());
        let most = round.until(|state| {
            let released = released(&state.left);
            (released >= majority).then_some(())
        });
        let all = round.left();
        tokio::select! {
           biased;
            () = all => {}
            () = async {
                most.await;
                // The others answer about now; one that is stuck is cleaned up behind this.
                clock.sleep(4 * self.round_trip.get()).await;
            } => {}
            () = clock.sleep(round.limit()) => {}
        }
        round.look(|state| match released(&state.left) {
            released if released >= majority => Ok(()),
            _ if state.left.iter().all(Option::is_some) => Err(Error::lost(LossReason::Removed)),
            _ => {
                let why = "fewer than a majority of the members acknowledged the release";
                Err(Error::unavailable(Applied::Maybe, why))
            }
        })
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

fn released(left: &[Option<Left>]) -> usize {
    left.iter().filter(|left| **left == Some(Left::Released)).count()
}
