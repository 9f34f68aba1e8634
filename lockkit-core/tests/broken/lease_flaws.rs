//! Mistakes of a client in its leases: terms, renewals, losses, releases.

use std::collections::HashSet;
use std::future::pending;
use std::sync::{Mutex, PoisonError};

use lockkit_core::{
    Applied, Error, Grant, LockProvider, LossReason, Operator, Request, RequestId, Result, Term,
    async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::twist::{Twist, TwistedLease};

pub(crate) fn lease_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "grant-term-at-receipt",
            "a grant's term counts from its answer, which came late",
            &["SF-12"],
            GrantTermAtReceipt,
        ),
        Flaw::twist(
            "renewal-term-at-receipt",
            "a renewal's term counts from its answer, which came late",
            &["SF-12"],
            RenewalTermAtReceipt,
        ),
        Flaw::twist(
            "grant-ttl-too-long",
            "a grant reports twice the ttl that the store keeps",
            &["SF-13"],
            GrantTtlTooLong,
        ),
        Flaw::twist(
            "renewal-ttl-too-long",
            "a renewal reports twice the ttl that the store keeps",
            &["SF-13"],
            RenewalTtlTooLong,
        ),
        Flaw::twist(
            "renewal-never-sent",
            "a renewal never reaches the store, and is acknowledged all the same",
            &["LV-07"],
            RenewalNeverSent,
        ),
        Flaw::twist(
            "renewal-sent-once",
            "only the first renewal of a grant reaches the store",
            &["LV-07"],
            RenewalSentOnce::default(),
        ),
        Flaw::twist(
            "renewal-never-answers",
            "a renewal gets no answer",
            &["LV-07"],
            RenewalNeverAnswers,
        ),
        Flaw::twist(
            "renewal-hides-loss",
            "a renewal of a grant that has ended is called an outage, for ever",
            &["SF-04"],
            RenewalHidesLoss,
        ),
        Flaw::twist(
            "loss-at-once",
            "a lease is reported as lost while it is held",
            &["LV-07"],
            LossAtOnce,
        ),
        Flaw::twist(
            "loss-once",
            "a loss is told to the first who asks only: edge-triggered",
            &["SF-34"],
            LossOnce::default(),
        ),
        Flaw::twist(
            "loss-never-told",
            "neither the lease nor its renewals tell that the entry was removed",
            &["SF-19"],
            LossNeverTold,
        ),
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
            "a second release of one lease is an error",
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

/// Holds an answer back for longer than the margin, but not for the whole ttl.
async fn held_back(request: &Request) {
    request.clock().sleep(request.ttl() / 3).await;
}

fn with_term(grant: Grant, change: impl Fn(&mut Term)) -> Grant {
    let mut grant = grant;
    change(&mut grant.term);
    grant
}

#[derive(Debug)]
struct GrantTermAtReceipt;

#[async_trait]
impl Twist for GrantTermAtReceipt {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let grant = client.try_acquire(request).await?;
        held_back(request).await;
        let received = request.clock().now();
        Ok(grant.map(|grant| with_term(grant, |term| term.sent = received)))
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let grant = client.acquire(request).await?;
        held_back(request).await;
        let received = request.clock().now();
        Ok(with_term(grant, |term| term.sent = received))
    }
}

#[derive(Debug)]
struct RenewalTermAtReceipt;

#[async_trait]
impl Twist for RenewalTermAtReceipt {
    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        let term = lease.plain.renew().await?;
        held_back(&lease.request).await;
        Ok(Term { sent: lease.request.clock().now(), ..term })
    }
}

#[derive(Debug)]
struct GrantTtlTooLong;

#[async_trait]
impl Twist for GrantTtlTooLong {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let grant = client.try_acquire(request).await?;
        Ok(grant.map(|grant| with_term(grant, |term| term.ttl = Some(request.ttl() * 2))))
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let grant = client.acquire(request).await?;
        Ok(with_term(grant, |term| term.ttl = Some(request.ttl() * 2)))
    }
}

#[derive(Debug)]
struct RenewalTtlTooLong;

#[async_trait]
impl Twist for RenewalTtlTooLong {
    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        let term = lease.plain.renew().await?;
        Ok(Term { ttl: Some(lease.request.ttl() * 2), ..term })
    }
}

#[derive(Debug)]
struct RenewalNeverSent;

#[async_trait]
impl Twist for RenewalNeverSent {
    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        Ok(Term { sent: lease.request.clock().now(), ttl: Some(lease.request.ttl()) })
    }

    // The loss signal would give it away.
    async fn lost(&self, _: &TwistedLease) -> LossReason {
        pending().await
    }
}

/// Which grants were renewed.
#[derive(Debug, Default)]
struct RenewalSentOnce(Mutex<HashSet<RequestId>>);

#[async_trait]
impl Twist for RenewalSentOnce {
    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        let first =
            self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(lease.request.id());
        match first {
            true => lease.plain.renew().await,
            false => RenewalNeverSent.renew(lease).await,
        }
    }
}

#[derive(Debug)]
struct RenewalNeverAnswers;

#[async_trait]
impl Twist for RenewalNeverAnswers {
    async fn renew(&self, _: &TwistedLease) -> Result<Term> {
        pending().await
    }
}

#[derive(Debug)]
struct RenewalHidesLoss;

#[async_trait]
impl Twist for RenewalHidesLoss {
    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        let answer = lease.plain.renew().await;
        answer.map_err(|_| Error::unavailable(Applied::No, "the renewal failed"))
    }
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
            false => Err(Error::lost(LossReason::Removed)),
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
