//! A grant's life in Redis.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lockkit_core::{Error, Lease, LossReason, Request, Result, Term};

use crate::protocol::{RELEASE, RENEW, yes};
use crate::provider::Inner;
use crate::wake::Seat;

#[derive(Debug)]
pub(crate) struct RedisLease {
    provider: Arc<Inner>,
    request: Request,
    seat: Arc<Seat>,
    released: AtomicBool,
}

impl RedisLease {
    pub(crate) const fn new(provider: Arc<Inner>, request: Request, seat: Arc<Seat>) -> Self {
        Self { provider, request, seat, released: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Lease for RedisLease {
    async fn renew(&self) -> Result<Term> {
        let sent = self.request.clock().now();
        let ttl = self.request.ttl();
        let milliseconds = ttl.as_millis().to_string();
        if yes(&self.provider.run(&self.request, &RENEW, &[&milliseconds]).await?.value)? {
            return Ok(Term { sent, ttl: Some(ttl) });
        }
        Err(Error::lost(LossReason::Removed))
    }

    async fn lost(&self) -> LossReason {
        self.seat.revoked().await;
        LossReason::Revoked
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let tombstone = self.provider.tombstone(&self.request);
        if yes(&self.provider.run(&self.request, &RELEASE, &[tombstone]).await?.value)? {
            self.released.store(true, Ordering::SeqCst);
            return Ok(());
        }
        Err(Error::lost(LossReason::Removed))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
