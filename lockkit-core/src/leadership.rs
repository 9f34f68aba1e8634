//! What a leader holds.

use std::fmt;
use std::future::Future;
use std::time::Duration;

use crate::{FencingToken, Guard, LossReason, Result};

/// The leadership of an election: kept in the background, given up when dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// let election = lockkit_core::Locks::memory().election("cluster/leader");
/// let leadership = election.campaign().await?;
/// println!("order with token {}", leadership.token());
/// leadership.resign().await?;
/// assert!(election.leader().await?.is_none());
/// # Ok(()) }
/// ```
#[must_use = "dropping the leadership resigns at once"]
#[clippy::has_significant_drop]
pub struct Leadership(Guard);

impl Leadership {
    pub(crate) const fn new(guard: Guard) -> Self {
        Self(guard)
    }

    /// The fencing token of this leadership, to send along with every order (C4).
    pub fn token(&self) -> FencingToken {
        self.0.token()
    }

    /// Whether it leads, judged by the clock at this very moment (C12).
    pub fn leads(&self) -> bool {
        self.0.is_held()
    }

    /// The token, if it leads for `at_least`: a check right before a step of work.
    ///
    /// # Errors
    /// As [`Guard::ensure`].
    pub fn ensure(&self, at_least: Duration) -> Result<FencingToken> {
        self.0.ensure(at_least)
    }

    /// Completes when the leadership is lost, at the deadline at the latest (C7).
    ///
    /// # Cancel safety
    /// Cancel-safe: it may be dropped and asked for again.
    pub fn lost(&self) -> impl Future<Output = LossReason> + Send + use<> {
        self.0.lost()
    }

    /// The guard of the lock that a leader holds: for views of it, renewals, and the store's own data.
    pub const fn guard(&self) -> &Guard {
        &self.0
    }

    /// Gives the leadership up and waits for the store's word; from its first poll on it does not lead.
    ///
    /// # Errors
    /// As [`Guard::release`]; `Lost`: another may have led before this.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it goes on in the background.
    pub async fn resign(self) -> Result<()> {
        self.0.release().await
    }

    /// Runs `work` while it leads, stops it when the leadership is lost, and resigns; gives what `work` gave.
    ///
    /// # Errors
    /// `Lost`: the leadership was lost before `work` ended. It is never `Ok` for work that ended after the deadline.
    ///
    /// # Cancel safety
    /// Dropping it drops `work` and resigns in the background.
    pub async fn run<T, F>(self, work: F) -> Result<T>
    where
        F: AsyncFnOnce(&Self) -> T,
    {
        let outcome = self.0.while_held(work(&self)).await?;
        self.0.release_or_warn().await;
        Ok(outcome)
    }
}

impl fmt::Debug for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Leadership").field(&self.0).finish()
    }
}
