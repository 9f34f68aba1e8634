//! What a program takes locks from.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::driver::{Answer, Closing, Order, Patience, Shared, drive};
use crate::reaper::{Count, Reaper, limited};
use crate::request::default_label;
use crate::runtime::Runtime;
use crate::timing::{DEFAULT_TTL, Renewal, Wish, call_limit};
use crate::{
    Applied, Clock, Error, FencingToken, Guarantees, Guard, Inspection, Kind, LockName,
    LockProvider, Memory, Operator, Result,
};

/// A store's locks: the one handle a program keeps, cheap to clone.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use lockkit_core::{Locks, Memory};
/// use std::time::Duration;
///
/// let locks = Locks::builder().ttl(Duration::from_secs(30)).build(Memory::new());
/// locks.lock("billing/nightly").run(async |guard| {
///     println!("working under token {}", guard.token());
///     Ok::<_, lockkit_core::Error>(())
/// }).await?;
/// locks.close(Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Locks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    guarantees: Guarantees,
    runtime: Option<Runtime>,
    ttl: Duration,
    label: Arc<str>,
    watching: Arc<AtomicBool>,
}

/// Settings for all the locks of one [`Locks`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder {
    clock: Clock,
    runtime: Option<Handle>,
    ttl: Duration,
    label: Option<Arc<str>>,
}

impl Builder {
    /// The clock to live by, instead of the system's.
    pub fn clock(mut self, clock: Clock) -> Self {
        self.clock = clock;
        self
    }

    /// The runtime to work in, instead of the one each call comes from; it makes every call work
    /// outside a runtime too.
    pub fn runtime(mut self, handle: Handle) -> Self {
        self.runtime = Some(handle);
        self
    }

    /// The ttl of locks that name none: 15 s unless set here.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// Who holds, for people: `host/pid/program` unless set here.
    pub fn label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// The locks of `provider`.
    pub fn build(self, provider: impl LockProvider) -> Locks {
        let provider: Arc<dyn LockProvider> = Arc::new(provider);
        let guarantees = provider.guarantees();
        let shared = Shared {
            reaper: Reaper::new(Arc::clone(&provider), self.clock.clone()),
            provider,
            clock: self.clock,
            closing: Closing::default(),
            active: Arc::<Count>::default(),
            ttl_adjusted: AtomicBool::new(false),
        };
        Locks(Arc::new(Inner {
            shared: Arc::new(shared),
            guarantees,
            runtime: self.runtime.map(Runtime::from),
            ttl: self.ttl,
            label: self.label.unwrap_or_else(default_label),
            watching: Arc::default(),
        }))
    }
}

impl Locks {
    /// The locks of `provider`, with every setting at its default.
    pub fn new(provider: impl LockProvider) -> Self {
        Self::builder().build(provider)
    }

    /// Settings to begin with.
    pub fn builder() -> Builder {
        Builder { clock: Clock::system(), runtime: None, ttl: DEFAULT_TTL, label: None }
    }

    /// Locks in the memory of this process, private to this handle and its clones.
    pub fn memory() -> Self {
        Self::new(Memory::new())
    }

    /// The lock of this name; nothing is asked of the store yet.
    ///
    /// A name that cannot be one is refused at the first use.
    pub fn lock(&self, name: impl AsRef<str>) -> Lock {
        Lock {
            locks: self.clone(),
            name: LockName::new(name),
            wish: Wish::default(),
            label: Arc::clone(&self.0.label),
        }
    }

    /// What the store promises.
    pub fn guarantees(&self) -> &Guarantees {
        &self.0.guarantees
    }

