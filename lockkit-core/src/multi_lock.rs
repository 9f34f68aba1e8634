//! Several names, taken together or not at all.
//!
//! ```text
//! taking a name --granted--> taking the next one --granted, the last--> guard, if all are held
//!               --one that was granted before is lost--> all let go, a pause, taking the first again
//!               --refused, held by another, out of time, dropped--> all let go
//! ```
//!
//! Every caller takes names in the order of their bytes, so that no two wait for each other.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::driver::shared::Wait;
use crate::driver::store::Store;
use crate::driver::timing::check_max_hold;
use crate::kit::Backoff;
use crate::{Applied, Error, Guard, Instant, Lock, LockName, LossReason, MultiGuard, Result};

/// The first pause after a name was lost while the others were waited for; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The locks of several names, taken together or not at all, with their settings.
///
/// The names are taken one after the other, in the order of their bytes, whatever the order in which they were given:
/// callers that want the same names never wait for each other in a circle. Those that are held already are renewed
/// while the next one is waited for. If one of them is lost meanwhile, all are let go, and the first is taken again,
/// within the same time limit.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use std::time::Duration;
///
/// let locks = lockkit_core::Locks::memory();
/// let transfer = locks.all(["account/7", "account/3"]);
/// let guard = transfer.acquire_within(Duration::from_secs(5)).await?;
/// println!("from under {}, to under {}", guard.token("account/7")?, guard.token("account/3")?);
/// for (name, released) in guard.release().await {
///     println!("{name}: {released:?}");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing is locked before acquire()"]
pub struct MultiLock {
    store: Arc<Store>,
    /// In the order in which they are taken.
    locks: Result<Vec<Lock>>,
    max_hold: Option<Duration>,
}

/// What came of an attempt.
enum Taken {
    All(MultiGuard),
    /// Another holds this name, and the caller does not wait.
    Held(LockName),
}

/// What came of taking each name once.
enum Round {
    Ended(Taken),
    /// This one was lost before all were held.
    Lost(LockName, LossReason),
}

impl MultiLock {
    pub(crate) fn new(store: Arc<Store>, locks: Vec<Lock>) -> Self {
        Self { store, locks: in_order(locks), max_hold: None }
    }

    fn each(mut self, set: impl FnMut(Lock) -> Lock) -> Self {
        self.locks = self.locks.map(|locks| locks.into_iter().map(set).collect());
        self
    }

    /// As [`Lock::ttl`], for each name.
    pub fn ttl(self, ttl: Duration) -> Self {
        self.each(|lock| lock.ttl(ttl))
    }

    /// As [`Lock::margin`], for each name.
    pub fn margin(self, margin: Duration) -> Self {
        self.each(|lock| lock.margin(margin))
    }

    /// As [`Lock::renew_every`], for each name.
    pub fn renew_every(self, every: Duration) -> Self {
        self.each(|lock| lock.renew_every(every))
    }

    /// As [`Lock::max_hold`]; it counts from when all are held.
    pub const fn max_hold(mut self, max_hold: Duration) -> Self {
        self.max_hold = Some(max_hold);
        self
    }

    /// Who holds, for people: the same for each name.
    pub fn label(self, label: impl Into<Arc<str>>) -> Self {
        let label = label.into();
        self.each(|lock| lock.label(Arc::clone(&label)))
    }

    /// Takes all the locks, waiting as long as it takes, through outages of the store too.
    ///
    /// Upholds C1, C8 and C9 for each name. It waits in the queue of one name at a time.
    ///
    /// # Errors
    /// `Invalid`: no name, a name twice, or what [`Lock::acquire`] says of it. `Rejected`: waiting is useless.
    /// `Closed`, `NoRuntime`: no task is left to wait. No name is held then.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped at any point it leaves no lock held and no waiter behind (C9); what it holds by then is
    /// released in the background.
    pub fn acquire(&self) -> impl Future<Output = Result<MultiGuard>> + Send + use<> {
        self.granted(Wait::Unlimited)
    }

    /// Takes all the locks if all are free: at most one attempt on each, of at most a third of the ttl, or 2 s.
    ///
    /// `None`: another holds one of them. Those that were taken before it are released in the background.
    ///
    /// # Errors
    /// `Unavailable`: the store did not answer, or one was lost before all were held. Otherwise as
    /// [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`acquire`](Self::acquire).
    pub fn try_acquire(&self) -> impl Future<Output = Result<Option<MultiGuard>>> + Send + use<> {
        let taking = self.clone().take(Wait::No);
        async move {
            Ok(match taking.await? {
                Taken::All(guard) => Some(guard),
                Taken::Held(_) => None,
            })
        }
    }

    /// Takes all the locks, waiting for at most `limit` in all; with a limit of zero, as
    /// [`try_acquire`](Self::try_acquire).
    ///
    /// # Errors
    /// `TimedOut`: the store last said that another holds the name that [`Error::lock`] tells. `Unavailable`: it last
    /// said nothing, or no time was left for a name. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Cancel-safe, as [`acquire`](Self::acquire).
    pub fn acquire_within(
        &self,
        limit: Duration,
    ) -> impl Future<Output = Result<MultiGuard>> + Send + use<> {
        self.granted(if limit.is_zero() { Wait::No } else { Wait::AtMost(limit) })
    }

