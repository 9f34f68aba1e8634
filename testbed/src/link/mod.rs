//! A faulty link in front of any server.

mod filter;
mod framing;
mod pipe;
mod plan;
mod queue;
mod state;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::net::TcpListener;

pub use framing::{Framing, Postgres, Resp};
pub use plan::{Connection, Connections, Counts, End, Fault, Flow, Per, Way};
use plan::{TO_CLIENT, TO_SERVER};
use state::{Framings, Shared, State};

use crate::{Error, Port, Result};

/// The link's thread does what it is told within moments, on a busy machine within seconds.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often a start is tried on other ports when somebody else took one.
const STARTS: usize = 5;

/// A TCP proxy on a port of its own whose faults can change at any time.
///
/// Whatever the faults, it accepts a connection and opens its own to the server, unless it refuses;
/// where the server does not accept, the client's is reset.
///
/// It runs on its own thread: a test that blocks its runtime, or stops the time of it, does not
/// stop the link. Its connections are closed when it is dropped.
pub struct Link {
    shared: Arc<Shared>,
    port: Port,
    thread: Option<JoinHandle<()>>,
}

impl Link {
    /// A link to a server's address that passes everything and counts no requests.
    ///
    /// # Errors
    /// [`Error::System`] where no port is free.
    pub fn to(target: SocketAddr) -> Result<Self> {
        Self::builder(target).start()
    }

    /// The same to a Redis server, counting its commands and replies.
    ///
    /// # Errors
    /// [`Error::System`] where no port is free.
    pub fn to_redis(target: SocketAddr) -> Result<Self> {
        Self::builder(target)
            .framings(|| [Box::new(Resp::requests()), Box::new(Resp::answers())])
            .start()
    }

    /// The same to a PostgreSQL server, counting its messages, for clients without TLS.
    ///
    /// # Errors
    /// [`Error::System`] where no port is free.
    pub fn to_postgres(target: SocketAddr) -> Result<Self> {
        Self::builder(target)
            .framings(|| [Box::new(Postgres::requests()), Box::new(Postgres::answers())])
            .start()
    }

    /// A link with settings of its own.
    #[must_use]
    pub fn builder(target: SocketAddr) -> Builder {
        Builder { target, seed: 0, framings: None }
    }

