//! A store at the far end of a link: what the driver's tests run against.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockkit_core::{
    Applied, Clock, Error, Grant, Guarantees, Lease, LockProvider, Locks, LossReason, Memory,
    Operator, Request, RequestId, Result, Term, async_trait,
};
use tokio::sync::{oneshot, watch};

/// One kind of call on the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    TryAcquire,
    Acquire,
    Withdraw,
    Renew,
    Release,
    ReleaseAfter,
}

/// What goes wrong with the next call of a kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It never leaves, and the caller knows.
    Refused,
    /// It is lost on the way, and the caller does not know.
    LostRequest,
    /// The same, and the caller is told this much later.
    SlowReset(Duration),
    /// It takes effect, but the reply is lost.
    LostReply,
    /// It is never answered, and has no effect.
    Hang,
    /// It takes effect, and the reply comes this much later.
    SlowReply(Duration),
    /// The client's code panics.
    Panic,
    /// The store refuses it, for want of a right.
    Rejected,
    /// It takes effect, and then the store refuses what belongs to it.
    RejectedLate,
}

/// A memory store behind a link. What a call does in the store happens whether or not its caller
/// still waits, and a grant lives there until it is released or expires: nothing is freed by
/// dropping something here.
#[derive(Clone, Debug)]
pub(crate) struct Remote(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Memory,
    /// The store's side of the grants.
    held: Mutex<HashMap<RequestId, Arc<dyn Lease>>>,
    faults: Mutex<VecDeque<(Op, Fault)>>,
    log: Mutex<Vec<(Op, RequestId)>>,
    /// The longest delay in each direction.
    delay: Mutex<Duration>,
    fixed: bool,
    random: AtomicU64,
    /// Whether the client knows that it has lost its way to the store.
    out_of_reach: watch::Sender<bool>,
    closed: AtomicBool,
    /// Whether the store frees a name by itself after a minimum hold.
    offers_rest: AtomicBool,
}

impl Remote {
    /// A link without delay.
    pub(crate) fn new() -> Self {
        Self::with_delay(Duration::ZERO, 1)
    }

    /// A link whose every message takes between nothing and `delay`, independently.
    pub(crate) fn with_delay(delay: Duration, seed: u64) -> Self {
        Self::build(delay, seed, false)
    }

    /// A link whose every message takes exactly `delay`.
    pub(crate) fn with_fixed_delay(delay: Duration) -> Self {
        Self::build(delay, 1, true)
    }

    fn build(delay: Duration, seed: u64, fixed: bool) -> Self {
        Self(Arc::new(Inner {
            store: Memory::new(),
            held: Mutex::default(),
            faults: Mutex::default(),
            log: Mutex::default(),
            delay: Mutex::new(delay),
            fixed,
            random: AtomicU64::new(seed),
            out_of_reach: watch::Sender::new(false),
            closed: AtomicBool::new(false),
            offers_rest: AtomicBool::new(true),
        }))
    }

    /// From now on the client knows that it has lost its way to the store, or has one again.
    pub(crate) fn be_out_of_reach(&self, lost: bool) {
        self.0.out_of_reach.send_replace(lost);
    }

    /// From now on its store frees no name by itself after a minimum hold.
    pub(crate) fn offers_no_rest(self) -> Self {
        self.0.offers_rest.store(false, Ordering::Relaxed);
        self
    }

    /// Whether the provider was closed.
    pub(crate) fn is_closed(&self) -> bool {
        self.0.closed.load(Ordering::Relaxed)
    }

    pub(crate) fn locks(&self) -> Locks {
        Locks::builder().clock(Clock::tokio()).build(self.clone())
    }

    pub(crate) fn store(&self) -> &Memory {
        &self.0.store
    }

    /// The next call of this kind fails so.
    pub(crate) fn fail_next(&self, op: Op, fault: Fault) {
        self.0.faults.lock().unwrap().push_back((op, fault));
    }

    /// The ids of all calls of this kind so far.
    pub(crate) fn calls(&self, op: Op) -> Vec<RequestId> {
        let log = self.0.log.lock().unwrap();
        log.iter().filter(|(seen, _)| *seen == op).map(|(_, id)| *id).collect()
    }

    /// Whether nobody holds `name` in the store, and nobody waits there.
    pub(crate) async fn is_clean(&self, name: &str) -> bool {
        let name = name.parse().expect("a name");
        let seen = self.0.store.operator().expect("memory has one").inspect(&name).await;
        let seen = seen.expect("no outage");
        seen.holders.is_empty() && seen.waiters == Some(0)
    }

