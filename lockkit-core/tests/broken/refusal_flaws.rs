//! Mistakes of a client at a store that refuses, and in what it hears of a revocation.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{
    Applied, Error, Grant, LockProvider, LossReason, Request, RequestId, Result, Term, async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::store::READ_ONLY;
use super::twist::{Twist, TwistedLease};

pub(crate) fn refusal_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "clean-ups-in-order",
            "a clean-up that the store refuses stands before those of the client's other names",
            &["C9-06"],
            CleansUpInOrder::default(),
        ),
        Flaw::twist(
            "read-only-is-a-refusal",
            "a server that takes no writes for a while is told as one that never will",
            &["LV-23"],
            ReadOnlyIsARefusal,
        ),
        Flaw::twist(
            "old-connection-kept",
            "a client stays with the server over whose connection it heard that it takes no writes",
            &["LV-23"],
            OldConnectionKept::default(),
        ),
        Flaw::twist(
            "revocation-heard-at-a-renewal",
            "a holder hears of its revocation at its next renewal",
            &["C16-12"],
            HeardAtARenewal::default(),
        ),
        Flaw::twist(
            "revocation-heard-after-a-wait",
            "a client hears of revocations once it has waited for a name, and before at renewals",
            &["C16-12"],
            HeardAtARenewal { listens_once_it_waits: true, ..HeardAtARenewal::default() },
        ),
    ]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The first clean-up of each client that was refused.
#[derive(Debug, Default)]
struct CleansUpInOrder(Mutex<HashMap<u64, Request>>);

impl CleansUpInOrder {
    /// What was refused comes before all others.
    async fn first(&self, client: &Client) -> Result<()> {
        let refused = lock(&self.0).get(&client.number()).cloned();
        if let Some(refused) = refused {
            client.withdraw(&refused).await?;
            lock(&self.0).remove(&client.number());
        }
        Ok(())
    }

    fn note(&self, client: &Client, request: &Request, cleaned: Result<()>) -> Result<()> {
        if matches!(cleaned, Err(Error::Rejected { .. })) {
            lock(&self.0).insert(client.number(), request.clone());
        }
        cleaned
    }
}

#[async_trait]
impl Twist for CleansUpInOrder {
    async fn withdraw(&self, client: &Client, request: &Request) -> Result<()> {
        self.first(client).await?;
        self.note(client, request, client.withdraw(request).await)
    }

    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        self.first(&lease.client).await?;
        self.note(&lease.client, &lease.request, lease.plain.release().await)
    }
}

/// Whether a server says that it takes no writes.
fn is_read_only(error: &Error) -> bool {
    matches!(error, Error::Unavailable { cause, .. } if cause.to_string() == READ_ONLY)
}

#[derive(Debug)]
struct ReadOnlyIsARefusal;

impl ReadOnlyIsARefusal {
    fn tell(error: Error) -> Error {
        match is_read_only(&error) {
            true => Error::rejected(READ_ONLY, "connect to the primary"),
            false => error,
        }
    }
}

#[async_trait]
impl Twist for ReadOnlyIsARefusal {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        client.acquire(request).await.map_err(Self::tell)
    }
}

/// The clients whose server took no writes once.
#[derive(Debug, Default)]
struct OldConnectionKept(Mutex<HashSet<u64>>);

impl OldConnectionKept {
    fn over<T>(&self, client: &Client, answer: Result<T>) -> Result<T> {
        let mut old = lock(&self.0);
        if answer.as_ref().is_err_and(is_read_only) {
            old.insert(client.number());
        }
        match old.contains(&client.number()) {
            true => Err(Error::unavailable(Applied::No, READ_ONLY)),
            false => answer,
        }
    }
}

#[async_trait]
impl Twist for OldConnectionKept {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        self.over(client, Ok(()))?;
        self.over(client, client.try_acquire(request).await)
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        self.over(client, Ok(()))?;
        self.over(client, client.acquire(request).await)
    }
}

/// Hears of the end of a grant where a renewal of it fails.
#[derive(Debug, Default)]
struct HeardAtARenewal {
    listens_once_it_waits: bool,
    /// The clients that have waited.
    waited: Mutex<HashSet<u64>>,
    lost: Mutex<HashMap<RequestId, LossReason>>,
}

/// How often a lease looks at what its renewals were told.
const TURN: Duration = Duration::from_millis(200);

#[async_trait]
impl Twist for HeardAtARenewal {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        lock(&self.waited).insert(client.number());
        client.acquire(request).await
    }

    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        let renewed = lease.plain.renew().await;
        if let Err(Error::Lost { reason, .. }) = &renewed {
            lock(&self.lost).insert(lease.request.id(), *reason);
        }
        renewed
    }

    async fn lost(&self, lease: &TwistedLease) -> LossReason {
        loop {
            let listens = lock(&self.waited).contains(&lease.client.number());
            if listens && self.listens_once_it_waits {
                return lease.plain.lost().await;
            }
            let told = lock(&self.lost).get(&lease.request.id()).copied();
            match told {
                Some(reason) => return reason,
                None => lease.request.clock().sleep(TURN).await,
            }
        }
    }
}
