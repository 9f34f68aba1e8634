//! One name's lock, and the ways to take it.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::driver::attempt;
use crate::driver::shared::{Acquire, Wait};
use crate::driver::store::Store;
use crate::driver::timing::{LockOptions, Renewal};
use crate::guard::Answer;
use crate::{Applied, Error, FencingToken, Guard, Inspection, Kind, LockName, Permits, Result};

/// One name's lock, with its settings; takes guards, and may be kept and cloned.
///
/// The futures of its methods own what they need: they work in `select!`, in `join!` and in a task
/// of their own.
#[derive(Clone, Debug)]
#[must_use = "nothing is locked before acquire()"]
pub struct Lock {
    pub(crate) store: Arc<Store>,
    pub(crate) name: Result<LockName>,
    options: LockOptions,
    label: Arc<str>,
    kind: Kind,
    /// Of a semaphore.
    permits: Option<Permits>,
}

impl Lock {
    pub(crate) fn new(store: Arc<Store>, name: Result<LockName>, label: Arc<str>) -> Self {
        Self {
            store,
            name,
            options: LockOptions::default(),
            label,
            kind: Kind::Exclusive,
            permits: None,
        }
    }

    /// A lock that its holders share: any number of shared grants hold together, an exclusive one alone (C1).
    ///
    /// Shared and exclusive requests of a name stand in one queue. A shared request does not pass an exclusive one that
    /// waits, so that neither kind starves where the order is [`Fairness::Fifo`](crate::Fairness::Fifo). A grant is never
    /// turned into the other kind: release it, and ask again. A resource takes the token of a shared grant by
    /// [`Fenced::access_shared`](crate::Fenced::access_shared).
    ///
    /// A store that does not offer shared locks refuses it with `Rejected`; `guarantees().kinds` tells.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let config = lockkit_core::Locks::memory().lock("config");
    /// let reader = config.clone().shared().acquire().await?;
    /// let other = config.clone().shared().acquire().await?;
    /// assert!(config.try_acquire().await?.is_none(), "a writer waits for both");
    /// # drop((reader, other));
    /// # Ok(()) }
    /// ```
    pub const fn shared(mut self) -> Self {
        self.kind = Kind::Shared;
        self
    }

    /// How long the store keeps the lock for a holder that it does not hear of (C5).
    ///
    /// The store rounds it up to what it can grant, and [`Guard::ttl`] tells what it
    /// granted. From 50 ms to 24 h. It has no effect on a store without expiry.
    pub const fn ttl(mut self, ttl: Duration) -> Self {
        self.options.ttl = Some(ttl);
        self
    }

    /// How long before the store's expiry the guard already reports the lock as lost.
    ///
    /// It covers the difference in rate of two clocks, and the caller's own delay between a check
    /// and its use. By default 1 % of the ttl + 2 ms, or a tenth of the ttl up to 2 s, whichever is
    /// more. Refused where it leaves no room for a renewal, as more than five eighths of the ttl do.
    pub const fn margin(mut self, margin: Duration) -> Self {
        self.options.margin = Some(margin);
        self
    }

    /// How long after an acknowledged renewal was sent the next one is, instead of a third of the
    /// ttl; at least 5 ms and at most half of the ttl, and up to an eighth later, so that locks taken
    /// together do not renew together.
    pub const fn renew_every(mut self, every: Duration) -> Self {
        self.options.renewal = Renewal::Every(every);
        self
    }

    /// Leaves the renewing to [`Guard::renew`].
    pub const fn renew_manually(mut self) -> Self {
        self.options.renewal = Renewal::Manual;
        self
    }

    /// The longest that a guard holds, renewals or not: caps a worker that is stuck while its
    /// renewals go on. No limit unless set here.
    pub const fn max_hold(mut self, max_hold: Duration) -> Self {
        self.options.max_hold = Some(max_hold);
        self
    }