    /// Up to `limit` names that are held or waited for and start with `prefix`, in the order of
    /// their bytes, from after `after`.
    ///
    /// # Errors
    /// `Rejected`: this store cannot list. `Unavailable`: it did not answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    pub async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        self.0.limited(self.0.operator()?.list(prefix, after, limit)).await
    }

    /// Refuses new attempts, ends those that wait, releases what is held, and waits for all of it,
    /// and for the clean-ups in the background, for at most `within`.
    ///
    /// Guards that are still held are lost with [`LossReason::Closed`](crate::LossReason::Closed).
    ///
    /// # Errors
    /// `Unavailable`: the store did not acknowledge everything in time; its own expiry ends the
    /// rest. `Closed`: it was closed before. `NoRuntime`: there is none to wait in.
    ///
    /// # Cancel safety
    /// Dropped midway, everything is refused and ended all the same, but not waited for.
    pub async fn close(&self, within: Duration) -> Result<()> {
        let runtime = Runtime::of_caller(self.0.runtime.as_ref())?;
        let shared = Arc::clone(&self.0.shared);
        if !shared.closing.set() {
            return Err(Error::Closed);
        }
        let close = async move {
            let clock = &shared.clock;
            let end = clock.now().saturating_add(within);
            let settled = limited(clock, within, async {
                shared.active.below(1).await;
                shared.reaper.drained().await;
                Ok(())
            })
            .await;
            shared.reaper.abandon();
            let left = end.saturating_since(clock.now());
            let closed = limited(clock, left, shared.provider.close()).await;
            settled.and(closed)
        };
        runtime.enter(Box::pin(close)).await
    }
}

impl Inner {
    fn operator(&self) -> Result<&dyn Operator> {
        self.shared.provider.operator().ok_or_else(|| {
            Error::rejected(
                "looking into this store, or revoking in it",
                "its provider offers no operator: use the store's own tools",
            )
        })
    }

    async fn limited<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = Runtime::of_caller(self.runtime.as_ref())?;
        let limit = call_limit(DEFAULT_TTL);
        runtime.enter(Box::pin(limited(&self.shared.clock, limit, call))).await
    }

    /// Timers stand still while the machine is suspended: one task notices the jump of the clock
    /// and wakes whoever sleeps by it.
    fn watch_for_suspend(&self, runtime: &Runtime) {
        const EVERY: Duration = Duration::from_secs(1);
        if !self.shared.clock.outruns_timers() || self.watching.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared: Weak<Shared> = Arc::downgrade(&self.shared);
        let watching = Watching(Arc::clone(&self.watching));
        runtime.spawn(async move {
            let _watching = watching;
            loop {
                let before = shared.upgrade().map(|shared| shared.clock.now());
                tokio::time::sleep(EVERY).await;
                let Some((shared, before)) = shared.upgrade().zip(before) else { return };
                if shared.closing.is_set() {
                    return;
                }
                if shared.clock.now().saturating_since(before) > EVERY + EVERY / 2 {
                    shared.clock.wake_sleepers();
                }
            }
        });
    }
}

