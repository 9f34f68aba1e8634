//! A provider between a driver and the client under test: it counts, delays and cuts off.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use crate::{
    Applied, Clock, Error, FencingToken, Finding, Grant, Guarantees, Lease, LockProvider,
    LossReason, Operator, Request, Result, Term,
};

/// Wraps a provider; clones share what they see and do.
#[derive(Clone, Debug)]
pub(super) struct Tap(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    provider: Arc<dyn LockProvider>,
    clock: Clock,
    attempts: AtomicU32,
    renewals: AtomicU32,
    withdrawals: AtomicU32,
    cut: AtomicBool,
    losing: AtomicBool,
    broken: AtomicBool,
    delay: Mutex<Duration>,
    hold_up: Mutex<Duration>,
    /// Leases whose client was cut off: dropping them would end what an unreachable holder keeps.
    orphans: Mutex<Vec<Box<dyn Lease>>>,
}

impl Tap {
    pub(super) fn on(provider: Arc<dyn LockProvider>, clock: &Clock) -> Self {
        Self(Arc::new(Inner {
            provider,
            clock: clock.clone(),
            attempts: AtomicU32::new(0),
            renewals: AtomicU32::new(0),
            withdrawals: AtomicU32::new(0),
            cut: AtomicBool::new(false),
            losing: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            delay: Mutex::default(),
            hold_up: Mutex::default(),
            orphans: Mutex::default(),
        }))
    }

    /// How many attempts were sent.
    pub(super) fn attempts(&self) -> u32 {
        self.0.attempts.load(Ordering::SeqCst)
    }

    /// How many grants are kept whose replies were lost.
    pub(super) fn lost(&self) -> usize {
        self.0.orphans.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    /// How many renewals were sent.
    pub(super) fn renewals(&self) -> u32 {
        self.0.renewals.load(Ordering::SeqCst)
    }

    /// How many withdrawals were sent.
    pub(super) fn withdrawals(&self) -> u32 {
        self.0.withdrawals.load(Ordering::SeqCst)
    }

    /// From now on nothing reaches the store, and nothing comes back: the client's process hangs,
    /// or its link is down.
    pub(super) fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
    }

    /// Ends what [`cut`](Self::cut) began.
    pub(super) fn mend(&self) {
        self.0.cut.store(false, Ordering::SeqCst);
    }

    /// From now on every renewal panics, and takes its driver with it.
    pub(super) fn break_renewals(&self) {
        self.0.broken.store(true, Ordering::SeqCst);
    }

    /// While `losing`, attempts reach the store, and their replies are lost.
    pub(super) fn lose_replies(&self, losing: bool) {
        self.0.losing.store(losing, Ordering::SeqCst);
    }

    /// From now on every attempt reaches the store this much later; withdrawals overtake it.
    pub(super) fn hold_up_attempts(&self, by: Duration) {
        *self.0.hold_up.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }

    /// From now on every reply comes this much later than the store gave it.
    pub(super) fn delay_replies(&self, by: Duration) {
        *self.0.delay.lock().unwrap_or_else(PoisonError::into_inner) = by;
    }
}

impl Inner {
    fn check(&self) -> Result<()> {
        if self.cut.load(Ordering::SeqCst) {
            return Err(Error::unavailable(Applied::No, "the suite cut this client off"));
        }
        Ok(())
    }

    async fn reply(&self) {
        let delay = *self.delay.lock().unwrap_or_else(PoisonError::into_inner);
        if !delay.is_zero() {
            self.clock.sleep(delay).await;
        }
    }

    fn held_up(&self) -> Option<Duration> {
        let by = *self.hold_up.lock().unwrap_or_else(PoisonError::into_inner);
        (!by.is_zero()).then_some(by)
    }

