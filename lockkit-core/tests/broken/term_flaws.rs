//! Mistakes of a client in terms and renewals.

use std::collections::HashSet;
use std::future::pending;
use std::sync::{Mutex, PoisonError};

use lockkit_core::{
    Applied, Error, Grant, LockProvider, LossReason, Request, RequestId, Result, Term, async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::twist::{Twist, TwistedLease};

pub(crate) fn term_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "grant-term-at-receipt",
            "a grant's term counts from its answer, which came late",
            &["C5-02"],
            GrantTermAtReceipt,
        ),
        Flaw::twist(
            "renewal-term-at-receipt",
            "a renewal's term counts from its answer, which came late",
            &["C5-02"],
            RenewalTermAtReceipt,
        ),
        Flaw::twist(
            "grant-ttl-too-long",
            "a grant reports twice the ttl that the store keeps",
            &["C11-01"],
            GrantTtlTooLong,
        ),
        Flaw::twist(
            "grant-ttl-missing",
            "a grant reports no ttl where the store keeps one: nobody renews it",
            &["C11-01"],
            GrantTtlMissing,
        ),
        Flaw::twist(
            "renewal-ttl-too-long",
            "a renewal reports twice the ttl that the store keeps",
            &["LV-07"],
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
struct GrantTtlMissing;

#[async_trait]
impl Twist for GrantTtlMissing {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let grant = client.try_acquire(request).await?;
        Ok(grant.map(|grant| with_term(grant, |term| term.ttl = None)))
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let grant = client.acquire(request).await?;
        Ok(with_term(grant, |term| term.ttl = None))
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
pub(crate) struct RenewalNeverSent;

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
