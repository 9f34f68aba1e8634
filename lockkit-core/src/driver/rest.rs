//! A name that stays taken after the end of its guard: for its minimum hold, or after a loss.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::held::Held;
use super::reaper::{limited, release_after};
use super::rests::Resting;
use super::shared::Shared;
use crate::{FencingToken, Grant, Instant, Lease, LossReason, Result, Term};

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

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        self.lease.raise(token).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}
