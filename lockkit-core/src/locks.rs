//! What a program takes locks from.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use crate::driver::parking::{ATTEMPTS, LEASES, Parking};
use crate::driver::reaper::{Reaper, limited};
use crate::driver::room::Count;
use crate::driver::round_trips::RoundTrips;
use crate::driver::runtime::Runtime;
use crate::driver::shared::{Closing, Shared};
use crate::driver::store::Store;
use crate::driver::timing::{DEFAULT_TTL, call_limit};
use crate::request::{RandomIds, RequestIds, default_label};
use crate::{
    Applied, Clock, Election, Error, Finding, Guarantees, Inspection, Lock, LockName, LockProvider,
    Memory, MultiLock, Permits, Result, Semaphore,
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
/// }).await?;
/// locks.close(Duration::from_secs(5)).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Locks {
    store: Arc<Store>,
    label: Arc<str>,
}

/// Settings for all the locks of one [`Locks`].
#[derive(Clone, Debug)]
#[must_use = "nothing happens before build()"]
pub struct Builder {
    clock: Clock,
    pub(crate) runtime: Option<Runtime>,
    ttl: Duration,
    label: Option<Arc<str>>,
    pub(crate) ids: Arc<dyn RequestIds>,
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
        self.runtime = Some(Runtime::from(handle));
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
        let round_trips = Arc::<RoundTrips>::default();
        let reaper =
            Reaper::new(Arc::clone(&provider), self.clock.clone(), Arc::clone(&round_trips));
        let shared = Shared {
            reaper,
            parking: Arc::new(Parking::new(LEASES)),
            attempts: Arc::new(Parking::new(ATTEMPTS)),
            provider,
            clock: self.clock,
            closing: Closing::default(),
            active: Arc::<Count>::default(),
            round_trips,
            ttl_adjusted: AtomicBool::new(false),
            limits_told: Mutex::default(),
            ids: self.ids,
        };
        let store = Store {
            shared: Arc::new(shared),
            guarantees,
            runtime: self.runtime,
            ttl: self.ttl,
            watching: Arc::default(),
            last_used: Mutex::default(),
        };
        let label = self.label.unwrap_or_else(default_label);
        Locks { store: Arc::new(store), label }
    }
}

impl Locks {
    /// The locks of `provider`, with every setting at its default.
    pub fn new(provider: impl LockProvider) -> Self {
        Self::builder().build(provider)
    }

    /// Settings to begin with.
    pub fn builder() -> Builder {
        Builder {
            clock: Clock::system(),
            runtime: None,
            ttl: DEFAULT_TTL,
            label: None,
            ids: Arc::new(RandomIds),
        }
    }

    /// Locks in the memory of this process, private to this handle and its clones.
    pub fn memory() -> Self {
        Self::new(Memory::new())
    }

    /// The lock of this name; nothing is asked of the store yet.
    ///
    /// A name that cannot be one is refused at the first use.
    pub fn lock(&self, name: impl AsRef<str>) -> Lock {
        Lock::new(Arc::clone(&self.store), LockName::new(name), Arc::clone(&self.label))
    }

    /// The locks of these names, taken together or not at all; nothing is asked of the store yet.
    ///
    /// No name, a name twice, and a name that cannot be one are refused at the first use.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let locks = lockkit_core::Locks::memory();
    /// let guard = locks.all(["account/7", "account/3"]).acquire().await?;
    /// assert!(locks.lock("account/3").try_acquire().await?.is_none());
    /// drop(guard);
    /// # Ok(()) }
    /// ```
    pub fn all(&self, names: impl IntoIterator<Item = impl AsRef<str>>) -> MultiLock {
        let locks = names.into_iter().map(|name| self.lock(name)).collect();
        MultiLock::new(Arc::clone(&self.store), locks)
    }

    /// The semaphore of this name, which has so many permits; nothing is asked of the store yet.
    ///
    /// It has nothing to do with the lock of the same name. A name or a number that cannot be is refused at the
    /// first use.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let locks = lockkit_core::Locks::memory();
    /// let downloads = locks.semaphore("downloads", 2);
    /// let (one, two) = (downloads.acquire().await?, downloads.acquire().await?);
    /// assert_eq!((one.slot(), two.slot()), (Some(0), Some(1)));
    /// assert!(downloads.try_acquire().await?.is_none());
    /// # Ok(()) }
    /// ```
    pub fn semaphore(&self, name: impl AsRef<str>, permits: u32) -> Semaphore {
        let (name, label) = (LockName::semaphore(name), Arc::clone(&self.label));
        Semaphore::new(Lock::new(Arc::clone(&self.store), name, label), Permits::new(permits))
    }

    /// The election of this name; nothing is asked of the store yet.
    ///
    /// A name that cannot be one is refused at the first use.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let locks = lockkit_core::Locks::memory();
    /// let leadership = locks.election("cluster/leader").candidate("web-3").campaign().await?;
    /// println!("leading with token {}", leadership.token());
    /// # Ok(()) }
    /// ```
    pub fn election(&self, name: impl AsRef<str>) -> Election {
        Election::new(self.lock(name))
    }