    /// An attempt on its way: it arrives even when nobody waits for its reply any more.
    async fn arrive(
        self: &Arc<Self>,
        request: &Request,
        by: Duration,
        waits: bool,
    ) -> Result<Option<Grant>> {
        let (inner, request) = (Arc::clone(self), request.clone());
        let (reply, answer) = oneshot::channel();
        tokio::spawn(async move {
            inner.clock.sleep(by).await;
            let answered = if waits {
                inner.provider.acquire(&request).await.map(Some)
            } else {
                inner.provider.try_acquire(&request).await
            };
            if let Err(Ok(Some(grant))) = reply.send(answered) {
                inner.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(grant.lease);
            }
        });
        answer.await.unwrap_or_else(|_| Err(no_reply()))
    }

    /// The grant, unless replies are lost: then it stays in the store, and nobody knows.
    fn unless_lost(&self, grant: Grant) -> Result<Grant> {
        if !self.losing.load(Ordering::SeqCst) {
            return Ok(grant);
        }
        self.orphans.lock().unwrap_or_else(PoisonError::into_inner).push(grant.lease);
        Err(no_reply())
    }
}

fn no_reply() -> Error {
    Error::unavailable(Applied::Maybe, "the suite lost the reply to this attempt")
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl LockProvider for Tap {
    fn guarantees(&self) -> Guarantees {
        self.0.provider.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.0.attempts.fetch_add(1, Ordering::SeqCst);
        self.0.check()?;
        let grant = match self.0.held_up() {
            Some(by) => self.0.arrive(request, by, false).await?,
            None => self.0.provider.try_acquire(request).await?,
        };
        let grant = grant.map(|grant| self.0.unless_lost(grant)).transpose()?;
        let grant = grant.map(|grant| self.tapped(grant));
        self.0.reply().await;
        Ok(grant)
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.0.attempts.fetch_add(1, Ordering::SeqCst);
        self.0.check()?;
        let grant = match self.0.held_up() {
            Some(by) => self.0.arrive(request, by, true).await?.ok_or_else(no_reply)?,
            None => self.0.provider.acquire(request).await?,
        };
        let grant = self.tapped(self.0.unless_lost(grant)?);
        self.0.reply().await;
        Ok(grant)
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.withdrawals.fetch_add(1, Ordering::SeqCst);
        self.0.check()?;
        self.0.provider.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.0.provider.operator()
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        self.0.provider.examine().await
    }

    async fn close(&self) -> Result<()> {
        self.0.provider.close().await
    }
}

impl Tap {
    fn tapped(&self, grant: Grant) -> Grant {
        grant.wrapped(|lease| TappedLease { tap: Arc::clone(&self.0), lease: Some(lease) })
    }
}

#[derive(Debug)]
struct TappedLease {
    tap: Arc<Inner>,
    /// Taken only by `Drop`.
    lease: Option<Box<dyn Lease>>,
}

impl TappedLease {
    fn lease(&self) -> &dyn Lease {
        self.lease.as_deref().expect("there until dropped")
    }
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl Lease for TappedLease {
    async fn renew(&self) -> Result<Term> {
        self.tap.renewals.fetch_add(1, Ordering::SeqCst);
        if self.tap.broken.load(Ordering::SeqCst) {
            // Not `panic!`: the hook would print what is no failure.
            std::panic::resume_unwind(Box::new("expected"));
        }
        self.tap.check()?;
        let renewed = self.lease().renew().await;
        self.tap.reply().await;
        renewed
    }

    async fn lost(&self) -> LossReason {
        let reason = self.lease().lost().await;
        if self.tap.check().is_err() {
            std::future::pending::<()>().await;
        }
        reason
    }

    async fn out_of_reach(&self) {
        self.lease().out_of_reach().await;
    }

    async fn release(&self) -> Result<()> {
        self.tap.check()?;
        self.lease().release().await
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        self.tap.check()?;
        self.lease().release_after(rest).await
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        self.tap.check()?;
        self.lease().raise(token).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease().native()
    }
}

impl Drop for TappedLease {
    fn drop(&mut self) {
        if self.tap.check().is_err() {
            let mut orphans = self.tap.orphans.lock().unwrap_or_else(PoisonError::into_inner);
            orphans.extend(self.lease.take());
        }
    }
}
