//! The client of an unusual store: that of the small one, later, and only with the ttls that it
//! declares.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{
    Clock, Error, FencingToken, Grant, Guarantees, Inspection, Lease, LockName, LockProvider,
    LossReason, Operator, Permits, Request, Result, Term, async_trait,
};

use super::manner::Manner;

#[derive(Debug)]
pub(crate) struct Unusual {
    small: Arc<dyn LockProvider>,
    manner: &'static Manner,
}

impl Unusual {
    pub(crate) fn new(small: Arc<dyn LockProvider>, manner: &'static Manner) -> Self {
        Self { small, manner }
    }

    /// A ttl that the store does not declare is a mistake of the suite's: the driver asks for none.
    fn check(&self, request: &Request) -> Result<()> {
        let (ttl, range) = (request.ttl(), self.manner.range);
        let steps = ttl.as_nanos() % range.granularity.as_nanos() == 0 || ttl == range.max;
        if (range.min..=range.max).contains(&ttl) && steps {
            return Ok(());
        }
        Err(Error::invalid(format!("a ttl of {ttl:?}"), format!("declared are {range}")))
    }

    fn wrap(&self, request: &Request, grant: Grant) -> Grant {
        let clock = request.clock().clone();
        grant.wrapped(|small| UnusualLease { small, manner: self.manner, clock })
    }

    fn operator_of_small(&self) -> Result<&dyn Operator> {
        self.small.operator().ok_or(Error::Closed)
    }
}

impl Manner {
    /// The way of a call to the store, or of its answer.
    async fn way(&self, clock: &Clock) {
        if !self.call.is_zero() {
            clock.sleep(self.call / 2).await;
        }
    }

    async fn call<T>(&self, clock: &Clock, call: impl Future<Output = T>) -> T {
        self.way(clock).await;
        let answer = call.await;
        self.way(clock).await;
        answer
    }
}

#[async_trait]
impl LockProvider for Unusual {
    fn guarantees(&self) -> Guarantees {
        self.manner.guarantees(self.small.guarantees())
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.check(request)?;
        let call = self.small.try_acquire(request);
        let grant = self.manner.call(request.clock(), call).await?;
        Ok(grant.map(|grant| self.wrap(request, grant)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.check(request)?;
        let grant = self.manner.call(request.clock(), self.small.acquire(request)).await?;
        Ok(self.wrap(request, grant))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.manner.call(request.clock(), self.small.withdraw(request)).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        self.small.close().await
    }
}

#[async_trait]
impl Operator for Unusual {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let call = self.operator_of_small()?.inspect(name);
        self.manner.call(&Clock::tokio(), call).await
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let call = self.operator_of_small()?.list(prefix, after, limit);
        self.manner.call(&Clock::tokio(), call).await
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        let call = self.operator_of_small()?.resize(name, permits);
        self.manner.call(&Clock::tokio(), call).await
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let call = self.operator_of_small()?.revoke(name, token);
        self.manner.call(&Clock::tokio(), call).await
    }
}

#[derive(Debug)]
struct UnusualLease {
    small: Box<dyn Lease>,
    manner: &'static Manner,
    clock: Clock,
}

#[async_trait]
impl Lease for UnusualLease {
    async fn renew(&self) -> Result<Term> {
        self.manner.call(&self.clock, self.small.renew()).await
    }

    async fn lost(&self) -> LossReason {
        self.small.lost().await
    }

    async fn out_of_reach(&self) {
        self.small.out_of_reach().await;
    }

    async fn release(&self) -> Result<()> {
        self.manner.call(&self.clock, self.small.release()).await
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        self.manner.call(&self.clock, self.small.release_after(rest)).await
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        self.manner.call(&self.clock, self.small.raise(token)).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.small.native()
    }
}
