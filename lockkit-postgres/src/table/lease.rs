//! A grant's life in the table.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lockkit_core::{Error, Lease, LossReason, Request, Result, Term};

use super::Inner;
use super::wake::Seat;

#[derive(Debug)]
pub(super) struct TableLease {
    table: Arc<Inner>,
    request: Request,
    seat: Arc<Seat>,
    released: AtomicBool,
}

impl TableLease {
    pub(super) const fn new(table: Arc<Inner>, request: Request, seat: Arc<Seat>) -> Self {
        Self { table, request, seat, released: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Lease for TableLease {
    async fn renew(&self) -> Result<Term> {
        let (sent, ttl) = (self.request.clock().now(), self.request.ttl());
        let more = format!(", {}", ttl.as_millis());
        if self.table.is_so(&self.request, "renew", &more).await? {
            return Ok(Term { sent, ttl: Some(ttl) });
        }
        Err(Error::lost(LossReason::Removed))
    }

    async fn lost(&self) -> LossReason {
        self.seat.lost().await
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.table.leave(&self.request).await? {
            self.released.store(true, Ordering::SeqCst);
            return Ok(());
        }
        Err(Error::lost(LossReason::Removed))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
