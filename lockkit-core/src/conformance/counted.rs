//! Clients, links and servers that count: a case that did too little proves nothing.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::notes::Notes;
use super::{Link, Server, Traffic, Way};
use crate::{Grant, Guarantees, Lease, LockProvider, LossReason, Operator, Request, Result, Term};

/// A client that counts the calls on it.
#[derive(Debug)]
pub(super) struct CountedClient {
    pub(super) client: Arc<dyn LockProvider>,
    pub(super) notes: Notes,
}

impl CountedClient {
    fn counted(&self, grant: Grant) -> Grant {
        let Grant { token, term, lease } = grant;
        Grant::new(token, term, CountedLease { lease, notes: self.notes.clone() })
    }
}

#[async_trait]
impl LockProvider for CountedClient {
    fn guarantees(&self) -> Guarantees {
        self.client.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.notes.operation();
        Ok(self.client.try_acquire(request).await?.map(|grant| self.counted(grant)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.notes.operation();
        Ok(self.counted(self.client.acquire(request).await?))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.notes.operation();
        self.client.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.client.operator()
    }

    async fn close(&self) -> Result<()> {
        self.client.close().await
    }
}

#[derive(Debug)]
struct CountedLease {
    lease: Box<dyn Lease>,
    notes: Notes,
}

#[async_trait]
impl Lease for CountedLease {
    async fn renew(&self) -> Result<Term> {
        self.notes.operation();
        self.lease.renew().await
    }

    async fn lost(&self) -> LossReason {
        self.lease.lost().await
    }

    async fn release(&self) -> Result<()> {
        self.notes.operation();
        self.lease.release().await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}

/// A link that counts the faults made at it.
pub(super) struct CountedLink {
    pub(super) link: Arc<dyn Link>,
    pub(super) notes: Notes,
}

#[async_trait]
impl Link for CountedLink {
    async fn pass(&self) -> Result<()> {
        self.link.pass().await
    }

    async fn refuse(&self) -> Result<()> {
        self.notes.fault();
        self.link.refuse().await
    }

    async fn reset(&self) -> Result<()> {
        self.notes.fault();
        self.link.reset().await
    }

    async fn blackhole(&self) -> Result<()> {
        self.notes.fault();
        self.link.blackhole().await
    }

    async fn blackhole_old(&self) -> Result<()> {
        self.notes.fault();
        self.link.blackhole_old().await
    }

    async fn lose(&self, way: Way) -> Result<()> {
        self.notes.fault();
        self.link.lose(way).await
    }

    async fn hold(&self, way: Way) -> Result<()> {
        self.notes.fault();
        self.link.hold(way).await
    }

    async fn hold_old(&self, way: Way) -> Result<()> {
        self.notes.fault();
        self.link.hold_old(way).await
    }

    async fn deliver(&self) -> Result<()> {
        self.link.deliver().await
    }

    async fn delay(&self, by: Duration) -> Result<()> {
        self.notes.fault();
        self.link.delay(by).await
    }

    async fn cut(&self, way: Way, after: u64) -> Result<()> {
        self.notes.fault();
        self.link.cut(way, after).await
    }

    async fn traffic(&self) -> Result<Traffic> {
        self.link.traffic().await
    }
}

/// A server that counts how often it is disturbed.
pub(super) struct CountedServer {
    pub(super) server: Arc<dyn Server>,
    pub(super) notes: Notes,
}

#[async_trait]
impl Server for CountedServer {
    async fn pause(&self) -> Result<()> {
        self.notes.fault();
        self.server.pause().await
    }

    async fn resume(&self) -> Result<()> {
        self.server.resume().await
    }

    async fn kill(&self) -> Result<()> {
        self.notes.fault();
        self.server.kill().await
    }

    async fn restart(&self) -> Result<()> {
        self.notes.fault();
        self.server.restart().await
    }

    async fn restart_empty(&self) -> Result<()> {
        self.notes.fault();
        self.server.restart_empty().await
    }
}