    /// Keeps the name taken for `least` after the grant, even if the guard ends before: once per tick of a scheduler.
    ///
    /// A guard that is released or dropped before, or whose `run` ends, answers and ends at once, and so does one that
    /// [`Locks::close`](crate::Locks::close) ends: the name alone stays taken. It counts from when the grant has
    /// arrived, so the name is free `least` after the store granted it at the earliest, and later by the way of the
    /// store's answer and of the release at most.
    ///
    /// A store whose [`minimum_hold`](crate::Guarantees::minimum_hold) is
    /// [`MinimumHold::ByStore`](crate::MinimumHold::ByStore) frees the name by itself, whatever becomes of this
    /// process. For the others the lease is kept until then, `close` waits for it, and if the process ends before, the
    /// name is free as after any crash (C11). A grant that is lost or revoked is over, however short it was.
    ///
    /// Up to 24 h, and at most [`max_hold`](Self::max_hold); it may be longer than the ttl.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// # use std::time::Duration;
    /// let locks = lockkit_core::Locks::memory();
    /// let tick = locks.lock("scheduler/every-minute").hold_at_least(Duration::from_secs(30));
    /// assert!(tick.try_run(async |_guard| "done in no time").await?.is_some());
    /// assert!(tick.try_run(async |_guard| "a replica with a slower clock").await?.is_none());
    /// # Ok(()) }
    /// ```
    pub const fn hold_at_least(mut self, least: Duration) -> Self {
        self.options.rests.at_least = Some(least);
        self
    }

    /// Keeps the name taken for `delay` more after an unclean end: for a resource that cannot check tokens, so that what a
    /// lost holder had under way is over before another holds.
    ///
    /// Unclean is an end by the ttl (the holder crashed, or was cut off) and by [`max_hold`](Self::max_hold). Clean is a
    /// release, a drop, the end of `run`, `close`, and a revocation: the operator has said that the holder is gone. A
    /// clean end frees the name at once. The store is asked for the ttl and the delay together, and the guard is lost as
    /// without the delay.
    ///
    /// Up to 24 h with the ttl. A store whose leases end with their session or their process refuses it with `Rejected`.
    pub const fn delay_after_loss(mut self, delay: Duration) -> Self {
        self.options.rests.after_loss = Some(delay);
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
    /// `Rejected`, `Invalid`: waiting is useless. `Closed`, `NoRuntime`: no task is left to wait.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped at any point it leaves no lock held and no waiter behind (C9), and it
    /// loses its place in the queue.
    pub fn acquire(&self) -> impl Future<Output = Result<Guard>> + Send + use<> {
        self.granted(Wait::Unlimited, gave_up)
    }

    /// Takes the lock if it is free: one attempt of at most a third of the ttl, or 2 s.
    ///
    /// # Errors
    /// `Unavailable`: the store did not answer. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> impl Future<Output = Result<Option<Guard>>> + Send + use<> {
        self.start(Wait::No)
    }