    /// The address that clients connect to instead of the server's.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.port.address()
    }

    /// The number of its port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Sets the fault of every connection, those that come too; from the return on no byte goes
    /// otherwise.
    pub fn fault(&self, way: Way, fault: Fault) {
        self.fault_on(Connections::All, way, fault);
    }

    /// Sets the fault of some connections.
    pub fn fault_on(&self, connections: Connections, way: Way, fault: Fault) {
        self.shared.change(|state| state.set(connections, way, fault));
    }

    /// Ends every fault: both ways pass, what is held is delivered, connections are accepted.
    ///
    /// # Errors
    /// [`Error::Late`] where its port cannot be listened at again.
    pub fn pass(&self) -> Result<()> {
        self.fault(Way::Both, Fault::Pass);
        self.open(true)
    }

    /// Refuses new connections; those that exist go on.
    ///
    /// # Errors
    /// [`Error::Late`] where the link's thread does not answer.
    pub fn refuse(&self) -> Result<()> {
        self.open(false)
    }

    /// Accepts new connections again.
    ///
    /// # Errors
    /// [`Error::Late`] where its port cannot be listened at again.
    pub fn accept(&self) -> Result<()> {
        self.open(true)
    }

    /// Leads the connections that come to another server, such as a standby that was promoted; those
    /// that exist go on.
    pub fn lead_to(&self, target: SocketAddr) {
        self.shared.change(|state| state.target = target);
    }

    /// Resets the connections that exist; returns once they are closed.
    ///
    /// # Errors
    /// [`Error::Late`] where the link's thread does not answer.
    pub fn reset(&self) -> Result<()> {
        let count = self.shared.change(|state| {
            state.set(Connections::Existing, Way::Both, Fault::Reset);
            state.connections().count()
        });
        self.wait("connections to be reset", PATIENCE, |state| {
            state.connections().take(count).all(|(_, counts)| counts.open == 0)
        })
    }

    /// Delivers what is held, in order and also where the sender has closed; the directions on
    /// [`Fault::Hold`] pass from now on.
    pub fn deliver(&self) {
        self.shared.change(|state| {
            for index in [TO_SERVER, TO_CLIENT] {
                state.replace(index, |fault| fault == Fault::Hold, Fault::Pass);
            }
        });
    }

    /// What went over the link so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.shared.state().counts()
    }

    /// The requests and the answers, by name, that have come through since these counts.
    #[must_use]
    pub fn since(&self, before: &Counts) -> (BTreeMap<String, u64>, BTreeMap<String, u64>) {
        let now = self.counts();
        let more = |now: BTreeMap<String, u64>, before: &BTreeMap<String, u64>| {
            let more = now.into_iter().map(|(name, count)| {
                let more = count - before.get(&name).copied().unwrap_or_default();
                (name, more)
            });
            more.filter(|(_, more)| *more > 0).collect()
        };
        (more(now.requests, &before.requests), more(now.answers, &before.answers))
    }

    /// Each connection so far, also the closed ones, in the order of acceptance.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        let state = self.shared.state();
        let connections = state.connections();
        connections.map(|(number, counts)| Connection { number, counts: counts.clone() }).collect()
    }

    /// How many complete requests the server was given.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.counts().requests.values().sum()
    }

    /// Blocks until the counts fulfil the condition, which must not call the link.
    ///
    /// # Errors
    /// [`Error::Late`] where they do not within the limit.
    pub fn wait_until(
        &self,
        limit: Duration,
        mut holds: impl FnMut(&Counts) -> bool,
    ) -> Result<()> {
        self.wait("a link's counts", limit, |state| holds(&state.counts()))
    }

    /// Waits until the counts fulfil the condition; the caller sets the limit.
    pub async fn until(&self, mut holds: impl FnMut(&Counts) -> bool) {
        let mut changes = self.shared.counts();
        while !holds(&self.counts()) {
            // The sender lives as long as this link.
            changes.changed().await.ok();
        }
    }

    /// Waits until nothing has been counted for so long; the caller sets the limit.
    pub async fn idle(&self, silence: Duration) {
        let mut before = self.counts();
        while tokio::time::timeout(silence, self.until(|now| *now != before)).await.is_ok() {
            before = self.counts();
        }
    }

    fn open(&self, is_open: bool) -> Result<()> {
        self.shared.change(|state| state.is_open = is_open);
        self.wait("a link's listener", PATIENCE, |state| state.is_listening == is_open)
    }

    fn wait(&self, what: &str, limit: Duration, holds: impl FnMut(&State) -> bool) -> Result<()> {
        let late = || Error::Late { what: what.to_owned(), limit };
        self.shared.wait(limit, holds).then_some(()).ok_or_else(late)
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.change(|state| state.is_ended = true);
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed there.
            thread.join().ok();
        }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("address", &self.address())
            .field("target", &self.shared.state().target)
            .finish_non_exhaustive()
    }
}

/// The settings of a link.
#[derive(Debug, Clone, Copy)]
pub struct Builder {
    target: SocketAddr,
    seed: u64,
    framings: Option<Framings>,
}

impl Builder {
    /// What random delays are drawn from; 0 unless set.
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// How requests and answers are told apart, to count them.
    #[must_use]
    pub fn framings(mut self, framings: fn() -> [Box<dyn Framing>; 2]) -> Self {
        self.framings = Some(framings);
        self
    }

    /// Starts the link; it passes everything.
    ///
    /// # Errors
    /// [`Error::System`] where no port is free.
    pub fn start(self) -> Result<Link> {
        let refused = || Error::system("starting a link");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused())?;
        let (port, listener) = bind()?;
        let listener = {
            let _entered = runtime.enter();
            TcpListener::from_std(listener).map_err(refused())?
        };
        let shared = Arc::new(Shared::new(self.target, self.seed, self.framings));
        let serve = pipe::serve(Arc::clone(&shared), listener, port.address());
        let thread = thread::Builder::new()
            .name(format!("link to {}", self.target))
            .spawn(move || runtime.block_on(serve))
            .map_err(refused())?;
        Ok(Link { shared, port, thread: Some(thread) })
    }
}

/// A listener on a free port; the standard library sets SO_REUSEADDR, which a kept port needs.
pub(crate) fn bind() -> Result<(Port, std::net::TcpListener)> {
    let mut starts = 1;
    loop {
        let port = Port::free()?;
        let bound = std::net::TcpListener::bind(port.address());
        match bound.and_then(|listener| listener.set_nonblocking(true).map(|()| listener)) {
            Ok(listener) => return Ok((port, listener)),
            Err(_) if starts < STARTS => starts += 1,
            Err(error) => return Err(Error::system("listening at a free port")(error)),
        }
    }
}
