//! Mistakes of a client in what it keeps of its own calls.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{
    Error, Grant, Inspection, Instant, LockName, LockProvider, LossReason, Operator, Request,
    RequestId, Result, Term, async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::twist::{Twist, TwistedLease};

pub(crate) fn unseen_clients() -> Vec<Flaw> {
    [waits(), caches()].concat()
}

fn waits() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "waiter-refused-after-50-s",
            "a waiter is refused after 50 s: the proxy's limit of one request",
            &["C8-03"],
            WaiterRefused,
        )
        .breaks("C8"),
        Flaw::twist(
            "hand-off-term-from-queueing",
            "the term of a waiter's grant counts from when the waiter came",
            &["C8-03"],
            TermFromQueueing,
        )
        .breaks("C5"),
        Flaw::twist(
            "waits-for-one-name-at-a-time",
            "a client that waits for one name asks for no other: one blocking connection",
            &["PF-10"],
            WaitsForOneName::default(),
        )
        .breaks("C8"),
        Flaw::twist(
            "renewals-behind-waits",
            "a client that waits for one name renews no other: one blocking connection",
            &["C12-04", "MN-03"],
            RenewalsBehindWaits::default(),
        )
        .breaks("C12"),
    ]
}

fn caches() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "refusals-cached",
            "a name that was held is not asked for again within a second",
            &["C1-02"],
            RefusalsCached::default(),
        )
        .breaks("C1"),
        Flaw::twist(
            "loss-sticks-to-the-name",
            "a client that lost a name is told so of each later lease of it",
            &["C7-03"],
            LossSticks::default(),
        )
        .breaks("C7"),
        Flaw::twist(
            "renewal-after-release",
            "a renewal of a lease that was released is answered with a fresh term",
            &["SF-04"],
            RenewalAfterRelease::default(),
        )
        .breaks("C6"),
        Flaw::twist(
            "release-hides-revocation",
            "a release of a grant that an operator has revoked is called a success",
            &["C6-05"],
            ReleaseHidesRevocation,
        )
        .breaks("C6"),
        Flaw::twist(
            "inspection-cached",
            "an inspection shows what the client saw within the last second",
            &["C16-01", "EL-01"],
            InspectionCached::default(),
        )
        .breaks("C16"),
        Flaw::twist(
            "inspection-by-prefix",
            "an inspection counts the waiters of each name that starts with it: a range read",
            &["C16-06"],
            InspectionByPrefix,
        )
        .breaks("C16"),
    ]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct WaiterRefused;

#[async_trait]
impl Twist for WaiterRefused {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        tokio::select! {
            grant = client.acquire(request) => grant,
            () = request.clock().sleep(Duration::from_secs(50)) => {
                client.withdraw(request).await?;
                Err(Error::rejected("a wait of more than 50 s", "try again later"))
            }
        }
    }
}

#[derive(Debug)]
struct TermFromQueueing;

#[async_trait]
impl Twist for TermFromQueueing {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let came = request.clock().now();
        let mut grant = client.acquire(request).await?;
        grant.term.sent = came;
        Ok(grant)
    }
}

/// How many requests of each client wait for which name.
#[derive(Debug, Default)]
struct Waits(Mutex<HashMap<u64, Vec<LockName>>>);

/// One of them, until it is dropped.
struct Wait<'a>(&'a Waits, u64, LockName);

impl Waits {
    fn begin(&self, client: &Client, name: &LockName) -> Wait<'_> {
        lock(&self.0).entry(client.number()).or_default().push(name.clone());
        Wait(self, client.number(), name.clone())
    }

    /// Whether the client waits for another name.
    fn other(&self, client: &Client, name: &LockName) -> bool {
        lock(&self.0).get(&client.number()).is_some_and(|names| names.iter().any(|at| at != name))
    }

    /// Returns once it does not.
    async fn over(&self, client: &Client, request: &Request) {
        while self.other(client, request.name()) {
            request.clock().sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        if let Some(names) = lock(&self.0.0).get_mut(&self.1) {
            let own = names.iter().position(|name| *name == self.2);
            own.map(|at| names.swap_remove(at));
        }
    }
}

