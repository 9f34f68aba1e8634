//! Mistakes of a client in how a lease ends.

use std::collections::HashSet;
use std::future::pending;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt;
use lockkit_core::{Error, LossReason, Operator, RequestId, Result, Term, async_trait};

use super::flaw::Flaw;
use super::term_flaws::RenewalNeverSent;
use super::twist::{Twist, TwistedLease};

pub(crate) fn end_flaws() -> Vec<Flaw> {
    [loss_flaws(), release_flaws()].concat()
}

fn loss_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "loss-at-once",
            "a lease is reported as lost while it is held",
            &["LV-07"],
            LossAtOnce,
        ),
        Flaw::twist(
            "loss-once",
            "a loss is told to the first who asks only: edge-triggered",
            &["C7-03"],
            LossOnce::default(),
        ),
        Flaw::twist(
            "loss-unheard",
            "a loss from before it was asked for is never told: subscribed too late",
            &["C7-03"],
            LossUnheard,
        ),
        Flaw::twist(
            "loss-never-told",
            "neither the lease nor its renewals tell that the entry was removed",
            &["SF-19"],
            LossNeverTold,
        ),
    ]
}

fn release_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "release-lies",
            "a release does nothing and says that it did",
            &["SF-03"],
            ReleaseLies,
        ),
        Flaw::twist(
            "release-never-answers",
            "a release gets no answer",
            &["SF-03"],
            ReleaseNeverAnswers,
        ),
        Flaw::twist(
            "release-twice-frees-next",
            "a second release of one lease ends the next holder's grant",
            &["SF-03"],
            ReleaseTwiceFreesNext,
        ),
        Flaw::twist(
            "release-only-once",
            "a second release of one lease is refused",
            &["SF-03"],
            ReleaseOnlyOnce::default(),
        ),
        Flaw::twist(
            "release-hides-loss",
            "a release of a grant that had ended before is called a success",
            &["SF-01"],
            ReleaseHidesLoss,
        ),
        Flaw::twist(
            "release-frees-all-names",
            "a release ends the session, and every other name held on it",
            &["SF-24"],
            ReleaseFreesAllNames,
        ),
    ]
}

#[derive(Debug)]
struct LossAtOnce;

#[async_trait]
impl Twist for LossAtOnce {
    async fn lost(&self, _: &TwistedLease) -> LossReason {
        LossReason::SessionEnded
    }
}

/// Which losses were told.
#[derive(Debug, Default)]
struct LossOnce(Mutex<HashSet<RequestId>>);

#[async_trait]
impl Twist for LossOnce {
    async fn lost(&self, lease: &TwistedLease) -> LossReason {
        let reason = lease.plain.lost().await;
        let first =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lease.request.id());
        match first {
            true => reason,
            false => pending().await,
        }
    }
}

#[derive(Debug)]
struct LossUnheard;

#[async_trait]
impl Twist for LossUnheard {
    async fn lost(&self, lease: &TwistedLease) -> LossReason {
        let mut lost = lease.plain.lost();
        match (&mut lost).now_or_never() {
            Some(_) => pending().await,
            None => lost.await,
        }
    }
}

#[derive(Debug)]
struct LossNeverTold;

#[async_trait]
impl Twist for LossNeverTold {
    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        match lease.plain.renew().await {
            Ok(term) => Ok(term),
            Err(_) => RenewalNeverSent.renew(lease).await,
        }
    }

    async fn lost(&self, _: &TwistedLease) -> LossReason {
        pending().await
    }
}

#[derive(Debug)]
struct ReleaseLies;

#[async_trait]
impl Twist for ReleaseLies {
    async fn release(&self, _: &TwistedLease) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct ReleaseNeverAnswers;

#[async_trait]
impl Twist for ReleaseNeverAnswers {
    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        lease.plain.release().await?;
        pending().await
    }
}

#[derive(Debug)]
struct ReleaseTwiceFreesNext;

#[async_trait]
impl Twist for ReleaseTwiceFreesNext {
    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        lease.plain.release().await?;
        let seen = lease.client.inspect(lease.request.name()).await?;
        for token in seen.holders.iter().filter_map(|holder| holder.token) {
            lease.client.revoke(lease.request.name(), token).await?;
        }
        Ok(())
    }
}

/// Which grants were released.
#[derive(Debug, Default)]
struct ReleaseOnlyOnce(Mutex<HashSet<RequestId>>);

#[async_trait]
impl Twist for ReleaseOnlyOnce {
    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        let first =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lease.request.id());
        match first {
            true => lease.plain.release().await,
            false => Err(Error::rejected("a second release", "release only once")),
        }
    }
}

#[derive(Debug)]
struct ReleaseHidesLoss;

#[async_trait]
impl Twist for ReleaseHidesLoss {
    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        lease.plain.release().await.or(Ok(()))
    }
}

#[derive(Debug)]
struct ReleaseFreesAllNames;

#[async_trait]
impl Twist for ReleaseFreesAllNames {
    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        for seen in lease.client.list("", None, usize::MAX).await? {
            for token in seen.holders.iter().filter_map(|holder| holder.token) {
                if seen.name != *lease.request.name() {
                    lease.client.revoke(&seen.name, token).await?;
                }
            }
        }
        lease.plain.release().await
    }
}