    /// What the store promises.
    pub fn guarantees(&self) -> &Guarantees {
        &self.store.guarantees
    }

    /// Up to `limit` names that are held or waited for and start with `prefix`, in the order of
    /// their bytes, from after `after`: all of locks, then those of semaphores.
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
        self.store.limited(self.store.operator()?.list(prefix, after, limit)).await
    }

    /// Forgets the free names that start with `prefix` and that no request has used for `unused_for`; how many.
    ///
    /// For names that are made once and never used again, as of jobs with an id: some stores keep something of each.
    /// Tokens stay in order: those of a name that is used again are greater than before.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// use std::time::Duration;
    ///
    /// let locks = lockkit_core::Locks::memory();
    /// let first = locks.lock("job/1").run(async |guard| guard.token()).await?;
    /// assert_eq!(locks.forget("job/", Duration::ZERO).await?, 1);
    /// assert!(locks.lock("job/1").acquire().await?.token() > first);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Rejected`: this store has no operator, or the role may not. `Unavailable`: the store did not answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, some are forgotten.
    pub async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        self.store.limited(self.store.operator()?.forget(prefix, unused_for)).await
    }

    /// What is amiss with the store's server, the worst first; empty where its backend finds nothing.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let locks = lockkit_core::Locks::memory();
    /// for finding in locks.examine().await? {
    ///     eprintln!("{finding}");
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Unavailable`: the store did not answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    pub async fn examine(&self) -> Result<Vec<Finding>> {
        self.store.limited(self.store.shared.provider.examine()).await
    }

    /// Refuses new attempts, ends those that wait, releases what is held, and waits for all of it,
    /// and for the clean-ups in the background, for at most `within`.
    ///
    /// Guards that are still held are lost with [`LossReason::Closed`](crate::LossReason::Closed). A program that ends
    /// without it leaves its names to the store's expiry: the releases of guards that were dropped last may not have
    /// been sent. Closed before, it is `Ok` at once. Outside a runtime it works in the one that took the last lock.
    ///
    /// # Errors
    /// `Unavailable`: the store did not acknowledge everything in time; its own expiry ends the
    /// rest. `NoRuntime`: there is none to wait in.
    ///
    /// # Cancel safety
    /// Dropped midway, or out of time, it goes on in the background as long as the runtime lives.
    pub async fn close(&self, within: Duration) -> Result<()> {
        let runtime = self.store.closing_runtime()?;
        let shared = Arc::clone(&self.store.shared);
        if !shared.closing.set() {
            return Ok(());
        }
        shared.attempts.unpark_all();
        shared.reaper.hurry();
        let clock = shared.clock.clone();
        let (done, closed) = oneshot::channel();
        runtime.spawn(async move {
            let clock = &shared.clock;
            let settled = limited(clock, within, async {
                shared.active.below(1).await;
                shared.reaper.drained().await;
                Ok(())
            })
            .await;
            shared.reaper.abandon();
            // Also when time is up: the provider has connections and sessions to end.
            let limit = within.max(call_limit(DEFAULT_TTL));
            let closed = limited(clock, limit, shared.provider.close()).await;
            // A caller that has left needs no answer.
            drop(done.send(settled.and(closed)));
        });
        let closed = async { closed.await.unwrap_or(Err(Error::NoRuntime)) };
        runtime.enter(Box::pin(limited(&clock, within, closed))).await
    }

    /// Closes as [`close`](Self::close) does and blocks the thread meanwhile: for the end of a `main` that is not async.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// let runtime = tokio::runtime::Runtime::new()?;
    /// let locks = lockkit_core::Locks::memory();
    /// let guard = runtime.block_on(locks.lock("billing/nightly").acquire())?;
    /// drop(guard); // released in the background
    /// locks.close_blocking(Duration::from_secs(5))?; // and now for certain
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// `Unavailable`: as `close`, or the runtime that took the locks does not run: a current-thread runtime runs within
    /// `block_on` alone. `NoRuntime`: that runtime has ended. `Invalid`: called inside a runtime.
    pub fn close_blocking(&self, within: Duration) -> Result<()> {
        if Handle::try_current().is_ok() {
            return Err(Error::invalid(
                "close_blocking() inside a tokio runtime",
                "await close() there",
            ));
        }
        let (done, closed) = mpsc::channel();
        let locks = self.clone();
        self.store.closing_runtime()?.spawn(async move {
            drop(done.send(locks.close(within).await));
        });
        // A runtime that runs has answered by then.
        let limit = within.saturating_add(call_limit(DEFAULT_TTL));
        closed.recv_timeout(limit).unwrap_or_else(|ended| match ended {
            mpsc::RecvTimeoutError::Timeout => Err(Error::unavailable(
                Applied::Maybe,
                "the runtime that took the locks does not run",
            )),
            mpsc::RecvTimeoutError::Disconnected => Err(Error::NoRuntime),
        })
    }
}
