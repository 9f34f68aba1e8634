//! The client of the small store: a whole provider, written against the public API alone.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Inspection,
    Instant, Kind, Lease, LockName, LockProvider, LossReason, MinimumHold, Operator, Permits,
    Request, Result, StoreSays, Term, TtlRange, WakeUp, async_trait,
};
use tokio::sync::watch;

use super::entry::{Ask, Granted};
use super::store::{Answer, Store, Waiting};

/// One client of a store; several may share it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    store: Arc<Store>,
    number: u64,
}

impl Client {
    pub(crate) fn connect(store: &Arc<Store>) -> Self {
        Self { store: Arc::clone(store), number: next_client() }
    }

    pub(crate) const fn number(&self) -> u64 {
        self.number
    }

    async fn answers(&self, request: &Request) -> Result<()> {
        answers(&self.store, request).await
    }

    pub(crate) fn ask(&self, request: &Request, ask: Ask) -> Answer {
        self.store.ask(self.number, request, ask)
    }

    pub(crate) fn grant(&self, request: &Request, sent: Instant, granted: Granted) -> Grant {
        let lease = SmallLease {
            store: Arc::clone(&self.store),
            client: self.number,
            request: request.clone(),
            token: granted.token,
            ended: granted.ended,
        };
        let term = Term { sent, ttl: Some(request.ttl()) };
        Grant::new(granted.carries, term, lease).with_slot(granted.slot)
    }
}

#[async_trait]
impl LockProvider for Client {
    fn guarantees(&self) -> Guarantees {
        guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let sent = request.clock().now();
        self.answers(request).await?;
        self.store.check_limit(request)?;
        match self.ask(request, Ask::Now) {
            Answer::Granted(granted) => Ok(Some(self.grant(request, sent, granted))),
            Answer::Held(_) | Answer::Gone => Ok(None),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let mut ask = Ask::Queue;
        loop {
            let sent = request.clock().now();
            // Its place in the queue may be there still.
            self.answers(request).await.map_err(|error| error.with_applied(Applied::Maybe))?;
            self.store.check_limit(request)?;
            match self.ask(request, ask) {
                Answer::Granted(granted) => return Ok(self.grant(request, sent, granted)),
                Answer::Held(waiting) => {
                    request.report(StoreSays::Held(waiting.holder.clone()));
                    worth_asking(request, sent, waiting).await;
                }
                Answer::Gone => {
                    return Err(Error::unavailable(Applied::No, "the place in the queue is gone"));
                }
            }
            ask = Ask::Again;
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.answers(request).await?;
        self.store.withdraw(self.number, request);
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(self)
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// The number of one more client.
pub(crate) fn next_client() -> u64 {
    static CLIENTS: AtomicU64 = AtomicU64::new(1);
    CLIENTS.fetch_add(1, Ordering::Relaxed)
}

/// What the small store promises, through whichever client.
pub(crate) fn guarantees() -> Guarantees {
    let mut guarantees = Guarantees::new(Exclusion::OneProcess, Expiry::Ttl(TtlRange::ANY));
    guarantees.fairness = Fairness::Fifo;
    guarantees.wake_up = WakeUp::Push;
    guarantees.kinds = &[Kind::Exclusive, Kind::Shared, Kind::Counted];
    guarantees.minimum_hold = MinimumHold::ByStore;
    guarantees.token_survives.server_restart = true;
    guarantees.raises_tokens = true;
    guarantees
}

/// Returns once the server takes this request, within what one call of it may take.
async fn answers(store: &Store, request: &Request) -> Result<()> {
    store.answers(request.clock(), (request.ttl() / 3).min(Duration::from_secs(2))).await?;
    store.takes(request.name())
}

/// Waits for the wake-up, the end of whoever stands before, or the time to keep the place alive.
pub(crate) async fn worth_asking(request: &Request, asked: Instant, waiting: Waiting) {
    if let Some(poll) = waiting.poll {
        return request.clock().sleep_until(poll).await;
    }
    let keep_alive = asked.saturating_add(request.ttl() / 3);
    let again = waiting.free_at.map_or(keep_alive, |free_at| free_at.min(keep_alive));
    let timer = request.clock().sleep_until(again);
    match waiting.wake {
        // A closed channel means that the place is gone, which is worth asking about too.
        Some(mut wake) => tokio::select! {
            _ = wake.changed() => {}
            () = timer => {}
        },
        None => timer.await,
    }
}

#[async_trait]
impl Operator for Client {
    async fn inspect(&self, name: &LockName) -> Result<Inspection> {
        self.store.answers_operator().await?;
        Ok(self.store.inspect(name))
    }

    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        self.store.answers_operator().await?;
        Ok(self.store.list(prefix, after, limit))
    }

    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        self.store.answers_operator().await?;
        Ok(self.store.resize(name, permits))
    }

    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool> {
        self.store.answers_operator().await?;
        Ok(self.store.revoke(name, token))
    }
}

#[derive(Debug)]
struct SmallLease {
    store: Arc<Store>,
    client: u64,
    request: Request,
    token: FencingToken,
    ended: watch::Receiver<Option<LossReason>>,
}

impl SmallLease {
    fn loss(&self) -> Error {
        Error::lost(self.ended.borrow().unwrap_or(LossReason::Removed))
    }
}

#[async_trait]
impl Lease for SmallLease {
    async fn renew(&self) -> Result<Term> {
        let sent = self.request.clock().now();
        answers(&self.store, &self.request).await?;
        if self.store.renew(self.client, &self.request, self.token, sent) {
            return Ok(Term { sent, ttl: Some(self.request.ttl()) });
        }
        Err(self.loss())
    }

    async fn lost(&self) -> LossReason {
        let mut ended = self.ended.clone();
        let reason = ended.wait_for(Option::is_some).await.map(|reason| *reason);
        reason.ok().flatten().unwrap_or(LossReason::Removed)
    }

    async fn release(&self) -> Result<()> {
        answers(&self.store, &self.request).await?;
        if self.store.release(self.client, &self.request, self.token) {
            return Ok(());
        }
        match self.loss() {
            Error::Lost { reason: LossReason::Released, .. } => Ok(()),
            loss => Err(loss),
        }
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        answers(&self.store, &self.request).await?;
        match self.store.rest(self.client, &self.request, self.token, rest) {
            true => Ok(true),
            false => Err(self.loss()),
        }
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        answers(&self.store, &self.request).await?;
        let raised = self.store.raise(self.client, &self.request, self.token, token);
        raised.ok_or_else(|| self.loss())
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        None
    }
}
