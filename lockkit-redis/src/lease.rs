//! A grant's life in Redis.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::Notice;
use lockkit_core::{Error, FencingToken, Grant, Lease, LossReason, Result, Term};

use crate::client::{Client, Entry, tombstone};
use crate::connection::Answered;
use crate::protocol::{Released, yes};
use crate::scripts::{Script, Scripts};
use crate::subscription::subscribe;

#[derive(Debug)]
pub(crate) struct RedisLease {
    client: Arc<Client>,
    entry: Entry,
    /// As the store counts it.
    token: u64,
    /// The lock's value while this grant lasts.
    value: String,
    released: AtomicBool,
    /// A release was sent that has no answer: it may have ended the grant.
    is_unclear: AtomicBool,
    /// The term that ends last: before that the grant does not expire.
    term: Mutex<Term>,
}

/// What the server granted.
pub(crate) fn grant(
    client: &Arc<Client>,
    entry: Entry,
    term: Term,
    (token, slot): (u64, Option<u32>),
) -> Result<Grant> {
    let fencing = FencingToken::with_base(client.token_base, token)?;
    // A revocation is told there; the runtime that served it may have ended.
    subscribe(client, None).ok();
    entry.data().for_others().holds = true;
    entry.granted(token);
    let value = format!("{}.{token:016}", client.entry(entry.request()));
    let (released, is_unclear) = (AtomicBool::new(false), AtomicBool::new(false));
    let (client, term_of) = (Arc::clone(client), Mutex::new(term));
    let lease = RedisLease { client, entry, token, value, released, is_unclear, term: term_of };
    Ok(Grant::new(fencing, term, lease).with_slot(slot))
}

impl RedisLease {
    fn term(&self) -> MutexGuard<'_, Term> {
        self.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a script about this grant.
    async fn run(&self, script: &Script, arg: &str) -> Answered {
        self.client.run(self.entry.request(), script, &[&self.value, arg]).await
    }

    fn was_lost(&self) -> bool {
        matches!(self.entry.data().mailbox.last(), Some(Notice::Lost(_)))
    }

    /// Whether the grant cannot have expired yet.
    fn lasts(&self) -> bool {
        let Term { sent, ttl } = *self.term();
        self.entry.request().clock().now() < sent.saturating_add(ttl.unwrap_or_default())
    }
}

#[async_trait]
impl Lease for RedisLease {
    async fn renew(&self) -> Result<Term> {
        let request = self.entry.request();
        let term = request.term();
        let milliseconds = request.ttl().as_millis().to_string();
        let answer = self.run(Scripts::of(request.kind()).renew, &milliseconds).await;
        if yes(&answer.value?)? {
            let mut last = self.term();
            if last.sent < term.sent {
                *last = term;
            }
            return Ok(term);
        }
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
        self.entry.is_latest(self.token)?;
        let late = tombstone(self.entry.may_still_arrive());
        let answer = self.run(Scripts::of(self.entry.request().kind()).release, late).await;
        // Even this answer may be that to its second sending.
        self.is_unclear.fetch_or(answer.may_arrive, Ordering::SeqCst);
        match Released::of(&answer.value?)? {
            Released::Now(next) => next.iter().for_each(|word| self.client.granted(word)),
            // The release without an answer ended it: until its term is over nothing else does but force.
            Released::Not
                if self.is_unclear.load(Ordering::SeqCst) && self.lasts() && !self.was_lost() => {}
            Released::Not => return Err(Error::lost(LossReason::Removed)),
        }
        self.released.store(true, Ordering::SeqCst);
        Ok(())
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        self.entry.is_latest(self.token)?;
        let request = self.entry.request();
        let late = tombstone(self.entry.may_still_arrive());
        // The server counts whole milliseconds.
        let milliseconds = (rest.as_millis() + 1).to_string();
        let args = [&*self.value, late, &milliseconds];
        let answer = self.client.run(request, Scripts::of(request.kind()).rest, &args).await;
        if yes(&answer.value?)? {
            return Ok(true);
        }
        Err(Error::lost(LossReason::Removed))
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