    /// Takes the lock, waiting for at most `limit`; with a limit of zero, as [`try_acquire`](Self::try_acquire).
    ///
    /// A limit below the store's last measured round trip is refused at once, and nothing is sent: a request that
    /// is on its way when its caller leaves can keep others from the name for a moment.
    ///
    /// # Errors
    /// `TimedOut`: the store last said that another holds it. `Unavailable`: the store last said
    /// nothing, or the limit is too short for it. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<Guard>> + Send + use<> {
        if limit.is_zero() {
            return self.granted(Wait::No, || Error::timed_out(None));
        }
        self.granted(Wait::AtMost(limit), gave_up)
    }

    /// Takes the lock as [`acquire`](Self::acquire) does, and runs `work` as [`Guard::run`] does:
    /// in the caller's own task, stopped when the lock is lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let lock = lockkit_core::Locks::memory().lock("billing/nightly");
    /// lock.run(async |guard| println!("holding with token {}", guard.token())).await?;
    /// // Work that can fail keeps its own error: the first `?` is the lock's, the second the work's.
    /// let name = lock.run(async |_| std::fs::read_to_string("/proc/sys/kernel/hostname")).await?;
    /// # drop(name);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Lost`: the lock was lost before `work` ended. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the lock in the background.
    pub fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        F: AsyncFnOnce(&Guard) -> T,
    {
        let acquire = self.acquire();
        async move { acquire.await?.run(work).await }
    }

    /// Runs `work` as [`run`](Self::run) does if the lock is free; `None`: another holds it, and `work` did not run.
    ///
    /// # Errors
    /// `Lost`: the lock was lost before `work` ended. Otherwise as [`try_acquire`](Self::try_acquire).
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the lock in the background.
    pub fn try_run<T, F>(&self, work: F) -> impl Future<Output = Result<Option<T>>> + use<T, F>
    where
        F: AsyncFnOnce(&Guard) -> T,
    {
        let attempt = self.try_acquire();
        async move {
            match attempt.await? {
                Some(guard) => guard.run(work).await.map(Some),
                None => Ok(None),
            }
        }
    }

    /// Who holds the lock and how many wait, as the store knows it.
    ///
    /// # Errors
    /// `Rejected`: this store cannot tell. `Unavailable`: it did not answer. `Invalid`: the name.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    pub async fn inspect(&self) -> Result<Inspection> {
        let (name, store) = (self.name.clone()?, &self.store);
        let seen = async { store.limited(store.operator()?.inspect(&name)).await };
        seen.await.map_err(|error| error.about(&name))
    }

    /// Ends exactly the grant with this token; `false`: there is no such grant.
    ///
    /// # Errors
    /// `Rejected`: this store cannot end another's grant. `Unavailable`: it did not answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not.
    pub async fn revoke(&self, token: FencingToken) -> Result<bool> {
        let (name, store) = (self.name.clone()?, &self.store);
        let revoked = async { store.limited(store.operator()?.revoke(&name, token)).await };
        revoked.await.map_err(|error| error.about(&name))
    }

    /// The same settings for a permit of the semaphore of its name.
    pub(crate) const fn counted(mut self, permits: Permits) -> Self {
        (self.kind, self.permits) = (Kind::Counted, Some(permits));
        self
    }

    /// The ttl that it asks the store for.
    pub(crate) fn wished_ttl(&self) -> Duration {
        self.options.ttl.unwrap_or(self.store.ttl)
    }

    fn start(&self, wait: Wait) -> impl Future<Output = Answer> + Send + use<> {
        let (lock, name) = (self.clone(), self.name.clone());
        async move {
            let answer = lock.attempt(wait).await;
            answer.map_err(|error| about(error, &name))
        }
    }

    /// A guard, or else this error: a store never answers "held" to callers that wait.
    fn granted(
        &self,
        wait: Wait,
        otherwise: fn() -> Error,
    ) -> impl Future<Output = Result<Guard>> + Send + use<> {
        let (answer, name) = (self.start(wait), self.name.clone());
        async move { answer.await?.ok_or_else(|| about(otherwise(), &name)) }
    }

    async fn attempt(self, wait: Wait) -> Answer {
        let store = &self.store;
        if !store.guarantees.kinds.contains(&self.kind) {
            return Err(Error::rejected(
                match self.kind {
                    Kind::Exclusive => "an exclusive lock",
                    Kind::Shared => "a shared lock",
                    Kind::Counted => "a semaphore",
                },
                "this store does not offer that kind: see Locks::guarantees()",
            ));
        }
        let (timing, rests) = self.options.fitted(store.ttl, &store.guarantees)?;
        let order = Acquire {
            timing,
            wished: self.wished_ttl(),
            name: self.name?,
            label: self.label,
            kind: self.kind,
            permits: self.permits,
            wait,
            rests,
        };
        if store.shared.closing.is_set() {
            return Err(Error::Closed);
        }
        store.shared.has_time_for(wait)?;
        let runtime = store.use_runtime()?;
        store.watch_for_suspend(&runtime);
        attempt(&store.shared, runtime, order).await
    }
}

/// The error, about this lock, where its name is one.
fn about(error: Error, name: &Result<LockName>) -> Error {
    match name {
        Ok(name) => error.about(name),
        Err(_) => error,
    }
}

fn gave_up() -> Error {
    Error::unavailable(Applied::No, "the store gave up a request that waits")
}
