//! A grant's life in Redis.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use lockkit_core::kit::Notice;
use lockkit_core::{Error, FencingToken, Grant, Lease, LossReason, Result, Term};

use crate::client::{Client, Entry};
use crate::handoff::{Cohort, HandedOn};
use crate::protocol::{RENEW, yes};
use crate::subscription::subscribe;

#[derive(Debug)]
pub(crate) struct RedisLease {
    client: Arc<Client>,
    entry: Entry,
    /// As the store counts it.
    token: u64,
    cohort: Arc<Cohort>,
    released: AtomicBool,
}

/// What the server, or a holder of this client, granted.
pub(crate) fn grant(client: &Arc<Client>, entry: Entry, granted: HandedOn) -> Result<Grant> {
    let HandedOn { cohort, token, sent } = granted;
    let term = Term { sent, ttl: Some(entry.request().ttl()) };
    let fencing = FencingToken::with_base(client.token_base, token)?;
    // A revocation is told there; the runtime that served it may have ended.
    subscribe(client, None).ok();
    let (client, released) = (Arc::clone(client), AtomicBool::new(false));
    Ok(Grant::new(fencing, term, RedisLease { client, entry, token, cohort, released }))
}

#[async_trait]
impl Lease for RedisLease {
    async fn renew(&self) -> Result<Term> {
        let request = self.entry.request();
        self.cohort.known(&*self.client, request).await?;
        let term = request.term();
        let milliseconds = request.ttl().as_millis().to_string();
        if yes(&self.client.run(request, &RENEW, &[&milliseconds]).await.value?)? {
            self.cohort.renewed(term.sent);
            return Ok(term);
        }
        self.cohort.lost(&self.client.waiters, request.id(), LossReason::Removed);
        Err(Error::lost(LossReason::Removed))
    }

    async fn lost(&self) -> LossReason {
        let reason = self.entry.wait_for(|waiter| match waiter.mailbox.last() {
            Some(Notice::Lost(reason)) => Some(reason),
            _ => None,
        });
        reason.await
    }

    async fn release(&self) -> Result<()> {
        if self.released.load(Ordering::SeqCst) {
            return Ok(());
        }
        let request = self.entry.request();
        self.cohort.end(&self.client.waiters, request.id());
        self.cohort.ended(&*self.client, request, self.token).await?;
        self.released.store(true, Ordering::SeqCst);
        Ok(())
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
