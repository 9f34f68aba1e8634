//! A majority of independent stores as one provider.

mod claims;
mod lease;
mod member;
#[cfg(test)]
mod model;
mod operator;
mod place;
mod round;
mod seats;
mod settle;
pub(crate) mod surroundings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;

use crate::kit::within;
use crate::{
    Applied, Clock, Error, Exclusion, Expiry, FencingToken, Finding, Grant, Guarantees, Kind,
    LockProvider, LossReason, Operator, Request, Result, Severity, Term, TokenScope, TtlRange,
    WakeUp,
};
use claims::Claims;
use lease::{QuorumLease, renew};
use member::Member;
use round::Party;
use settle::{Outcome, RoundTrip, settle};
use surroundings::Surroundings;

/// So often a request that does not wait tries again after a split vote.
const TRIES: u32 = 3;

/// What can break it, where the members keep their data.
const BREAKS_ON: &[&str] = &[
    "a clock of a member that jumps ahead, while no more than a majority of the members is held",
    "a member that loses its data, or comes back with old data",
    "a pause between a check and its use that outlasts the margin",
];

/// A majority of independent stores as one store: Redlock, with fencing tokens that only grow.
///
/// A request asks all members at once. It is granted when a majority of them agrees on one token and has time left,
/// the same members for both, judged after the token was written back where it was smaller. The term is that of the
/// member whose deadline is the q-th greatest, q being a majority: until then a majority surely holds. Members that
/// are missing are taken in the background. A waiter queues on all members; one that holds some of them, but no
/// majority, gives them up after 2 to 6 round trips and queues again.
///
/// The members are clients of stores that know nothing of each other. Exclusive locks only.
///
/// A member that loses its data, or comes back with old data, is not detected: see
/// [`Guarantees::belief_breaks_on`]. Until it is, use this for members that keep their data.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use std::sync::Arc;
///
/// use lockkit_core::{LockProvider, Locks, Memory, Quorum};
///
/// let members = (0..3).map(|_| Arc::new(Memory::new()) as Arc<dyn LockProvider>);
/// let locks = Locks::new(Quorum::new(members)?);
/// let guard = locks.lock("billing/nightly").acquire().await?;
/// guard.release().await?;
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Quorum {
    members: Arc<[Arc<Member>]>,
    guarantees: Guarantees,
    claims: Arc<Claims>,
    round_trip: Arc<RoundTrip>,
    /// The greatest token seen.
    greatest: AtomicU64,
    is_closed: AtomicBool,
}

impl Quorum {
    /// A quorum of these members: an odd number from 3 to 9.
    ///
    /// # Errors
    /// `Invalid`: another number of them, or one of them twice. `Rejected`: fewer than a majority of them offer
    /// [`Lease::raise`](crate::Lease::raise), one of them does not expire its leases, or no ttl suits all.
    pub fn new(members: impl IntoIterator<Item = Arc<dyn LockProvider>>) -> Result<Self> {
        Self::surrounded(members, &Surroundings::default())
    }

    pub(crate) fn surrounded(
        members: impl IntoIterator<Item = Arc<dyn LockProvider>>,
        surroundings: &Surroundings,
    ) -> Result<Self> {
        let members: Vec<_> = members.into_iter().collect();
        check_number(&members)?;
        let all: Vec<_> = members.iter().map(LockProvider::guarantees).collect();
        let guarantees = together(&all)?;
        Ok(Self {
            members: members
                .into_iter()
                .map(|member| Member::new(member, surroundings.clone()))
                .collect(),
            guarantees,
            claims: Arc::default(),
            round_trip: Arc::default(),
            greatest: AtomicU64::new(0),
            is_closed: AtomicBool::new(false),
        })
    }

    /// The token to begin at, the same for all members.
    fn floor(&self, clock: &Clock) -> Result<FencingToken> {
        let seen = self.greatest.load(Ordering::Relaxed);
        let micros = self.members[0].surroundings.micros(clock);
        Ok(FencingToken::new(micros.max(seen.saturating_add(1)))?)
    }

