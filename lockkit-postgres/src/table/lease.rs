//! A grant's life in the table.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lockkit_core::kit::Notice;
use lockkit_core::{Error, Lease, LossReason, Result, Term};

use super::{Entry, Inner};

#[derive(Debug)]
pub(super) struct TableLease {
    table: Arc<Inner>,
    entry: Entry,
    released: AtomicBool,
}

impl TableLease {
    pub(super) const fn new(table: Arc<Inner>, entry: Entry) -> Self {
        Self { table, entry, released: AtomicBool::new(false) }
    }
}

#[async_trait]
impl Lease for TableLease {
    async fn renew(&self) -> Result<Term> {
        let request = self.entry.request();
        let (sent, ttl) = (request.clock().now(), request.ttl());
        let more = format!(", {}", ttl.as_millis());
        if self.table.is_so(request, "renew", &more).await? {
            return Ok(Term { sent, ttl: Some(ttl) });
        }
        Err(Error::lost(LossReason::Removed))
    }

    async fn lost(&self) -> LossReason {
        let reason = self.entry.wait_for(|mailbox| match mailbox.last() {
            Some(Notice::Lost(reason)) => Some(reason),
            _ => None,
        });
        reason.await
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        if self.table.leave(&self.entry).await? {
            self.released.store(true, Ordering::SeqCst);
            return Ok(());
        }
        Err(Error::lost(LossReason::Removed))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
