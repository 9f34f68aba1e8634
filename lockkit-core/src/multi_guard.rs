//! What a user holds of several names.

use std::fmt;
use std::future::{Future, poll_fn};
use std::task::Poll;
use std::time::Duration;

use futures_util::future::join_all;

use crate::{Error, FencingToken, Guard, GuardWatch, LockName, LossReason, Result};

/// Several locks that are held together: lost when one of them is lost, released together when dropped.
///
/// Each name has a token of its own, for the resource behind that name: tokens of two names do not compare.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// let locks = lockkit_core::Locks::memory();
/// let guard = locks.all(["account/7", "account/3"]).acquire().await?;
/// for one in guard.guards() {
///     println!("write to {} with token {}", one.name(), one.token());
/// }
/// assert!(guard.is_held() && guard.get("account/3").is_some());
/// # Ok(()) }
/// ```
#[must_use = "dropping the guard releases the locks at once"]
#[clippy::has_significant_drop]
pub struct MultiGuard {
    /// In the order of their names.
    guards: Vec<Guard>,
}

impl MultiGuard {
    pub(crate) const fn new(guards: Vec<Guard>) -> Self {
        Self { guards }
    }

    /// Adds the guard of the next name in their order.
    pub(crate) fn push(&mut self, guard: Guard) {
        self.guards.push(guard);
    }

    /// The guard of each name, in the order of the names.
    pub fn guards(&self) -> impl Iterator<Item = &Guard> {
        self.guards.iter()
    }

    /// The guard of this name, which tells of this name alone; `None`: it is not one of those that were taken.
    pub fn get(&self, name: impl AsRef<str>) -> Option<&Guard> {
        let name = name.as_ref();
        self.guards.iter().find(|guard| guard.name().as_str() == name)
    }

    /// The fencing token of this name, to send along with every write to what it protects (C4).
    ///
    /// # Errors
    /// `Invalid`: it is not one of the names that were taken.
    pub fn token(&self, name: impl AsRef<str>) -> Result<FencingToken> {
        let name = name.as_ref();
        self.get(name).map(Guard::token).ok_or_else(|| {
            let what = format!("the token of {name:?}, which is not held here");
            Error::invalid(what, "ask for a name that was given to Locks::all()")
        })
    }

    /// That each is still held for `at_least`: a check right before a step of work.
    ///
    /// # Errors
    /// `Lost`: one is lost, whatever the others have left. Otherwise as [`Guard::ensure`], of the first name for which
    /// it does not hold.
    pub fn ensure(&self, at_least: Duration) -> Result<()> {
        if let Some((name, reason)) = self.lost_by_now() {
            return Err(Error::lost(reason).about(&name));
        }
        self.guards.iter().try_for_each(|guard| guard.ensure(at_least).map(drop))
    }

    /// Whether all are held, judged by the clock at this very moment (C12).
    pub fn is_held(&self) -> bool {
        self.guards.iter().all(Guard::is_held)
    }

    /// How long all are held if no renewal gets through; `None`: until they are released.
    pub fn remaining(&self) -> Option<Duration> {
        self.guards.iter().filter_map(Guard::remaining).min()
    }

    /// Completes when one is lost, and tells which, at its deadline at the latest (C7).
    ///
    /// The others are held until this guard is released or dropped.
    ///
    /// # Cancel safety
    /// Cancel-safe: it may be dropped and asked for again.
    pub fn lost(&self) -> impl Future<Output = (LockName, LossReason)> + Send + use<> {
        self.first(|watch| async move { (watch.name().clone(), watch.lost().await) })
    }

    /// Completes when no renewal of one of them was acknowledged for two thirds of its ttl, or it is lost.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub fn at_risk(&self) -> impl Future<Output = ()> + Send + use<> {
        self.first(|watch| async move { watch.at_risk().await })
    }

    /// What the first of these futures gives, of one for each name.
    fn first<T, F>(&self, of: fn(GuardWatch) -> F) -> impl Future<Output = T> + Send + use<T, F>
    where
        F: Future<Output = T> + Send,
    {
        let mut all: Vec<_> = self.guards.iter().map(|guard| Box::pin(of(guard.watch()))).collect();
        poll_fn(move |cx| {
            let first = all.iter_mut().find_map(|one| match one.as_mut().poll(cx) {
                Poll::Ready(value) => Some(value),
                Poll::Pending => None,
            });
            first.map_or(Poll::Pending, Poll::Ready)
        })
    }

    /// Releases all and waits for the store's word on each, in the order of the names; from its first poll on none is
    /// held.
    ///
    /// # Errors
    /// None of its own: each name has the answer of [`Guard::release`].
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, the releases go on in the background.
    #[must_use = "a name may have been lost before its release: each answer says"]
    pub async fn release(self) -> Vec<(LockName, Result<()>)> {
        let releases = self.guards.into_iter().map(|guard| async move {
            let name = guard.name().clone();
            (name, guard.release().await)
        });
        join_all(releases).await
    }

    /// Runs `work` while all are held, stops it when one is lost, and releases all; gives what `work` gave.
    ///
    /// `work` is polled in the caller's own task, and may give anything. A release that fails is logged, not returned.
    ///
    /// # Errors
    /// `Lost`: one was lost before `work` ended. It is never `Ok` for work that ended after a deadline.
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the locks in the background.
    pub async fn run<T, F>(self, work: F) -> Result<T>
    where
        F: AsyncFnOnce(&Self) -> T,
    {
        let outcome = tokio::select! {
            biased;
            (name, reason) = self.lost() => return Err(Error::lost(reason).about(&name)),
            outcome = work(&self) => outcome,
        };
        // The last poll of the work may itself have outlasted a deadline.
        self.ensure(Duration::ZERO)?;
        join_all(self.guards.into_iter().map(Guard::release_or_warn)).await;
        Ok(outcome)
    }

    /// Which is lost at this moment, if one is.
    pub(crate) fn lost_by_now(&self) -> Option<(LockName, LossReason)> {
        self.guards.iter().find_map(|guard| match guard.ensure(Duration::ZERO) {
            Err(Error::Lost { reason, .. }) => Some((guard.name().clone(), reason)),
            _ => None,
        })
    }

    /// Ends belief in all of them after so long at the latest.
    pub(crate) fn hold_at_most(&self, max_hold: Duration) {
        for guard in &self.guards {
            guard.hold_at_most(max_hold);
        }
    }
}

impl fmt::Debug for MultiGuard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("MultiGuard").field(&self.guards).finish()
    }
}
