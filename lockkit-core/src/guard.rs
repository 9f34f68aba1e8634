//! What a user holds.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::driver::held::Held;
use crate::{Access, Error, FencingToken, Kind, LockName, LossReason, Result};

/// What a caller is told: `None` where it did not wait and the name is held.
pub(crate) type Answer = Result<Option<Guard>>;

/// A held lock: renewed in the background, released when dropped.
///
/// Dropping it releases in the background, in a runtime or outside one, and never panics; call
/// [`release`](Self::release) to wait for it and to learn whether the lock was held to the end. A
/// guard leaked with [`std::mem::forget`] is renewed until its `max_hold` or until its locks close.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// let locks = lockkit_core::Locks::memory();
/// let guard = locks.lock("billing/nightly").acquire().await?;
/// println!("write with token {}", guard.token());
/// guard.release().await?;
/// # Ok(()) }
/// ```
///
/// `let guard = ...` holds until the end of the block, and `let _ = ...` not at all: it drops the guard at once, and the
/// compiler says nothing. `clippy::let_underscore_must_use` does: set it to `deny` where locks are taken. A call
/// whose guard is not bound to anything is noticed by the compiler:
///
/// ```compile_fail
/// #![deny(unused_must_use)]
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// let locks = lockkit_core::Locks::memory();
/// locks.lock("billing/nightly").acquire().await?; // error: unused `Guard` that must be used
/// # Ok(()) }
/// ```
#[must_use = "dropping the guard releases the lock at once"]
#[clippy::has_significant_drop]
pub struct Guard(GuardWatch);

/// A view of a held lock for subtasks: sees what the guard sees, and never releases.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// let locks = lockkit_core::Locks::memory();
/// let guard = locks.lock("billing/nightly").acquire().await?;
/// let watch = guard.watch();
/// tokio::spawn(async move {
///     watch.lost().await;
///     println!("stop");
/// });
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct GuardWatch(Arc<Held>);

/// What the holder presents to a fence, with the kind of its grant.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lockkit_core::{Access, Fenced, Locks, Memory};
///
/// let locks = Locks::new(Memory::new());
/// let reader = locks.lock("ledger").shared().acquire().await?;
/// let ledger = Fenced::new(7);
/// assert_eq!(Access::from(&reader), Access::Shared(reader.token()));
/// assert_eq!(ledger.access_as(&reader, |value| *value)?, 7);
/// # Ok(()) }
/// ```
impl From<&Guard> for Access {
    fn from(guard: &Guard) -> Self {
        match guard.kind() {
            Kind::Exclusive => Self::Exclusive(guard.token()),
            Kind::Shared => Self::Shared(guard.token()),
            // A grant of a semaphore has a slot.
            Kind::Counted => {
                Self::Counted { token: guard.token(), slot: guard.slot().unwrap_or_default() }
            }
        }
    }
}

impl Guard {
    pub(crate) const fn new(hold: Arc<Held>) -> Self {
        Self(GuardWatch(hold))
    }

    /// What is locked.
    pub fn name(&self) -> &LockName {
        self.0.name()
    }

    /// The kind of this lock: the resource takes the token of a shared one by
    /// [`Fenced::access_shared`](crate::Fenced::access_shared).
    pub fn kind(&self) -> Kind {
        self.0.kind()
    }

    /// The slot of a permit of a semaphore: the smallest number, from 0, that no other live grant had when this one was
    /// granted; `None` for a lock.
    ///
    /// A resource fences the holders of a semaphore by their slots: of two grants of one slot, the later has the greater
    /// token.
    pub fn slot(&self) -> Option<u32> {
        self.0.slot()
    }

    /// The fencing token of this grant, to send along with every write.
    ///
    /// Infallible on purpose (C4): whether a token is stale is judged by the resource, which alone
    /// can know. A check here would be over before the write arrives.
    pub fn token(&self) -> FencingToken {
        self.0.token()
    }

    /// The token, if the lock is still held for `at_least`: a check right before a step of work.
    ///
    /// # Errors
    /// `Lost`: it is not held. `Unavailable`: less is left until a renewal is acknowledged.
    /// `Invalid`: it never has that much left, by its ttl and margin or by its `max_hold`.
    pub fn ensure(&self, at_least: Duration) -> Result<FencingToken> {
        self.0.ensure(at_least)
    }

    /// Whether the lock is held, judged by the clock at this very moment (C12).
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// How long the lock is held if no renewal gets through; `None`: until it is released.
    pub fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    /// The ttl as the store granted it; `None` where the store has no expiry.
    pub fn ttl(&self) -> Option<Duration> {
        self.0.ttl()
    }

    /// Completes when the lock is lost, at the deadline at the latest (C7).
    ///
    /// # Cancel safety
    /// Cancel-safe: it may be dropped and asked for again.
    pub fn lost(&self) -> impl Future<Output = LossReason> + Send + use<> {
        self.0.lost()
    }

