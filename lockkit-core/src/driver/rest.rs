//! A name that stays taken after the end of its guard: for its minimum hold, or after a loss.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::held::Held;
use super::reaper::limited;
use super::shared::Shared;
use crate::{Grant, Instant, Lease, LossReason, Result, Term};

/// How long a caller wants the name to stay taken after the end of its guard.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rests {
    /// Since the grant.
    pub(crate) at_least: Option<Duration>,
    /// Since a loss.
    pub(crate) after_loss: Option<Duration>,
}

/// The same of one grant.
#[derive(Debug)]
pub(super) struct Resting {
    /// The end of its minimum hold.
    at_least: Option<Instant>,
    after_loss: Option<Duration>,
}

impl Rests {
    /// For a grant that has come by `now`, which is after the store made it. `None`: its name is free with its end.
    pub(super) fn of_grant(self, now: impl FnOnce() -> Instant) -> Option<Box<Resting>> {
        let Self { at_least, after_loss } = self;
        (at_least.is_some() || after_loss.is_some()).then(|| {
            let at_least = at_least.map(|least| now().saturating_add(least));
            Box::new(Resting { at_least, after_loss })
        })
    }
}

impl Resting {
    /// Until when the name stays taken once the guard has ended for this reason; `None`: it is free.
    pub(super) fn until(
        &self,
        reason: LossReason,
        now: Instant,
        term_end: Option<Instant>,
    ) -> Option<Instant> {
        let after = |loss: Option<Instant>| {
            Some(loss?.saturating_add(self.after_loss?)).filter(|until| *until > now)
        };
        match reason {
            LossReason::Released | LossReason::Closed => self.at_least,
            LossReason::MaxHold => self.at_least.max(after(Some(now))),
            // The store counts from there too.
            LossReason::Expired => after(term_end),
            // The store has ended it.
            _ => None,
        }
        .filter(|until| *until > now)
    }

    /// When the store ends the grant by itself, whose term ends then.
    fn expires(&self, term_end: Instant) -> Instant {
        term_end.saturating_add(self.after_loss.unwrap_or_default())
    }
}

/// Ends a grant whose name stays taken until then: the store frees it by itself, or else the lease is kept for so long.
pub(super) async fn rest(
    shared: &Shared,
    hold: &Held,
    lease: &dyn Lease,
    call_limit: Duration,
    (resting, until): (&Resting, Instant),
) -> Result<()> {
    let clock = &shared.clock;
    tracing::debug!(
        target: "lockkit", event = "resting", name = %hold.name, token = hold.token.as_u64(),
        lasting = ?until.saturating_since(clock.now()),
    );
    if release_after(lease, (clock, call_limit), until).await? {
        return Ok(());
    }
    // The guard's caller waits for none of it.
    hold.released(&Ok(()));
    tokio::select! {
        biased;
        reason = lease.lost() => return Err(crate::Error::lost(reason)),
        kept = keep(shared, hold, lease, call_limit, (resting, until)) => kept?,
    }
    limited(clock, call_limit, lease.release()).await
}

/// Asks the store to free the name by itself then; whether it will, or it is time already and it has.
pub(super) async fn release_after(
    lease: &dyn Lease,
    (clock, call_limit): (&crate::Clock, Duration),
    until: Instant,
) -> Result<bool> {
    let left = until.saturating_since(clock.now());
    if left.is_zero() {
        return limited(clock, call_limit, lease.release()).await.map(|()| true);
    }
    limited(clock, call_limit, lease.release_after(left)).await
}

/// Keeps the grant in the store until then; renews where the store would end it before.
async fn keep(
    shared: &Shared,
    hold: &Held,
    lease: &dyn Lease,
    call_limit: Duration,
    (resting, until): (&Resting, Instant),
) -> Result<()> {
    let clock = &shared.clock;
    let mut term = hold.term();
    loop {
        let ttl = term.ttl.unwrap_or_default();
        let expires = resting.expires(term.sent.saturating_add(ttl));
        if term.ttl.is_none() || expires >= until {
            clock.sleep_until(until).await;
            return Ok(());
        }
        clock.sleep_until(term.sent.saturating_add(ttl / 3).min(until)).await;
        match limited(clock, call_limit, lease.renew()).await {
            Ok(renewed) => term = renewed,
            Err(error @ crate::Error::Lost { .. }) => return Err(error),
            Err(_) => clock.sleep(ttl / 12).await,
        }
        if clock.now() >= until {
            return Ok(());
        }
    }
}

/// The grant of a store that was asked for so much more than the ttl: its term is the ttl alone.
pub(super) fn without_delay(grant: Grant, delay: Option<Duration>) -> Grant {
    let Some(delay) = delay else { return grant };
    let term = shorter(grant.term, delay);
    Grant { term, ..grant.wrapped(|lease| Delayed { lease, delay }) }
}

fn shorter(term: Term, delay: Duration) -> Term {
    Term { ttl: term.ttl.map(|ttl| ttl.saturating_sub(delay)), ..term }
}

/// A lease that the store keeps for longer than its holder may believe in it.
#[derive(Debug)]
struct Delayed {
    lease: Box<dyn Lease>,
    delay: Duration,
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl Lease for Delayed {
    async fn renew(&self) -> Result<Term> {
        self.lease.renew().await.map(|term| shorter(term, self.delay))
    }

    async fn lost(&self) -> LossReason {
        self.lease.lost().await
    }

    async fn out_of_reach(&self) {
        self.lease.out_of_reach().await;
    }

    async fn release(&self) -> Result<()> {
        self.lease.release().await
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        self.lease.release_after(rest).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}
