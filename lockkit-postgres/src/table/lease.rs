//! A grant's life in the table.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lockkit_core::kit::Notice;
use lockkit_core::{Error, FencingToken, Grant, Lease, LossReason, Result, Term};

use super::client::{Client, Entry};

#[derive(Debug)]
struct TableLease {
    client: Arc<Client>,
    entry: Entry,
    released: AtomicBool,
}

/// What the server granted.
pub(super) fn grant(client: &Arc<Client>, entry: Entry, term: Term, token: u64) -> Result<Grant> {
    let token = FencingToken::with_base(client.token_base, token)?;
    let (client, released) = (Arc::clone(client), AtomicBool::new(false));
    Ok(Grant::new(token, term, TableLease { client, entry, released }))
}

#[async_trait]
impl Lease for TableLease {
    async fn renew(&self) -> Result<Term> {
        let request = self.entry.request();
        let term = request.term();
        let more = format!(", {}", request.ttl().as_millis());
        if self.client.is_so(request, "renew", &more).await? {
            return Ok(term);
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
        if self.client.leave(&self.entry).await? {
            self.released.store(true, Ordering::SeqCst);
            return Ok(());
        }
        Err(Error::lost(LossReason::Removed))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
