//! What a backend implements.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use crate::{
    Error, FencingToken, Finding, Grant, Guarantees, Holder, LockName, Permits, Request, Result,
};

/// A backend's client: it asks its store, and decides nothing.
///
/// This trait is the contract between a backend and the driver in [`Locks`](crate::Locks), which
/// does the waiting, renewing, deadlines, cancellation and clean-up once for every backend. The
/// clauses (C1 to C16) stand in [`contract`](crate::contract); the suite in `conformance` checks
/// them. A backend that upholds them needs no code of its own for the hard parts.
///
/// Implemented for [`Arc`] too, so a test can keep a handle on the provider it hands to `Locks`.
#[async_trait]
pub trait LockProvider: fmt::Debug + Send + Sync + 'static {
    /// What this provider promises (C13).
    fn guarantees(&self) -> Guarantees;

    /// Makes one attempt to take the name.
    ///
    /// `None` means that another holds it (or stands before us in a fair queue): definite, and no
    /// trace of the request stays (C9). Upholds C1 and C2.
    ///
    /// # Errors
    /// `Unavailable`: no answer; with `applied: Maybe` the grant may exist, and the driver
    /// withdraws. `Rejected`, `Invalid`: trying again is useless.
    ///
    /// # Cancel safety
    /// May leave the request in the store until [`withdraw`](Self::withdraw); the driver always
    /// calls it, and polls this future on while it does.
    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>>;

    /// Takes the name, waiting in the store's own queue as long as it lasts.
    ///
    /// It keeps the request's place alive there, and tells the driver through
    /// [`Request::report`] that it waits behind a holder. Upholds C1, C2, C8 and C10.
    ///
    /// # Errors
    /// As [`try_acquire`](Self::try_acquire); the driver replays the same request after
    /// `Unavailable`.
    ///
    /// # Cancel safety
    /// As [`try_acquire`](Self::try_acquire).
    async fn acquire(&self, request: &Request) -> Result<Grant>;

    /// Removes every trace of this request's id, granted or waiting, and ends its pending attempt.
    ///
    /// Upholds C9: idempotent, and harmless to every other request.
    ///
    /// # Errors
    /// `Unavailable`: no answer; the driver repeats it.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not.
    async fn withdraw(&self, request: &Request) -> Result<()>;

    /// What an operator can see and do; `None` where the store cannot tell.
    fn operator(&self) -> Option<&dyn Operator>;

    /// What is amiss with the server: its version, its settings, the rights of this client's role, what is left of its
    /// limits. The worst comes first. By default a backend knows nothing of that.
    ///
    /// # Errors
    /// `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    async fn examine(&self) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    /// Ends connections and sessions; called once, after every grant was released.
    ///
    /// # Errors
    /// `Unavailable`: the store did not answer; local resources are freed all the same.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    async fn close(&self) -> Result<()>;
}

#[async_trait]
#[deny(clippy::missing_trait_methods)] // what wraps forwards all
impl<P: LockProvider + ?Sized> LockProvider for Arc<P> {
    fn guarantees(&self) -> Guarantees {
        (**self).guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        (**self).try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        (**self).acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        (**self).withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        (**self).operator()
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        (**self).examine().await
    }

    async fn close(&self) -> Result<()> {
        (**self).close().await
    }
}

/// What an operator can see and do in a store.
#[async_trait]
pub trait Operator: Send + Sync {
    /// Who holds the name and how many wait, as the store knows it.
    ///
    /// # Errors
    /// `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    async fn inspect(&self, name: &LockName) -> Result<Inspection>;

    /// Completes while a grant of the name is live whose token is greater than this one; `None`: any grant.
    ///
    /// For observers, which ask then with [`inspect`](Self::inspect), and else by themselves, at their own pace.
    /// Level-triggered; pending for ever where the store does not tell, as here.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    async fn granted_after(&self, name: &LockName, token: Option<FencingToken>) {
        let _ = (name, token);
        std::future::pending::<()>().await;
    }

    /// Up to `limit` names that are held or waited for, that start with `prefix`, in order of their
    /// bytes, from after `after`: all of locks, then those of semaphores.
    ///
    /// # Errors
    /// `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: it only reads.
    async fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>>;

    /// Ends exactly the grant with this token; `false` where there is no such grant (C6).
    ///
    /// # Errors
    /// `Rejected`: the store cannot end another's grant. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not.
    async fn revoke(&self, name: &LockName, token: FencingToken) -> Result<bool>;

    /// Sets the limit of the semaphore of this name to `permits`, and answers the limit before; 0: it had none.
    ///
    /// A greater limit grants waiters at once. A smaller one takes no grant away: no request is granted until fewer
    /// than `permits` grants are live. A store without semaphores refuses, as here.
    ///
    /// # Errors
    /// `Rejected`: the store has no semaphores, or the role may not. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, it has happened or not.
    async fn resize(&self, name: &LockName, permits: Permits) -> Result<u32> {
        let _ = (name, permits);
        let remedy = "this store does not offer that kind: see Locks::guarantees()";
        Err(Error::rejected("a counted lock", remedy))
    }

    /// Forgets the free names that start with `prefix` and that no request has used for `unused_for`; how many.
    ///
    /// The limit of a semaphore goes with its name. A store that keeps something of each name for its tokens raises the tokens of all new names above those that
    /// it forgets (C4). By default there is nothing to forget.
    ///
    /// # Errors
    /// `Rejected`: the role may not. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, some are forgotten.
    async fn forget(&self, prefix: &str, unused_for: Duration) -> Result<u64> {
        let _ = (prefix, unused_for);
        Ok(0)
    }
}

/// What a store knows of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Inspection {
    /// The name.
    pub name: LockName,
    /// Who holds it now.
    pub holders: Vec<Holder>,
    /// How many wait, where the store can tell.
    pub waiters: Option<usize>,
    /// The limit of a semaphore, where one is noted.
    pub permits: Option<u32>,
}

impl Inspection {
    /// What is known of `name`.
    pub const fn new(name: LockName, holders: Vec<Holder>, waiters: Option<usize>) -> Self {
        Self { name, holders, waiters, permits: None }
    }

    /// The same, with the limit of the semaphore.
    #[must_use]
    pub const fn with_permits(mut self, permits: Option<u32>) -> Self {
        self.permits = permits;
        self
    }
}
