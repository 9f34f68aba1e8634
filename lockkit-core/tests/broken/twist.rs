//! A client with one of its calls twisted: how a provider breaks without its store being at fault.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{
    FencingToken, Grant, Guarantees, Inspection, Lease, LockName, LockProvider, LossReason,
    Operator, Permits, Request, Result, Term, async_trait,
};

use super::client::Client;

/// What is done in place of a call; every method stands for the call itself unless it is replaced.
#[async_trait]
pub(crate) trait Twist: fmt::Debug + Send + Sync + 'static {
    fn guarantees(&self, client: &Client) -> Guarantees {
        client.guarantees()
    }

    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        client.try_acquire(request).await
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        client.acquire(request).await
    }

    async fn withdraw(&self, client: &Client, request: &Request) -> Result<()> {
        client.withdraw(request).await
    }

    async fn close(&self, client: &Client) -> Result<()> {
        client.close().await
    }

    async fn renew(&self, lease: &TwistedLease) -> Result<Term> {
        lease.plain.renew().await
    }

    async fn lost(&self, lease: &TwistedLease) -> LossReason {
        lease.plain.lost().await
    }

    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        lease.plain.release().await
    }

    async fn release_after(&self, lease: &TwistedLease, rest: Duration) -> Result<bool> {
        lease.plain.release_after(rest).await
    }

    async fn inspect(&self, client: &Client, name: &LockName) -> Result<Inspection> {
        client.inspect(name).await
    }

    async fn list(
        &self,
        client: &Client,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        client.list(prefix, after, limit).await
    }

    async fn revoke(&self, client: &Client, name: &LockName, token: FencingToken) -> Result<bool> {
        client.revoke(name, token).await
    }

    async fn forget(&self, client: &Client, prefix: &str, unused_for: Duration) -> Result<u64> {
        client.forget(prefix, unused_for).await
    }
}

/// A client, twisted.
#[derive(Debug)]
pub(crate) struct Twisted {
    client: Client,
    twist: Arc<dyn Twist>,
}

/// A lease of a twisted client.
#[derive(Debug)]
pub(crate) struct TwistedLease {
    pub(crate) client: Client,
    pub(crate) request: Request,
    pub(crate) plain: Box<dyn Lease>,
    twist: Arc<dyn Twist>,
}

impl Twisted {
    pub(crate) fn new(client: Client, twist: &Arc<dyn Twist>) -> Self {
        Self { client, twist: Arc::clone(twist) }
    }

    fn wrap(&self, request: &Request, grant: Grant) -> Grant {
        grant.wrapped(|plain| TwistedLease {
            client: self.client.clone(),
            request: request.clone(),
            plain,
            twist: Arc::clone(&self.twist),
        })
    }
}

#[async_trait]
impl LockProvider for Twisted {
    fn guarantees(&self) -> Guarantees {
        self.twist.guarantees(&self.client)
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let grant = self.twist.try_acquire(&self.client, request).await?;
        Ok(grant.map(|grant| self.wrap(request, grant)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let grant = self.twist.acquire(&self.client, request).await?;
        Ok(self.wrap(request, grant))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.twist.withdraw(&self.client, request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        self.twist.close(&self.client).await
    }
}

#[async_trait]
impl Operator for Twisted {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        self.twist.inspect(&self.client, name).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        self.twist.list(&self.client, prefix, after, limit).await
    }

    async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        self.twist.forget(&self.client, prefix, unused_for).await
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        self.client.resize(name, permits).await
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        self.twist.revoke(&self.client, name, token).await
    }
}

#[async_trait]
impl Lease for TwistedLease {
    async fn renew(&self) -> Result<Term> {
        self.twist.renew(self).await
    }

    async fn lost(&self) -> LossReason {
        self.twist.lost(self).await
    }

    async fn release(&self) -> Result<()> {
        self.twist.release(self).await
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        self.twist.release_after(self, rest).await
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        self.plain.raise(token).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.plain.native()
    }
}