    pub(crate) fn random(&self) -> u64 {
        // SplitMix64: a counter and a mixing step.
        let mut x = self.0.random.fetch_add(0x9e37_79b9_7f4a_7c15, Ordering::Relaxed);
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    async fn travel(&self) {
        let longest = *self.0.delay.lock().unwrap();
        if longest.is_zero() {
            return;
        }
        let micros = u64::try_from(longest.as_micros()).expect("a short delay");
        let delay = if self.0.fixed { micros } else { self.random() % (micros + 1) };
        tokio::time::sleep(Duration::from_micros(delay)).await;
    }

    fn fault(&self, op: Op) -> Option<Fault> {
        let mut faults = self.0.faults.lock().unwrap();
        let next = faults.iter().position(|(of, _)| *of == op)?;
        faults.remove(next).map(|(_, fault)| fault)
    }

    /// One call: a message there, its effect, a message back.
    async fn call<T: Send + 'static>(
        &self,
        op: Op,
        id: RequestId,
        effect: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.0.log.lock().unwrap().push((op, id));
        let fault = self.fault(op);
        match fault {
            Some(Fault::Refused) => return Err(Error::unavailable(Applied::No, "refused")),
            Some(Fault::LostRequest) => return Err(Error::unavailable(Applied::Maybe, "reset")),
            Some(Fault::SlowReset(by)) => {
                tokio::time::sleep(by).await;
                return Err(Error::unavailable(Applied::Maybe, "reset"));
            }
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::Panic) => panic!("a bug in the client"),
            Some(Fault::Rejected) => return Err(rejected()),
            Some(Fault::LostReply | Fault::SlowReply(_) | Fault::RejectedLate) | None => {}
        }
        let (reply, answer) = oneshot::channel();
        let link = self.clone();
        tokio::spawn(async move {
            link.travel().await;
            let outcome = effect.await;
            link.travel().await;
            drop(reply.send(outcome));
        });
        let outcome = answer.await.expect("the store lives");
        match fault {
            Some(Fault::LostReply) => Err(Error::unavailable(Applied::Maybe, "reset")),
            Some(Fault::RejectedLate) => Err(rejected()),
            Some(Fault::SlowReply(by)) => {
                tokio::time::sleep(by).await;
                outcome
            }
            _ => outcome,
        }
    }

    async fn ask(&self, op: Op, request: &Request) -> Result<Option<Grant>> {
        let sent = request.clock().now();
        let (link, asked) = (self.clone(), request.clone());
        let granted = self.call(op, request.id(), async move {
            let store = &link.0.store;
            let grant = match op {
                Op::TryAcquire => store.try_acquire(&asked).await?,
                _ => Some(store.acquire(&asked).await?),
            };
            Ok(grant.map(|grant| {
                let lease = Arc::from(grant.lease);
                link.0.held.lock().unwrap().insert(asked.id(), lease);
                (grant.token, grant.term.ttl)
            }))
        });
        let Some((token, ttl)) = granted.await? else { return Ok(None) };
        let lease = RemoteLease { link: self.clone(), request: request.clone() };
        Ok(Some(Grant::new(token, Term { sent, ttl }, lease)))
    }
}

#[async_trait]
impl LockProvider for Remote {
    fn guarantees(&self) -> Guarantees {
        self.0.store.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.ask(Op::TryAcquire, request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        // The store says at once that the name is held.
        let store = self.0.store.operator().expect("memory has one");
        let seen = store.inspect(request.name()).await?;
        if let Some(holder) = seen.holders.into_iter().next() {
            request.report(lockkit_core::StoreSays::Held(Some(holder)));
        }
        Ok(self.ask(Op::Acquire, request).await?.expect("a waiting call is granted"))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let (link, asked) = (self.clone(), request.clone());
        self.call(Op::Withdraw, request.id(), async move {
            link.0.store.withdraw(&asked).await?;
            link.0.held.lock().unwrap().remove(&asked.id());
            Ok(())
        })
        .await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.0.store.operator()
    }

    async fn close(&self) -> Result<()> {
        self.0.closed.store(true, Ordering::Relaxed);
        Ok(())
    }
}

fn rejected() -> Error {
    Error::rejected("this role", "grant it the right to lock")
}

#[derive(Debug)]
struct RemoteLease {
    link: Remote,
    request: Request,
}

impl RemoteLease {
    async fn call<T: Send + 'static, F>(
        &self,
        op: Op,
        effect: impl FnOnce(Arc<dyn Lease>) -> F + Send + 'static,
    ) -> Result<T>
    where
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let (link, id) = (self.link.clone(), self.request.id());
        self.link
            .call(op, id, async move {
                let lease = link.0.held.lock().unwrap().get(&id).cloned();
                match lease {
                    Some(lease) => effect(lease).await,
                    None => Err(Error::lost(LossReason::Removed)),
                }
            })
            .await
    }
}

#[async_trait]
impl Lease for RemoteLease {
    async fn renew(&self) -> Result<Term> {
        let sent = self.request.clock().now();
        let term = self.call(Op::Renew, |lease| async move { lease.renew().await }).await?;
        Ok(Term { sent, ..term })
    }

    async fn lost(&self) -> LossReason {
        std::future::pending().await
    }

    async fn out_of_reach(&self) {
        drop(self.link.0.out_of_reach.subscribe().wait_for(|lost| *lost).await);
    }

    async fn release(&self) -> Result<()> {
        let (link, id) = (self.link.clone(), self.request.id());
        self.call(Op::Release, move |lease| async move {
            let outcome = lease.release().await;
            link.0.held.lock().unwrap().remove(&id);
            outcome
        })
        .await
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        if !self.link.0.offers_rest.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.call(Op::ReleaseAfter, move |lease| async move { lease.release_after(rest).await })
            .await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        Some(Arc::new(self.request.id()))
    }
}
