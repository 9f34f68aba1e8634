//! A grant's life in Redis.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lockkit_core::{Error, Lease, LossReason, Request, Result, Term};

use crate::cohort::Cohort;
use crate::protocol::{RENEW, yes};
use crate::provider::Inner;
use crate::seat::Seat;

#[derive(Debug)]
pub(crate) struct RedisLease {
    provider: Arc<Inner>,
    request: Request,
    /// As the store counts it.
    token: u64,
    seat: Arc<Seat>,
    cohort: Arc<Cohort>,
    released: AtomicBool,
}

impl RedisLease {
    pub(crate) const fn new(
        provider: Arc<Inner>,
        request: Request,
        token: u64,
        seat: Arc<Seat>,
        cohort: Arc<Cohort>,
    ) -> Self {
        Self { provider, request, token, seat, cohort, released: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Lease for RedisLease {
    async fn renew(&self) -> Result<Term> {
        self.cohort.known(&self.provider, &self.request).await?;
        let sent = self.request.clock().now();
        let ttl = self.request.ttl();
        let milliseconds = ttl.as_millis().to_string();
        if yes(&self.provider.run(&self.request, &RENEW, &[&milliseconds]).await.value?)? {
            self.cohort.renewed(sent);
            return Ok(Term { sent, ttl: Some(ttl) });
        }
        self.cohort.lost(self.request.id(), LossReason::Removed);
        Err(Error::lost(LossReason::Removed))
    }

    async fn lost(&self) -> LossReason {
        self.seat.lost().await
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        self.cohort.end(self.request.id());
        self.cohort.ended(&self.provider, &self.request, self.token).await?;
        self.released.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
