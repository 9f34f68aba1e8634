//! What the author of a backend gives to the suite.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::faults::{Linked, Server};
use super::hook::{Hook, cannot};
use crate::{LockName, LockProvider, Result};

/// A store under test: connects clients and, where it can, offers faults.
///
/// Only [`connect`](Self::connect) is required. Each of the other methods belongs to a [`Hook`];
/// list in [`hooks`](Self::hooks) those that work here. A hook that is listed and fails, fails its
/// case. More hooks may come, each with a default that says "cannot".
///
/// The suite makes a fixture in each of its processes, so one that starts a server does so at the
/// first `connect`, not when it is made.
#[async_trait]
pub trait Fixture: Send + Sync + 'static {
    /// A fresh client of the store, the same store at every call.
    ///
    /// # Errors
    /// Whatever keeps it from connecting; it fails the case.
    ///
    /// # Cancel safety
    /// The suite never drops it midway.
    async fn connect(&self) -> Result<Arc<dyn LockProvider>>;

    /// What the report calls the store: the name of this type, unless it says better.
    fn store(&self) -> String {
        let name = std::any::type_name::<Self>();
        name.rsplit("::").next().unwrap_or(name).to_owned()
    }

    /// The time that the store lives by.
    fn time(&self) -> Time {
        Time::Real
    }

    /// The hooks that work here.
    fn hooks(&self) -> &[Hook] {
        &[]
    }

    /// A store of its own for one case, where that costs nothing; `None`: all cases share one
    /// store, under names of their own.
    ///
    /// A store in virtual time needs it, since each case has a clock of its own.
    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        None
    }

    /// Removes the holder's entry of `name` behind its back, as an operator with the store's own
    /// tools would ([`Hook::Remove`]).
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn remove(&self, name: &LockName) -> Result<()> {
        Err(cannot(Hook::Remove, name))
    }

    /// Deletes all that the store keeps of `name`, its counter of tokens too ([`Hook::Forget`]).
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn forget(&self, name: &LockName) -> Result<()> {
        Err(cannot(Hook::Forget, name))
    }

    /// Has the store refuse all that would change something of `name`, as where the right to it was taken away,
    /// until it is told the contrary ([`Hook::Refuse`]).
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn refuse(&self, name: &LockName, refuses: bool) -> Result<()> {
        let _ = refuses;
        Err(cannot(Hook::Refuse, name))
    }

    /// What a look into the store itself finds of holders and waiters of `name`, for a store whose
    /// provider has no operator; asked when there should be none. `None`: nothing, or no way to look.
    ///
    /// # Errors
    /// Whatever keeps it from looking; it fails the case.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn residue(&self, name: &LockName) -> Result<Option<String>> {
        let _ = name;
        Ok(None)
    }

    /// How another process reaches the store, in words that [`join`](Self::join) understands;
    /// asked after the first `connect` ([`Hook::Processes`]).
    fn address(&self) -> Option<String> {
        None
    }

    /// A client of the store at `address`, in a process that the suite started
    /// ([`Hook::Processes`]).
    ///
    /// # Errors
    /// Whatever keeps it from connecting; it fails the case.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        Err(cannot(Hook::Processes, address))
    }

    /// A fresh client whose every connection goes through a link of its own ([`Hook::Link`]).
    ///
    /// # Errors
    /// Whatever keeps it from connecting; it fails the case.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn linked(&self) -> Result<Linked> {
        Err(cannot(Hook::Link, "a client"))
    }

    /// A store like this one on a server of its own, for one case alone, which may stop it
    /// ([`Hook::Server`]). The server keeps what it has acknowledged.
    ///
    /// # Errors
    /// Whatever keeps it from starting; it fails the case.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn served(&self) -> Result<Served> {
        Err(cannot(Hook::Server, "one case"))
    }

    /// Has the server of a store that [`served`](Self::served) gave take only reads, as one that is made a
    /// standby, or writes again; returns once it does ([`Hook::ReadOnly`]).
    ///
    /// # Errors
    /// Whatever keeps it from doing so.
    ///
    /// # Cancel safety
    /// As [`connect`](Self::connect).
    async fn read_only(&self, is_read_only: bool) -> Result<()> {
        let _ = is_read_only;
        Err(cannot(Hook::ReadOnly, "a server"))
    }
}

/// A store for one case alone, and its server; both end when they are dropped.
#[non_exhaustive]
pub struct Served {
    /// The store.
    pub fixture: Arc<dyn Fixture>,
    /// The server that it lives on.
    pub server: Arc<dyn Server>,
}

impl Served {
    /// A store, and the server that it lives on.
    pub fn new(fixture: impl Fixture, server: Arc<dyn Server>) -> Self {
        Self { fixture: Arc::new(fixture), server }
    }
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Served").finish_non_exhaustive()
    }
}

/// The time that a fixture's store lives by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Time {
    /// The machine's: each case runs in a multi-thread runtime, on [`Clock::system`](crate::Clock).
    Real,
    /// The request's clock alone: each case runs in a paused current-thread runtime, whose time
    /// jumps to the next timer as soon as nothing else is left to do.
    Virtual,
}