    async fn take(&self, request: &Request, waits: bool) -> Result<Option<Grant>> {
        self.check(request)?;
        let mut splits = 0;
        loop {
            let floor = self.floor(request.clock())?;
            let Some(party) = self.claims.join(&self.members, request, floor, waits)? else {
                return Ok(None);
            };
            let round = Arc::clone(&party.0);
            let outcome = {
                // Two calls of one request decide one after the other.
                let _turn = round.turn().lock().await;
                settle(&round, &self.round_trip, splits).await
            };
            let split = match outcome {
                Outcome::Granted(token) => match self.grant(party, token).await {
                    Some(grant) => return Ok(Some(grant)),
                    None => continue,
                },
                Outcome::Withdrawn => return Err(Error::withdrawn()),
                Outcome::Apart(error) => {
                    round.end(LossReason::Released);
                    return Err(unavailable(error));
                }
                Outcome::Refused => None,
                Outcome::Split => Some(()),
            };
            // Another call of the request may wait for what is refused to this one.
            if round.waits == waits {
                round.end(LossReason::Released);
            }
            if within(request.clock(), round.limit(), round.left()).await.is_none() && !waits {
                let why = "a member has not acknowledged the end of a refused request";
                return Err(Error::unavailable(Applied::Maybe, why));
            }
            splits += 1;
            match split {
                None if !waits => return Ok(None),
                Some(()) if !waits && splits >= TRIES => return Ok(None),
                Some(()) if !waits => {
                    let pause = {
                        let random = self.members[0].surroundings.random();
                        self.round_trip.jitter(splits, request.ttl(), random)
                    };
                    request.clock().sleep(pause).await;
                }
                _ => {}
            }
        }
    }

    /// The grant of a round, or of a replay of its request; `None`: it has ended since.
    async fn grant(&self, party: Party, token: FencingToken) -> Option<Grant> {
        self.greatest.fetch_max(token.as_u64(), Ordering::Relaxed);
        let round = &party.0;
        let term = match round.first_told() {
            Some(term) => term,
            // A replay: its term begins again.
            None => renew(round).await.ok()?,
        };
        let lease = QuorumLease::new(party, Arc::clone(&self.round_trip));
        Some(Grant::new(token, term, lease))
    }

    fn check(&self, request: &Request) -> Result<()> {
        if self.is_closed.load(Ordering::Acquire) {
            return Err(Error::Closed);
        }
        if request.kind() != Kind::Exclusive {
            return Err(Error::rejected(
                format!("a lock of kind {} on a quorum", request.kind()),
                "a quorum offers exclusive locks: take one, or use one store",
            ));
        }
        Ok(())
    }
}

#[async_trait]
impl LockProvider for Quorum {
    fn guarantees(&self) -> Guarantees {
        self.guarantees.clone()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.take(request, false).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        // A round that waits is never refused.
        self.take(request, true).await?.ok_or_else(Error::withdrawn)
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let rounds = self.claims.rounds(request.id());
        rounds.iter().for_each(|round| round.end(LossReason::Removed));
        let limit = crate::kit::call_limit(request.ttl());
        let left = join_all(rounds.iter().map(|round| round.left()));
        if within(request.clock(), limit, left).await.is_none() {
            let why = "a member has not acknowledged the withdrawal";
            return Err(Error::unavailable(Applied::Maybe, why));
        }
        for round in rounds {
            round.withdraw_abandoned().await?;
            self.claims.forget(&round);
        }
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        let can_tell = self.members.iter().all(|member| member.provider.operator().is_some());
        can_tell.then_some(self as &dyn Operator)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let all = self.members.iter().map(|member| member.provider.examine());
        let mut findings = Vec::new();
        for (number, found) in (1..).zip(join_all(all).await) {
            match found {
                Ok(found) => findings.extend(found.into_iter().map(|finding| {
                    let what = format!("member {number}: {}", finding.what);
                    Finding::new(finding.severity, what, finding.remedy)
                })),
                Err(error) => findings.push(Finding::new(
                    Severity::Warning,
                    format!("member {number} does not answer: {error}"),
                    "start it: with each member that is down, fewer can fail",
                )),
            }
        }
        findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
        Ok(findings)
    }

