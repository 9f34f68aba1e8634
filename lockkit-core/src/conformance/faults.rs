//! What a fixture can do to a client's link and to its store's server, and what cases make of it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::context::Context;
use super::counted::{CountedClient, CountedLink, CountedServer};
use super::fixture::cannot;
use super::stop::{Stop, Verdict, require};
use super::{Fixture, Hook};
use crate::{Error, LockProvider, Result};

/// The most that one call may wait for a store (C12).
const CALL: Duration = Duration::from_secs(2);

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

impl Context {
    /// One more client of the store, behind a link of its own; calls and faults are counted.
    pub(super) async fn linked(&self) -> Verdict<Linked> {
        let linked =
            self.fixture.linked().await.map_err(|error| {
                Stop::error(&error, "the fixture connects no client through a link")
            });
        let Linked { client, link } = linked?;
        let client = CountedClient { client, notes: self.notes.clone() };
        let link = CountedLink::new(link, self.notes.clone());
        Ok(Linked::new(Arc::new(client), link))
    }

    /// The same run on a server of its own, whose faults are counted.
    pub(super) async fn served(&self) -> Verdict<(Self, Arc<dyn Server>)> {
        let served =
            self.fixture.served().await.map_err(|error| {
                Stop::error(&error, "the fixture starts no server for one case")
            })?;
        let server = CountedServer { server: served.server, notes: self.notes.clone() };
        Ok((self.on(served.fixture).await?, Arc::new(server)))
    }

    /// By when the next one is granted, whatever became of the holder (C11).
    pub(super) fn recovery(&self) -> Duration {
        self.ttl() + self.expiry_slack()
    }

    /// By when a waiter is granted after an outage: it may be in a pause, or in a call.
    pub(super) fn healed(&self) -> Duration {
        self.recovery() + self.call_limit()
    }

    /// By when a call has ended, whatever the store does (C12).
    pub(super) fn call_limit(&self) -> Duration {
        CALL + self.slack()
    }

    /// Repeats a call, as the driver does, until the store answers.
    pub(super) async fn answered<T: Send, F: Future<Output = Result<T>> + Send>(
        &self,
        what: &str,
        call: impl Fn() -> F + Send + Sync,
    ) -> Verdict<T> {
        let repeated = async {
            loop {
                match call().await {
                    Err(Error::Unavailable { .. }) => self.sleep(Duration::from_millis(10)).await,
                    answer => return answer,
                }
            }
        };
        Ok(self.by(self.healed(), what, repeated).await??)
    }

    /// How many hold or wait at the name with this tail, as the store sees it; `None`: it cannot
    /// tell.
    pub(super) async fn entries(&self, tail: &str) -> Verdict<Option<usize>> {
        let Some(operator) = self.provider.operator() else { return Ok(None) };
        let seen = operator.inspect(&self.lock_name(tail)?).await?;
        Ok(seen.waiters.map(|waiters| seen.holders.len() + waiters))
    }

    /// Waits until so many hold or wait, where the store can tell.
    pub(super) async fn have_come(&self, tail: &str, number: usize) -> Verdict {
        // A busy machine takes its time for each of many.
        let each = self.slack() / 20 * u32::try_from(number).unwrap_or(u32::MAX);
        let end = self.clock.now().saturating_add(self.wake_up() + each);
        while let Some(entries) = self.entries(tail).await?.filter(|entries| *entries != number) {
            if self.clock.now() >= end {
                require!(
                    entries < number,
                    "{entries} hold and wait, where {number} do: one is left"
                );
                return Err(Stop::late(format!("{number} did not come in time to hold and wait")));
            }
            self.sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
