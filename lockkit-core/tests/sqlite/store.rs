//! The provider and its leases.

use std::any::Any;
use std::future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{
    Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Lease, LockProvider,
    LossReason, MinimumHold, Operator, Request, Result, Term, TtlRange, WakeUp, async_trait,
};

use super::client::{Client, Entry, Granted, POLL};

/// Locks in the tables of a SQLite file.
#[derive(Debug)]
pub(super) struct Sqlite {
    client: Arc<Client>,
}

impl Sqlite {
    pub(super) async fn open(file: &Path) -> Result<Self> {
        Ok(Self { client: Arc::new(Client::open(file).await?) })
    }

    fn grant(&self, entry: Entry, (token, term): Granted) -> Grant {
        entry.granted(token.as_u64());
        Grant::new(token, term, SqliteLease { client: Arc::clone(&self.client), entry, token })
    }
}

#[async_trait]
impl LockProvider for Sqlite {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneHost, Expiry::Ttl(TtlRange::ANY));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Poll(POLL);
        guarantees.minimum_hold = MinimumHold::ByStore;
        guarantees.token_survives.server_restart = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "a jump of the host's clock",
            "a file system that does not lock files, as some network file systems",
        ];
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let entry = self.client.requests.enter(request);
        let granted = self.client.ask(&entry, false).await?;
        Ok(granted.map(|granted| self.grant(entry, granted)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let entry = self.client.requests.enter(request);
        loop {
            if let Some(granted) = self.client.ask(&entry, true).await? {
                return Ok(self.grant(entry, granted));
            }
            self.client.wait(&entry).await?;
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let entry = self.client.requests.enter(request);
        // First of all: from here on, the waiting call of this request asks no more.
        entry.withdraw();
        self.client.leave(&entry).await.map(drop)
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.client)
    }

    async fn close(&self) -> Result<()> {
        self.client.close();
        Ok(())
    }
}

#[derive(Debug)]
struct SqliteLease {
    client: Arc<Client>,
    entry: Entry,
    token: FencingToken,
}

#[async_trait]
impl Lease for SqliteLease {
    async fn renew(&self) -> Result<Term> {
        self.entry.is_latest(self.token.as_u64())?;
        let request = self.entry.request();
        let term = request.term();
        if self.client.renew(&self.entry).await? {
            return Ok(term);
        }
        Err(Error::lost(LossReason::Removed))
    }

    /// SQLite tells nothing by itself: the lease hears of its end when it renews.
    async fn lost(&self) -> LossReason {
        future::pending().await
    }

    async fn release(&self) -> Result<()> {
        self.entry.is_latest(self.token.as_u64())?;
        if self.client.leave(&self.entry).await? {
            return Ok(());
        }
        Err(Error::lost(LossReason::Removed))
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        self.entry.is_latest(self.token.as_u64())?;
        if self.client.rest(&self.entry, rest).await? {
            return Ok(true);
        }
        Err(Error::lost(LossReason::Removed))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