    /// Takes all the locks as [`acquire`](Self::acquire) does, and runs `work` as [`MultiGuard::run`] does: in the
    /// caller's own task, stopped when one of them is lost.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
    /// let accounts = lockkit_core::Locks::memory().all(["account/7", "account/3"]);
    /// let sum = accounts.run(async |_guard| 7 + 3).await?;
    /// assert_eq!(sum, 10);
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Lost`: one of them was lost before `work` ended. Otherwise as [`acquire`](Self::acquire).
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the locks in the background.
    pub fn run<T, F>(&self, work: F) -> impl Future<Output = Result<T>> + use<T, F>
    where
        F: AsyncFnOnce(&MultiGuard) -> T,
    {
        let acquire = self.acquire();
        async move { acquire.await?.run(work).await }
    }

    /// Runs `work` as [`run`](Self::run) does if all are free; `None`: another holds one, and `work` did not run.
    ///
    /// # Errors
    /// `Lost`: one of them was lost before `work` ended. Otherwise as [`try_acquire`](Self::try_acquire).
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the locks in the background.
    pub fn try_run<T, F>(&self, work: F) -> impl Future<Output = Result<Option<T>>> + use<T, F>
    where
        F: AsyncFnOnce(&MultiGuard) -> T,
    {
        let attempt = self.try_acquire();
        async move {
            match attempt.await? {
                Some(guard) => guard.run(work).await.map(Some),
                None => Ok(None),
            }
        }
    }

    fn granted(&self, wait: Wait) -> impl Future<Output = Result<MultiGuard>> + Send + use<> {
        let taking = self.clone().take(wait);
        async move {
            match taking.await? {
                Taken::All(guard) => Ok(guard),
                Taken::Held(name) => Err(Error::timed_out(None).about(&name)),
            }
        }
    }

    /// Takes each name in turn, from the first again where one is lost meanwhile.
    async fn take(self, wait: Wait) -> Result<Taken> {
        let Self { store, locks, max_hold } = self;
        let locks = locks?;
        check_max_hold(max_hold)?;
        let clock = &store.shared.clock;
        let end = match wait {
            Wait::AtMost(limit) => Some(clock.now().saturating_add(limit)),
            Wait::No | Wait::Unlimited => None,
        };
        let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
        loop {
            let (name, reason) = match round(&store, &locks, wait, end).await? {
                Round::Ended(Taken::All(guard)) => {
                    if let Some(max_hold) = max_hold {
                        guard.hold_at_most(max_hold);
                    }
                    return Ok(Taken::All(guard));
                }
                Round::Ended(held) => return Ok(held),
                Round::Lost(name, reason) => (name, reason),
            };
            if let Some(error) = Error::after_loss(reason) {
                return Err(error);
            }
            let again = clock.now().saturating_add(backoff.next_pause());
            if wait == Wait::No || end.is_some_and(|end| again >= end) {
                let why = format!("it was lost before all were held: {reason}");
                return Err(Error::unavailable(Applied::No, why).about(&name));
            }
            tracing::debug!(
                target: "lockkit", event = "taken_again", name = %name, reason = %reason,
                "a lock was lost before all of its group were held: all are taken again",
            );
            store.sleep_until(again).await?;
        }
    }
}

/// Takes each name once.
async fn round(store: &Store, locks: &[Lock], wait: Wait, end: Option<Instant>) -> Result<Round> {
    let mut held = MultiGuard::new(Vec::with_capacity(locks.len()));
    for lock in locks {
        let left = match end {
            Some(end) => Wait::AtMost(end.saturating_since(store.shared.clock.now())),
            None => wait,
        };
        let answer = tokio::select! {
            biased;
            answer = take_one(lock, left) => answer?,
            (name, reason) = held.lost() => return Ok(Round::Lost(name, reason)),
        };
        match answer {
            Some(guard) => held.push(guard),
            None => return Ok(Round::Ended(Taken::Held(lock.name.clone()?))),
        }
    }
    // The last one may have been granted after the end of an earlier one.
    match held.lost_by_now() {
        Some((name, reason)) => Ok(Round::Lost(name, reason)),
        None => Ok(Round::Ended(Taken::All(held))),
    }
}

async fn take_one(lock: &Lock, wait: Wait) -> Result<Option<Guard>> {
    match wait {
        Wait::No => lock.try_acquire().await,
        Wait::Unlimited => lock.acquire().await.map(Some),
        Wait::AtMost(Duration::ZERO) => {
            let why = "no time was left for it: the names before it took all";
            Err(Error::unavailable(Applied::No, why)
                .about(lock.name.as_ref().map_err(Clone::clone)?))
        }
        Wait::AtMost(left) => lock.acquire_within(left).await.map(Some),
    }
}

/// The locks in the one order in which all callers take them.
fn in_order(locks: Vec<Lock>) -> Result<Vec<Lock>> {
    let mut named = Vec::with_capacity(locks.len());
    for lock in locks {
        named.push((lock.name.clone()?, lock));
    }
    named.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    if let Some(twice) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        let name = twice[0].0.clone();
        let error = Error::invalid("a name that was given twice", "name each lock once");
        return Err(error.about(&name));
    }
    if named.is_empty() {
        return Err(Error::invalid("no name at all", "give at least one name to lock"));
    }
    Ok(named.into_iter().map(|(_, lock)| lock).collect())
}
