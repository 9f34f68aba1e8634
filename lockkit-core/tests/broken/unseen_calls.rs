//! Mistakes of a client that were found as mutants of real stores' clients: in what it makes of calls
//! beside each other, and of leases that end without a word.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{
    FencingToken, Grant, Instant, LockName, LockProvider, Operator, Request, RequestId, Result,
    Term, async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::habits::Habits;
use super::twist::{Twist, TwistedLease};

pub(crate) fn unseen_calls() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "dropped-call-ends-the-others",
            "a call that is dropped leaves the other calls of its request waiting for ever",
            &["C2-02"],
            DroppedCallEndsOthers::default(),
        )
        .breaks("C2"),
        Flaw::twist(
            "refused-beside-a-wait",
            "an attempt is refused while a request of its client waits for another name",
            &["PF-10"],
            RefusedBesideAWait::default(),
        )
        .breaks("C1"),
        Flaw::twist(
            "tokens-cleared-away",
            "tokens start again once a name was free for a while: its counter is cleared away",
            &["C4-06"],
            OwnTokens::kept_for(Duration::from_millis(300)),
        )
        .breaks("C4"),
        Flaw::twist(
            "one-ttl-per-client",
            "each grant has the ttl that its client wished first: one session for all",
            &["C13-02"],
            OneTtl::default(),
        )
        .breaks("C13"),
        Flaw::twist(
            "dropped-lease-renewed",
            "the client renews what it was granted until that is released, be the lease dropped or not",
            &["C11-08"],
            DroppedLeaseRenewed,
        )
        .breaks("C11"),
        Flaw::habit(
            "outage-told-as-held",
            "a waiter says that another holds the name while it cannot reach the store",
            &["C8-06"],
            Habits { tells_of_outages: false, ..Habits::CORRECT },
        )
        .breaks("C8"),
        Flaw::twist(
            "forgotten-tokens-again",
            "a name that was forgotten starts its tokens again",
            &["C16-11"],
            OwnTokens::kept_for(Duration::MAX),
        )
        .breaks("C4"),
        Flaw::twist(
            "forgets-what-is-held",
            "forgetting names takes those away that are held or waited for",
            &["C16-11"],
            ForgetsWhatIsHeld,
        )
        .breaks("C16"),
    ]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many calls of each request were dropped before they ended.
#[derive(Debug, Default)]
struct DroppedCallEndsOthers(Mutex<HashMap<RequestId, u32>>);

/// A call that has not ended.
struct Call<'a>(&'a DroppedCallEndsOthers, RequestId);

impl Drop for Call<'_> {
    fn drop(&mut self) {
        *lock(&self.0.0).entry(self.1).or_default() += 1;
    }
}

#[async_trait]
impl Twist for DroppedCallEndsOthers {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let dropped = || lock(&self.0).get(&request.id()).copied().unwrap_or(0);
        let before = dropped();
        let call = Call(self, request.id());
        let granted = tokio::select! {
            granted = client.acquire(request) => granted,
            () = async { while dropped() == before { request.clock().sleep(TURN).await } } => {
                pending().await
            }
        };
        std::mem::forget(call);
        granted
    }
}

/// How often a call looks at what became of others.
const TURN: Duration = Duration::from_millis(1);

/// How many requests of each client wait.
#[derive(Debug, Default)]
struct RefusedBesideAWait(Mutex<HashMap<u64, usize>>);

/// One that waits, until it is dropped.
struct Waits<'a>(&'a RefusedBesideAWait, u64);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        *lock(&self.0.0).entry(self.1).or_default() -= 1;
    }
}

#[async_trait]
impl Twist for RefusedBesideAWait {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let waiting = lock(&self.0).get(&client.number()).copied();
        if waiting.is_some_and(|waiting| waiting > 0) {
            return Ok(None);
        }
        client.try_acquire(request).await
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        *lock(&self.0).entry(client.number()).or_default() += 1;
        let _waits = Waits(self, client.number());
        client.acquire(request).await
    }
}

/// Counts the tokens of each name itself, and starts again with a name that was free for so long, or forgotten.
#[derive(Debug)]
struct OwnTokens {
    /// The last token of each name, and when that was granted.
    last: Mutex<HashMap<LockName, (u64, Instant)>>,
    kept_for: Duration,
}

impl OwnTokens {
    fn kept_for(kept_for: Duration) -> Self {
        Self { last: Mutex::default(), kept_for }
    }

    fn count(&self, request: &Request, mut grant: Grant) -> Result<Grant> {
        let now = request.clock().now();
        let mut last = lock(&self.last);
        let (count, at) = last.entry(request.name().clone()).or_insert((0, now));
        let is_old = now.saturating_since(*at) > self.kept_for;
        *count = if is_old { 1 } else { *count + 1 };
        *at = now;
        grant.token = FencingToken::new(*count)?;
        Ok(grant)
    }
}

#[async_trait]
impl Twist for OwnTokens {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let grant = client.try_acquire(request).await?;
        grant.map(|grant| self.count(request, grant)).transpose()
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let grant = client.acquire(request).await?;
        self.count(request, grant)
    }

    async fn forget(&self, _: &Client, prefix: &str, _: Duration) -> Result<u64> {
        let mut last = lock(&self.last);
        let before = last.len();
        last.retain(|name, _| !name.as_str().starts_with(prefix));
        Ok((before - last.len()) as u64)
    }
}

/// The ttl that each client wished first.
#[derive(Debug, Default)]
struct OneTtl(Mutex<HashMap<u64, Duration>>);

#[async_trait]
impl Twist for OneTtl {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let first = *lock(&self.0).entry(client.number()).or_insert(request.ttl());
        let mut grant = client.try_acquire(request).await?;
        if let Some(grant) = &mut grant {
            grant.term.ttl = Some(first);
        }
        Ok(grant)
    }

    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        let term = lease.plain.renew().await?;
        let first = lock(&self.0).get(&lease.client.number()).copied();
        Ok(Term { ttl: first.or(term.ttl), ..term })
    }
}

#[derive(Debug)]
struct DroppedLeaseRenewed;

#[async_trait]
impl Twist for DroppedLeaseRenewed {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let Some(grant) = client.try_acquire(request).await? else { return Ok(None) };
        // A replay: the same grant once more.
        if let Some(same) = client.try_acquire(request).await? {
            let (clock, pause) = (request.clock().clone(), request.ttl() / 3);
            tokio::spawn(async move {
                while same.lease.renew().await.is_ok() {
                    clock.sleep(pause).await;
                }
            });
        }
        Ok(Some(grant))
    }
}

#[derive(Debug)]
struct ForgetsWhatIsHeld;

#[async_trait]
impl Twist for ForgetsWhatIsHeld {
    async fn forget(&self, client: &Client, prefix: &str, _: Duration) -> Result<u64> {
        let mut forgotten = 0;
        for seen in client.list(prefix, None, usize::MAX).await? {
            for token in seen.holders.iter().filter_map(|holder| holder.token) {
                client.revoke(&seen.name, token).await?;
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }
}
