//! What a fixture can do to a client's link and to its store's server.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::hook::{Hook, cannot};
use crate::{LockProvider, Result};

/// The network between one client and its store, at which the suite makes faults.
///
/// A verb sets the fault of the connections and the direction that it names, in place of the one
/// before. All faults end with [`pass`](Self::pass), and when the link is dropped. Each method
/// fails with whatever keeps it from doing so, which fails the case.
///
/// # Cancel safety
/// The suite drops no call midway, unless its case has run out of time.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// Ends every fault; what is held is delivered. A connection that has lost bytes is reset: no
    /// network leaves a gap.
    async fn pass(&self) -> Result<()>;

    /// Refuses new connections; those that exist go on.
    async fn refuse(&self) -> Result<()>;

    /// Resets the connections that exist; returns once they are closed.
    async fn reset(&self) -> Result<()>;

    /// Takes all bytes and delivers none, nor the ends of connections, old and new ones.
    async fn blackhole(&self) -> Result<()>;

    /// The same for the connections that exist; new ones pass.
    async fn blackhole_old(&self) -> Result<()>;

    /// The same for one direction of all connections.
    async fn lose(&self, way: Way) -> Result<()>;

    /// Keeps the bytes of one direction, and the ends of connections, for later.
    async fn hold(&self, way: Way) -> Result<()>;

    /// The same for the connections that exist; new ones pass.
    async fn hold_old(&self, way: Way) -> Result<()>;

    /// Delivers what is held, also where the sender has closed, and passes what follows.
    async fn deliver(&self) -> Result<()>;

    /// Delivers everything this much later, in both directions.
    async fn delay(&self, by: Duration) -> Result<()>;

    /// Delivers so many bytes in one direction, over all connections together, then resets the
    /// connection that the last one went over; with 0, at the first byte. Passes what follows.
    async fn cut(&self, way: Way, after: u64) -> Result<()>;

    /// What went over it so far.
    async fn traffic(&self) -> Result<Traffic>;
}

/// A direction of a [`Link`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Way {
    /// From the client to the store.
    Requests,
    /// From the store to the client.
    Replies,
}

/// What went over a [`Link`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Traffic {
    /// The connections that were accepted.
    pub connections: u64,
    /// The bytes that the store was given.
    pub sent: u64,
    /// The bytes that the client was given.
    pub received: u64,
    /// The connections that are open now, where the link can tell.
    pub open: Option<u64>,
}

/// A client and the link that all its connections go through.
#[non_exhaustive]
pub struct Linked {
    /// The client.
    pub client: Arc<dyn LockProvider>,
    /// Its link.
    pub link: Arc<dyn Link>,
}

impl Linked {
    /// A client, and the link in front of it.
    pub fn new(client: Arc<dyn LockProvider>, link: impl Link) -> Self {
        Self { client, link: Arc::new(link) }
    }
}

impl fmt::Debug for Linked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Linked").field("client", &self.client).finish_non_exhaustive()
    }
}

/// A store's server process, which the suite stops and starts.
///
/// It may block the thread for as long as a start takes. Each method fails with whatever keeps it
/// from doing so, which fails the case.
///
/// # Cancel safety
/// As that of [`Link`].
#[async_trait]
pub trait Server: Send + Sync + 'static {
    /// Freezes it: connections stay open, and nothing answers.
    async fn pause(&self) -> Result<()>;

    /// Lets it go on.
    async fn resume(&self) -> Result<()>;

    /// Ends it at once, with no chance to write anything.
    async fn kill(&self) -> Result<()>;

    /// Kills it if it runs, and starts it again at the same place with all that it had
    /// acknowledged; returns once it answers.
    async fn restart(&self) -> Result<()>;

    /// The same without anything that it knew ([`Hook::ServerLoss`]).
    async fn restart_empty(&self) -> Result<()> {
        Err(cannot(Hook::ServerLoss, "a server"))
    }
}
