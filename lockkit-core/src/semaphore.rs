//! One semaphore, and the ways to take its permits.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::{FencingToken, Guard, Inspection, Lock, Permits, Result};

/// One name's semaphore, with its settings: at most so many guards of it are held together.
///
/// The first request of a name stores its limit, and the stored one applies to all clients from then on. A client that
/// names another limit takes permits all the same, and logs a warning (`limit_differs`), unless it set
/// [`exact_limit`](Self::exact_limit). [`resize`](Self::resize) changes the limit for all, while permits are held.
///
/// Callers are granted in the order in which they came. Each grant has a token greater than that of every earlier grant
/// of the semaphore, and a [slot](Guard::slot): the smallest free number. A resource fences the holders by their slots,
/// with one fence for each.
///
/// A store that does not offer semaphores refuses them with `Rejected`; `guarantees().kinds` tells.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// let locks = lockkit_core::Locks::memory();
/// let downloads = locks.semaphore("downloads", 2);
/// let (one, two) = (downloads.acquire().await?, downloads.acquire().await?);
/// assert!(downloads.try_acquire().await?.is_none());
/// assert_eq!(downloads.resize(3).await?, 2);
/// let three = downloads.acquire().await?;
/// assert!(three.token() > two.token() && three.slot() == Some(2));
/// # drop(one);
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is taken before acquire()"]
pub struct Semaphore {
    lock: Lock,
    permits: Result<Permits>,
}

impl Semaphore {
    pub(crate) const fn new(lock: Lock, permits: Result<Permits>) -> Self {
        Self { lock, permits }
    }

    fn with(self, set: impl FnOnce(Lock) -> Lock) -> Self {
        Self { lock: set(self.lock), ..self }
    }

    /// Takes permits only where the store has noted this very limit: `Rejected` otherwise.
    pub fn exact_limit(mut self) -> Self {
        self.permits = self.permits.map(Permits::exactly);
        self
    }

    /// As [`Lock::ttl`], for each permit.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.with(|lock| lock.ttl(ttl))
    }

    /// As [`Lock::margin`].
    pub fn margin(self, margin: Duration) -> Self {
        self.with(|lock| lock.margin(margin))
    }

    /// As [`Lock::renew_every`].
    pub fn renew_every(self, every: Duration) -> Self {
        self.with(|lock| lock.renew_every(every))
    }

    /// As [`Lock::renew_manually`].
    pub fn renew_manually(self) -> Self {
        self.with(Lock::renew_manually)
    }

    /// As [`Lock::max_hold`].
    pub fn max_hold(self, max_hold: Duration) -> Self {
        self.with(|lock| lock.max_hold(max_hold))
    }

    /// As [`Lock::hold_at_least`]: the permit is given back then.
    pub fn hold_at_least(self, least: Duration) -> Self {
        self.with(|lock| lock.hold_at_least(least))
    }

    /// As [`Lock::delay_after_loss`].
    pub fn delay_after_loss(self, delay: Duration) -> Self {
        self.with(|lock| lock.delay_after_loss(delay))
    }

    /// As [`Lock::label`].
    pub fn label(self, label: impl Into<Arc<str>>) -> Self {
        self.with(|lock| lock.label(label))
    }

    /// The lock that asks for a permit; a number that cannot be is refused.
    pub(crate) fn counted(&self) -> Result<Lock> {
        let permits = self.permits.clone()?;
        Ok(self.lock.clone().counted(permits))
    }

    /// Takes a permit, waiting as long as it takes, through outages of the store too.
    ///
    /// Upholds C1, C8 and C10.
    ///
    /// # Errors
    /// `Rejected`: the store has another limit and [`exact_limit`](Self::exact_limit) is set, or it offers no
    /// semaphores. `Invalid`: the name or the number. Otherwise as [`Lock::acquire`].
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`Lock::acquire`].
    pub fn acquire(&self) -> impl Future<Output = Result<Guard>> + Send + use<> {
        let lock = self.counted();
        async move { lock?.acquire().await }
    }

    /// Takes a permit if one is free: one attempt of at most a third of the ttl, or 2 s.
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire) and [`Lock::try_acquire`].
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`Lock::acquire`].
    pub fn try_acquire(&self) -> impl Future<Output = Result<Option<Guard>>> + Send + use<> {
        let lock = self.counted();
        async move { lock?.try_acquire().await }
    }

    /// Takes a permit, waiting for at most `limit`, as [`Lock::acquire_within`].
    ///
    /// # Errors
    /// As [`acquire`](Self::acquire) and [`Lock::acquire_within`].
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`Lock::acquire`].
    pub fn acquire_within(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<Guard>> + Send + use<> {
        let lock = self.counted();
        async move { lock?.acquire_within(limit).await }
    }

    /// Takes a permit as [`acquire`](Self::acquire) does, and runs `work` as [`Guard::run`] does: in the caller's own
    /// task, stopped when the permit is lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let downloads = lockkit_core::Locks::memory().semaphore("downloads", 2);
    /// downloads.run(async |permit| println!("in slot {:?}", permit.slot())).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Lost`: the permit was lost before `work` ended. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the permit in the background.
    pub fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        F: AsyncFnOnce(&Guard) -> T,
    {
        let lock = self.counted();
        async move { lock?.run(work).await }
    }

    /// Runs `work` as [`run`](Self::run) does if a permit is free; `None`: none is, and `work` did not run.
    ///
    /// # Errors
    /// As [`run`](Self::run) and [`try_acquire`](Self::try_acquire).
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the permit in the background.
    pub fn try_run<T, F>(&self, work: F) -> impl Future<Output = Result<Option<T>>> + use<T, F>
    where
        F: AsyncFnOnce(&Guard) -> T,
    {
        let lock = self.counted();
        async move { lock?.try_run(work).await }
    }

    /// Sets the limit for all clients, and answers the limit before; 0: the store had noted none.
    ///
    /// A greater limit grants waiters at once. A smaller one ends no grant: callers wait until fewer than `permits` are
    /// held.
    ///
    /// # Errors
    /// `Invalid`: the name or the number. `Rejected`: the store offers no semaphores, or the role may not.
    /// `Unavailable`: it did not answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not.
    pub async fn resize(&self, permits: u32) -> Result<u32> {
        let (name, permits, store) =
            (self.lock.name.clone()?, Permits::new(permits)?, &self.lock.store);
        let resized = async { store.limited(store.operator()?.resize(&name, permits)).await };
        resized.await.map_err(|error| error.about(&name))
    }

    /// Who holds permits, how many callers wait, and the limit, as the store knows them.
    ///
    /// # Errors
    /// As [`Lock::inspect`].
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    pub async fn inspect(&self) -> Result<Inspection> {
        self.lock.inspect().await
    }

    /// Ends exactly the grant with this token; `false`: there is no such grant.
    ///
    /// # Errors
    /// As [`Lock::revoke`].
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not.
    pub async fn revoke(&self, token: FencingToken) -> Result<bool> {
        self.lock.revoke(token).await
    }
}
