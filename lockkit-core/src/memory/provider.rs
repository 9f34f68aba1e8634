//! The memory store as a provider: its calls, its operator, its leases.

use std::any::Any;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::store::{Asker, Granted, Message, Reply};
use super::{Memory, News, Presence, exhausted};
use crate::{
    Applied, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Holder,
    Inspection, Instant, Kind, Lease, LockName, LockProvider, LossReason, MinimumHold, Operator,
    Permits, Request, Result, StoreSays, Term, TtlRange, WakeUp,
};

#[async_trait]
impl LockProvider for Memory {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneProcess, Expiry::Ttl(TtlRange::ANY));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.kinds = &[Kind::Exclusive, Kind::Shared, Kind::Counted];
        guarantees.minimum_hold = MinimumHold::ByStore;
        guarantees.raises_tokens = true;
        guarantees.belief_breaks_on =
            &["a pause between a check and its use that outlasts the margin"];
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let reply = self.0.ask(request, Message::TryAcquire(asker(request)))?;
        self.check_permits(request)?;
        match reply {
            Reply::Granted(granted) => Ok(Some(self.presence(request).into_grant(granted))),
            _ => Ok(None),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        // Made before the request: dropped at any await, it withdraws.
        let presence = self.presence(request);
        let reply = self.0.ask(request, Message::Acquire(asker(request)))?;
        self.check_permits(request)?;
        match reply {
            Reply::Granted(granted) => return Ok(presence.into_grant(granted)),
            Reply::Held(holder) => request.report(StoreSays::Held(Some(holder))),
            _ => return Err(exhausted()),
        }
        let signal = presence.changed();
        loop {
            // Enabled before the look: a notice between the two is not lost.
            let changed = signal.notified();
            let news = {
                let state = self.0.state();
                match state.outage_at(request.clock().now()) {
                    Some(_) => News::None,
                    None => state.news(request.id()),
                }
            };
            match news {
                News::Granted(granted) => return Ok(presence.into_grant(granted)),
                News::Ended(..) => {
                    return Err(Error::unavailable(Applied::No, "the request was withdrawn"));
                }
                News::None => {}
            }
            let next = {
                let state = self.0.state();
                let outage = state.outage_at(request.clock().now());
                if outage.is_some() {
                    request.report(StoreSays::Unreachable);
                }
                outage.or(state.store.expires(request.name()))
            };
            match next {
                Some(end) => tokio::select! {
                    biased;
                    () = changed => {}
                    () = request.clock().sleep_until(end) => {
                        self.0.ask(request, Message::Tick).ok();
                    }
                },
                None => changed.await,
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.ask(request, Message::Withdraw(request.id()))?;
        if let Some(slot) = self.0.state().slots.get_mut(&request.id()) {
            if matches!(slot.news, News::None) {
                slot.news = News::Ended(None, LossReason::Removed);
            }
            slot.wake();
        }
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[async_trait]
impl Operator for Memory {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        let state = self.0.state();
        let now = state.clock.now();
        state.check_outage(now)?;
        Ok(state.store.inspect(now, name))
    }

    async fn granted_after(&self, name: &LockName, token: Option<FencingToken>) {
        let signal = Arc::clone(&self.0.state().granted);
        loop {
            // Made before the look: a grant between the two is not lost.
            let granted = signal.notified();
            let is_newer = {
                let state = self.0.state();
                let now = state.clock.now();
                let is_newer = |holder: &Holder| holder.token > token;
                state.outage_at(now).is_none()
                    && state.store.inspect(now, name).holders.iter().any(is_newer)
            };
            if is_newer {
                return;
            }
            granted.await;
        }
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let state = self.0.state();
        let now = state.clock.now();
        state.check_outage(now)?;
        Ok(state.store.list(now, prefix, after, limit))
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        let mut state = self.0.state();
        let now = state.clock.now();
        state.check_outage(now)?;
        Ok(matches!(state.step(now, name, Message::Revoke(token)), Reply::Ended(_)))
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        let mut state = self.0.state();
        let now = state.clock.now();
        state.check_outage(now)?;
        match state.step(now, name, Message::Resize(permits.wished())) {
            Reply::Resized(before) => Ok(before),
            _ => Err(exhausted()),
        }
    }

    async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        let mut state = self.0.state();
        let now = state.clock.now();
        state.check_outage(now)?;
        Ok(state.store.forget(now, prefix, unused_for))
    }
}

impl Memory {
    /// Tells a counted request the limit of its semaphore.
    fn check_permits(&self, request: &Request) -> Result<()> {
        let limit = match request.permits() {
            Some(_) => self.0.state().store.limit(request.name()),
            None => None,
        };
        limit.map_or(Ok(()), |limit| request.check_permits(limit))
    }

    fn presence(&self, request: &Request) -> Presence {
        Presence::new(&self.0, request.name().clone(), request.id(), request.clock().clone())
    }
}

impl Presence {
    fn into_grant(mut self, granted: Granted) -> Grant {
        self.token = Some(granted.token);
        let term = Term { sent: granted.at, ttl: granted.ttl };
        let lease = MemoryLease { entry: self, token: granted.token, ttl: granted.ttl };
        Grant::new(granted.carries, term, lease).with_slot(granted.slot)
    }
}

#[derive(Debug)]
struct MemoryLease {
    entry: Presence,
    token: FencingToken,
    ttl: Option<Duration>,
}

impl MemoryLease {
    fn ended(&self) -> Option<LossReason> {
        match self.entry.news() {
            News::Ended(Some(token), reason) if token == self.token => Some(reason),
            // A replay of the request was granted since.
            News::Ended(Some(token), _) if token > self.token => Some(LossReason::Removed),
            News::Granted(granted) if granted.token > self.token => Some(LossReason::Removed),
            News::Ended(..) | News::None | News::Granted(_) => None,
        }
    }

    fn ask(&self, message: Message) -> Result<(Reply, Instant)> {
        let mut state = self.entry.store.state();
        let now = self.entry.clock.now();
        state.check_outage(now)?;
        Ok((state.step(now, &self.entry.name, message), now))
    }
}

#[async_trait]
impl Lease for MemoryLease {
    async fn renew(&self) -> Result<Term> {
        match self.ask(Message::Renew(self.token))? {
            (Reply::Renewed, sent) => Ok(Term { sent, ttl: self.ttl }),
            _ => Err(Error::lost(self.ended().unwrap_or(LossReason::Removed))),
        }
    }

    async fn lost(&self) -> LossReason {
        let signal = self.entry.changed();
        loop {
            let changed = signal.notified();
            if let Some(reason) = self.ended() {
                return reason;
            }
            changed.await;
        }
    }

    async fn release(&self) -> Result<()> {
        match self.ended() {
            Some(LossReason::Released) => return Ok(()),
            Some(reason) => return Err(Error::lost(reason)),
            None => {}
        }
        match self.ask(Message::End(self.token, LossReason::Released))?.0 {
            Reply::Ended(_) => Ok(()),
            _ => Err(Error::lost(self.ended().unwrap_or(LossReason::Removed))),
        }
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        match self.ask(Message::Rest(self.token, rest))?.0 {
            Reply::Ended(_) => {
                // The grant may end sooner than the waiters were told.
                self.entry.store.state().wake_all();
                Ok(true)
            }
            _ => Err(Error::lost(self.ended().unwrap_or(LossReason::Removed))),
        }
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        match self.ask(Message::Raise(self.token, token))?.0 {
            Reply::Raised(raised) => Ok(raised),
            _ => Err(Error::lost(self.ended().unwrap_or(LossReason::Removed))),
        }
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}

fn asker(request: &Request) -> Asker {
    Asker {
        id: request.id(),
        label: Arc::clone(request.label()),
        ttl: Some(request.ttl()),
        kind: request.kind(),
        permits: request.permits(),
        floor: request.token_floor(),
    }
}