/// Says that the watcher runs, until its runtime drops it.
struct Watching(Arc<AtomicBool>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// One name's lock, with its settings; takes guards, and may be kept and cloned.
///
/// The futures of its methods own what they need: they work in `select!`, in `join!` and in a task
/// of their own.
#[derive(Clone, Debug)]
#[must_use = "nothing is locked before acquire()"]
pub struct Lock {
    locks: Locks,
    name: Result<LockName>,
    wish: Wish,
    label: Arc<str>,
}

impl Lock {
    /// How long the store keeps the lock for a holder that it does not hear of (C5).
    ///
    /// A wish: the store rounds it up to what it can grant, and [`Guard::ttl`] tells what it
    /// granted. From 50 ms to 24 h. It has no effect on a store without expiry.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.wish.ttl = Some(ttl);
        self
    }

    /// How long before the store's expiry the guard already reports the lock as lost.
    ///
    /// It covers the difference in rate of two clocks, and the caller's own delay between a check
    /// and its use. By default 1 % of the ttl + 2 ms, or a tenth of the ttl up to 2 s, whichever is
    /// more.
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.wish.margin = Some(margin);
        self
    }

    /// How long after an acknowledged renewal was sent the next one is, instead of a third of the
    /// ttl.
    pub const fn renew_every(mut self, every: Duration) -> Self {
        self.wish.renewal = Renewal::Every(every);
        self
    }

    /// Leaves the renewing to [`Guard::renew`].
    pub const fn renew_manually(mut self) -> Self {
        self.wish.renewal = Renewal::Manual;
        self
    }

    /// How long a guard holds at the most, renewals or not: caps a worker that is stuck while its
    /// renewals go on. No limit unless set here.
    pub const fn max_hold(mut self, max_hold: Duration) -> Self {
        self.wish.max_hold = Some(max_hold);
        self
    }

    /// Who holds, for people.
    pub fn label(mut self, label: impl Into<Arc<str>>) -> Self {
        self.label = label.into();
        self
    }

    /// Takes the lock, waiting as long as it takes, through outages of the store too.
    ///
    /// Upholds C1, C8 and C10. A wait longer than the ttl logs one warning.
    ///
    /// # Errors
    /// `Rejected`, `Invalid`: waiting is useless. `Closed`, `NoRuntime`: there is nobody to wait.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped at any point it leaves no lock held and no waiter behind (C9), and it
    /// loses its place in the queue.
    pub fn acquire(&self) -> impl Future<Output = Result<Guard>> + Send + use<> {
        granted(self.start(Patience::Wait))
    }

    /// Takes the lock if it is free: one attempt of at most a third of the ttl, or 2 s.
    ///
    /// # Errors
    /// `Unavailable`: the store did not answer. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> impl Future<Output = Result<Option<Guard>>> + Send + use<> {
        self.start(Patience::Try)
    }

    /// Takes the lock, waiting for at most `limit`.
    ///
    /// # Errors
    /// `TimedOut`: the store last said that another holds it. `Unavailable`: the store last said
    /// nothing. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<Guard>> + Send + use<> {
        granted(self.start(Patience::Within(limit)))
    }

    /// Takes the lock as [`acquire`](Self::acquire) does, and runs `work` as [`Guard::run`] does:
    /// in the caller's own task, stopped when the lock is lost.
    ///
    /// # Errors
    /// What `work` returned, `Lost`, or as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the lock in the background.
    pub fn run<T, E, F>(&self, work: F) -> impl Future<Output = Result<T, E>> + use<T, E, F>
    where
        F: AsyncFnOnce(&Guard) -> Result<T, E>,
        E: From<Error>,
    {
        let acquire = self.acquire();
        async move { acquire.await?.run(work).await }
    }

    /// Who holds the lock and how many wait, as the store knows it.
    ///
    /// # Errors
    /// `Rejected`: this store cannot tell. `Unavailable`: it did not answer. `Invalid`: the name.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    pub async fn inspect(&self) -> Result<Inspection> {
        let (name, inner) = (self.name.clone()?, &self.locks.0);
        inner.limited(inner.operator()?.inspect(&name)).await
    }

    /// Ends exactly the grant with this token; `false`: there is no such grant.
    ///
    /// # Errors
    /// `Rejected`: this store cannot end another's grant. `Unavailable`: it did not answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not.
    pub async fn revoke(&self, token: FencingToken) -> Result<bool> {
        let (name, inner) = (self.name.clone()?, &self.locks.0);
        inner.limited(inner.operator()?.revoke(&name, token)).await
    }

    fn start(&self, patience: Patience) -> impl Future<Output = Answer> + Send + use<> {
        let lock = self.clone();
        async move {
            let inner = &*lock.locks.0;
            if !inner.guarantees.kinds.contains(&Kind::Exclusive) {
                return Err(Error::rejected(
                    "an exclusive lock",
                    "this store does not offer that kind: see Locks::guarantees()",
                ));
            }
            let order = Order {
                timing: lock.wish.check(inner.ttl, &inner.guarantees)?,
                wished: lock.wish.ttl.unwrap_or(inner.ttl),
                name: lock.name?,
                label: lock.label,
                patience,
            };
            if inner.shared.closing.is_set() {
                return Err(Error::Closed);
            }
            let runtime = Runtime::of_caller(inner.runtime.as_ref())?;
            inner.watch_for_suspend(&runtime);
            let (caller, answer) = oneshot::channel();
            let (shared, active) = (Arc::clone(&inner.shared), inner.shared.active.enter());
            runtime.spawn(drive(shared, runtime.clone(), order, caller, active));
            // Without an answer the runtime has ended, and the driver with it.
            answer.await.unwrap_or(Err(Error::NoRuntime))
        }
    }
}

/// For callers that wait: a store never answers "held" to them.
async fn granted(answer: impl Future<Output = Answer>) -> Result<Guard> {
    answer
        .await?
        .ok_or_else(|| Error::unavailable(Applied::No, "the store gave up a request that waits"))
}