#[derive(Debug, Default)]
struct WaitsForOneName(Waits);

#[async_trait]
impl Twist for WaitsForOneName {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        self.0.over(client, request).await;
        let _wait = self.0.begin(client, request.name());
        client.acquire(request).await
    }
}

#[derive(Debug, Default)]
struct RenewalsBehindWaits(Waits);

#[async_trait]
impl Twist for RenewalsBehindWaits {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let _wait = self.0.begin(client, request.name());
        client.acquire(request).await
    }

    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        self.0.over(&lease.client, &lease.request).await;
        lease.plain.renew().await
    }
}

/// When each client was last refused each name.
#[derive(Debug, Default)]
struct RefusalsCached(Mutex<HashMap<(u64, LockName), Instant>>);

#[async_trait]
impl Twist for RefusalsCached {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let (key, now) = ((client.number(), request.name().clone()), request.clock().now());
        let refused = lock(&self.0).get(&key).copied();
        if refused.is_some_and(|at| now.saturating_since(at) < Duration::from_secs(1)) {
            return Ok(None);
        }
        let tried = client.try_acquire(request).await;
        if matches!(tried, Ok(None)) {
            lock(&self.0).insert(key, now);
        }
        tried
    }
}

/// Which names each client has lost, and why.
#[derive(Debug, Default)]
struct LossSticks(Mutex<HashMap<(u64, LockName), LossReason>>);

#[async_trait]
impl Twist for LossSticks {
    async fn lost(&self, lease: &TwistedLease) -> LossReason {
        let key = (lease.client.number(), lease.request.name().clone());
        if let Some(reason) = lock(&self.0).get(&key) {
            return *reason;
        }
        let reason = lease.plain.lost().await;
        if reason != LossReason::Released {
            lock(&self.0).insert(key, reason);
        }
        reason
    }
}

/// Which requests have released.
#[derive(Debug, Default)]
struct RenewalAfterRelease(Mutex<Vec<RequestId>>);

#[async_trait]
impl Twist for RenewalAfterRelease {
    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        if lock(&self.0).contains(&lease.request.id()) {
            return Ok(lease.request.term());
        }
        lease.plain.renew().await
    }

    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        lease.plain.release().await?;
        lock(&self.0).push(lease.request.id());
        Ok(())
    }
}

#[derive(Debug)]
struct ReleaseHidesRevocation;

#[async_trait]
impl Twist for ReleaseHidesRevocation {
    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        match lease.plain.release().await {
            Err(Error::Lost { reason: LossReason::Revoked, .. }) => Ok(()),
            ended => ended,
        }
    }
}

/// What was shown to each client, and when.
#[derive(Debug, Default)]
struct InspectionCached(Mutex<HashMap<(u64, LockName), (tokio::time::Instant, Inspection)>>);

#[async_trait]
impl Twist for InspectionCached {
    async fn inspect(&self, client: &Client, name: &LockName) -> Result<Inspection> {
        let key = (client.number(), name.clone());
        let shown = lock(&self.0).get(&key).cloned();
        if let Some((_, seen)) = shown.filter(|(at, _)| at.elapsed() < Duration::from_secs(1)) {
            return Ok(seen);
        }
        let seen = client.inspect(name).await?;
        lock(&self.0).insert(key, (tokio::time::Instant::now(), seen.clone()));
        Ok(seen)
    }
}

#[derive(Debug)]
struct InspectionByPrefix;

#[async_trait]
impl Twist for InspectionByPrefix {
    async fn inspect(&self, client: &Client, name: &LockName) -> Result<Inspection> {
        let mut seen = client.inspect(name).await?;
        let all = client.list(name.as_str(), None, usize::MAX).await?;
        seen.waiters = Some(all.iter().filter_map(|seen| seen.waiters).sum());
        Ok(seen)
    }
}
