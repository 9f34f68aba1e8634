//! A grant's life in the table.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use lockkit_core::kit::Notice;
use lockkit_core::{Applied, Error, FencingToken, Grant, Lease, LossReason, Result, Term};

use super::client::{Client, Entry, Left};
use crate::error::at;

#[derive(Debug)]
struct TableLease {
    client: Arc<Client>,
    entry: Entry,
    released: AtomicBool,
    /// A release was sent that has no answer: it may have ended the grant.
    is_unclear: AtomicBool,
    /// The term that ends last: before that the grant does not expire.
    term: Mutex<Term>,
}

impl TableLease {
    fn term(&self) -> MutexGuard<'_, Term> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn at(&self, error: Error) -> Error {
        at(&self.client.address, error)
    }

    fn has_expired(&self) -> bool {
        let Term { sent, ttl } = *self.term();
        let ends = sent.saturating_add(ttl.unwrap_or_default());
        self.entry.request().clock().now() >= ends
    }
}

/// What the server granted.
pub(super) fn grant(client: &Arc<Client>, entry: Entry, term: Term, token: u64) -> Result<Grant> {
    let token = FencingToken::with_base(client.token_base, token)?;
    let (released, is_unclear) = (AtomicBool::new(false), AtomicBool::new(false));
    let client = Arc::clone(client);
    let lease = TableLease { client, entry, released, is_unclear, term: Mutex::new(term) };
    Ok(Grant::new(token, term, lease))
}

#[async_trait]
impl Lease for TableLease {
    async fn renew(&self) -> Result<Term> {
        let request = self.entry.request();
        let term = request.term();
        let more = format!(", {}, {}", request.ttl().as_millis(), self.client.barrier());
        let is_renewed = self.client.is_so(request, "renew", &more).await;
        if is_renewed.map_err(|error| self.at(error))? {
            let mut last = self.term();
            if last.sent < term.sent {
                *last = term;
            }
            return Ok(term);
        }
        Err(Error::lost(LossReason::Removed))
    }

    async fn lost(&self) -> LossReason {
        let reason = self.entry.wait_for(|mailbox| match mailbox.last() {
            Some(Notice::Lost(reason)) => Some(reason),
            _ => None,
        });
        tokio::select! {
            biased;
            reason = reason => reason,
            reason = self.client.ended(self.entry.request()) => reason,
        }
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let left = self.client.leave(&self.entry).await;
        match left {
            Ok(Left::Released) => {
                self.released.store(true, Ordering::SeqCst);
                Ok(())
            }
            Ok(Left::Nothing { is_sure }) if is_sure && !self.is_unclear.load(Ordering::SeqCst) => {
                Err(Error::lost(LossReason::Removed))
            }
            Ok(Left::Ended) => Err(Error::lost(LossReason::Revoked)),
            // The release without an answer ended it, and the next holder has come and gone since.
            Ok(Left::Nothing { .. }) if !self.has_expired() => {
                self.released.store(true, Ordering::SeqCst);
                Ok(())
            }
            Ok(Left::Nothing { .. }) => Err(Error::unavailable(
                Applied::Maybe,
                "a release had no answer; by now the term of the grant is over",
            )),
            Err(error) => {
                self.is_unclear.fetch_or(error.is_ambiguous(), Ordering::SeqCst);
                Err(self.at(error))
            }
        }
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