    async fn close(&self) -> Result<()> {
        self.is_closed.store(true, Ordering::Release);
        let rounds = self.claims.all();
        rounds.iter().for_each(|round| round.end(LossReason::Released));
        let left = join_all(rounds.iter().map(|round| round.left()));
        // What is not clean by then is cleaned up behind this, or expires.
        drop(tokio::time::timeout(crate::kit::LONGEST_CALL, left).await);
        let closed = join_all(self.members.iter().map(|member| member.provider.close())).await;
        let failed = closed.iter().filter(|closed| closed.is_err()).count();
        let can_fail = self.members.len() - seats::majority(self.members.len());
        match closed.into_iter().find_map(Result::err) {
            Some(error) if failed > can_fail => Err(error),
            _ => Ok(()),
        }
    }
}

fn unavailable(error: Option<Error>) -> Error {
    match error {
        Some(error) if !error.is_retryable() => error,
        error => {
            let cause = error.map_or_else(|| "no answer".to_owned(), |error| error.to_string());
            let why =
                format!("fewer than a majority of the members answer; one of the others: {cause}");
            Error::unavailable(Applied::Maybe, why)
        }
    }
}

fn check_number(members: &[Arc<dyn LockProvider>]) -> Result<()> {
    if members.len() % 2 == 0 || !(3..=9).contains(&members.len()) {
        return Err(Error::invalid(
            format!("a quorum of {} members", members.len()),
            "give it an odd number from 3 to 9: an even one tolerates no more failures than one less",
        ));
    }
    let twice = members
        .iter()
        .enumerate()
        .find(|(number, member)| members[..*number].iter().any(|other| Arc::ptr_eq(other, member)));
    match twice {
        None => Ok(()),
        Some((number, _)) => Err(Error::invalid(
            format!("member {} of a quorum, which is one of the members before", number + 1),
            "give it a store of its own: one that counts twice is no majority",
        )),
    }
}

/// What the members promise together.
fn together(members: &[Guarantees]) -> Result<Guarantees> {
    let majority = seats::majority(members.len());
    let raising = members.iter().filter(|member| member.raises_tokens).count();
    if raising < majority {
        return Err(Error::rejected(
            format!("a quorum in which {raising} of {} members raise tokens", members.len()),
            format!("use {majority} members that declare Guarantees::raises_tokens"),
        ));
    }
    let ranges: Option<Vec<TtlRange>> =
        members.iter().map(|member| member.expiry.range()).collect();
    let range = ranges.ok_or_else(|| {
        Error::rejected(
            "a member of a quorum whose leases do not end by a ttl",
            "use members that expire leases: else a client that is gone holds it for ever",
        )
    })?;
    let range = range.into_iter().reduce(|all, range| TtlRange {
        min: all.min.max(range.min),
        max: all.max.min(range.max),
        granularity: all.granularity.max(range.granularity),
    });
    let range = range.filter(|range| range.min <= range.max).ok_or_else(|| {
        Error::rejected("members of a quorum with no ttl in common", "use stores of one kind")
    })?;
    let mut guarantees = Guarantees::new(Exclusion::QuorumAndClocks, Expiry::Ttl(range));
    guarantees.wake_up = slowest(members);
    guarantees.token_survives = survived(members);
    guarantees.belief_breaks_on = BREAKS_ON;
    Ok(guarantees)
}

/// A waiter is told if all members tell it: it may need each of them.
fn slowest(members: &[Guarantees]) -> WakeUp {
    let polls = members.iter().filter_map(|member| match member.wake_up {
        WakeUp::Poll(every) => Some(every),
        WakeUp::Push => None,
    });
    polls.max().map_or(WakeUp::Push, |every: Duration| WakeUp::Poll(every))
}

/// A majority's tokens survive what the tokens of each member survive.
fn survived(members: &[Guarantees]) -> TokenScope {
    let all = |survives: fn(&TokenScope) -> bool| {
        members.iter().all(|member| survives(&member.token_survives))
    };
    TokenScope {
        release: all(|scope| scope.release),
        expiry: all(|scope| scope.expiry),
        holder_crash: all(|scope| scope.holder_crash),
        server_restart: all(|scope| scope.server_restart),
        failover: all(|scope| scope.failover),
        data_loss: false,
    }
}

/// A term is told once as it was granted; later it is renewed first.
impl round::Round {
    fn first_told(&self) -> Option<Term> {
        self.change(|state| {
            let term = seats::term(&state.seats)?;
            let is_first = state.told.is_none();
            if is_first {
                state.told = seats::ends(term);
            }
            is_first.then_some(term)
        })
    }
}