    /// Completes when no renewal was acknowledged for two thirds of the ttl, or the lock is lost.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub fn at_risk(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.at_risk()
    }

    /// A view for subtasks.
    pub fn watch(&self) -> GuardWatch {
        self.0.clone()
    }

    /// The store's own data of this grant, for callers that fence inside the store.
    pub fn native<T: 'static>(&self) -> Option<&T> {
        self.0.native()
    }

    /// Renews the lock now; needed only with [`renew_manually`](crate::Lock::renew_manually).
    ///
    /// The first acknowledgement of any renewal under way answers: [`remaining`](Self::remaining)
    /// tells for how long.
    ///
    /// # Errors
    /// `Lost`: it is not held any more. `Unavailable`: this attempt was not acknowledged; try again
    /// while [`remaining`](Self::remaining) lasts.
    ///
    /// # Cancel safety
    /// Cancel-safe: the renewal goes on.
    pub async fn renew(&self) -> Result<()> {
        self.0.0.renew().await.map_err(|error| error.about(self.name()))
    }

    /// Releases the lock and waits for the store's word; from its first poll on it is not held.
    ///
    /// # Errors
    /// `Lost`: it had been lost before, so the work may have overlapped another holder's.
    /// `Unavailable`: the store did not answer in time. `NoRuntime`: the runtime that kept the lock
    /// ended meanwhile. The driver goes on cleaning up as long as it lives.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, the release goes on in the background.
    pub async fn release(self) -> Result<()> {
        self.0.0.release().await.map_err(|error| error.about(self.name()))
    }

    /// Runs `work` while the lock is held, stops it when the lock is lost, and releases; gives what `work` gave.
    ///
    /// `work` is polled in the caller's own task, and may give anything: where it gives a `Result` of its own,
    /// `.await??` unwraps both. A release that fails is logged, not returned.
    ///
    /// # Errors
    /// `Lost`: the lock was lost before `work` ended. It is never `Ok` for work that ended after the deadline.
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and releases the lock in the background.
    pub async fn run<T, F>(self, work: F) -> Result<T>
    where
        F: AsyncFnOnce(&Self) -> T,
    {
        let outcome = self.while_held(work(&self)).await?;
        self.release_or_warn().await;
        Ok(outcome)
    }

    /// What `work` gives, unless the lock is lost before it ends: then `work` is dropped.
    pub(crate) async fn while_held<T>(&self, work: impl Future<Output = T>) -> Result<T> {
        let outcome = tokio::select! {
            biased;
            reason = self.lost() => return Err(self.0.lost_error(reason)),
            outcome = work => outcome,
        };
        // The last poll of the work may itself have outlasted the deadline.
        self.ensure(Duration::ZERO)?;
        Ok(outcome)
    }

    /// Releases the lock of work that has ended; a failure is logged.
    pub(crate) async fn release_or_warn(self) {
        let (name, token) = (self.name().clone(), self.token());
        if let Err(error) = self.release().await {
            tracing::warn!(
                target: "lockkit", event = "release_failed", name = %name, token = token.as_u64(),
                error = %error, "the work ended in time, but its lock was not released cleanly",
            );
        }
    }

    /// Ends belief after so long at the latest, counted from now.
    pub(crate) fn hold_at_most(&self, max_hold: Duration) {
        self.0.0.hold_at_most(max_hold);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.0.let_go();
    }
}

impl GuardWatch {
    /// As [`Guard::name`].
    pub fn name(&self) -> &LockName {
        &self.0.name
    }

    /// As [`Guard::kind`].
    pub fn kind(&self) -> Kind {
        self.0.kind
    }

    /// As [`Guard::slot`].
    pub fn slot(&self) -> Option<u32> {
        self.0.slot
    }

    /// As [`Guard::token`].
    pub fn token(&self) -> FencingToken {
        self.0.token
    }

    /// As [`Guard::ensure`].
    ///
    /// # Errors
    /// As [`Guard::ensure`].
    pub fn ensure(&self, at_least: Duration) -> Result<FencingToken> {
        self.0.ensure(at_least).map_err(|error| error.about(self.name()))
    }

    fn lost_error(&self, reason: LossReason) -> Error {
        Error::lost(reason).about(self.name())
    }

    /// As [`Guard::is_held`]; false once the guard was released.
    pub fn is_held(&self) -> bool {
        self.0.is_held()
    }

    /// As [`Guard::remaining`].
    pub fn remaining(&self) -> Option<Duration> {
        self.0.remaining()
    }

    /// As [`Guard::ttl`].
    pub fn ttl(&self) -> Option<Duration> {
        self.0.ttl()
    }

    /// As [`Guard::native`].
    pub fn native<T: 'static>(&self) -> Option<&T> {
        self.0.native.as_deref()?.downcast_ref()
    }

    /// As [`Guard::lost`]; `Released` once the guard was released.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub fn lost(&self) -> impl Future<Output = LossReason> + Send + use<> {
        self.0.lost()
    }

    /// As [`Guard::at_risk`].
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub fn at_risk(&self) -> impl Future<Output = ()> + Send + use<> {
        self.0.at_risk()
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt_as("Guard", f)
    }
}

impl fmt::Debug for GuardWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_as("GuardWatch", f)
    }
}

impl GuardWatch {
    fn fmt_as(&self, what: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(what)
            .field("name", &self.0.name)
            .field("token", &self.0.token)
            .field("state", &self.0.state())
            .finish_non_exhaustive()
    }
}
