//! The provider: what each call asks of ZooKeeper.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, Finding, Grant, Guarantees, Kind, LockProvider,
    Operator, Request, Result, TtlRange, WakeUp,
};
use tokio::runtime::Handle;

use crate::ZkConfig;
use crate::client::Client;
use crate::queue::Form;
use crate::sessions::Sessions;
use crate::why::Servers;

/// A client of one ZooKeeper server or ensemble, 3.5 or newer.
///
/// It makes a session for each ttl that is in use, rounded up to whole ticks, and keeps it alive by
/// one heartbeat, however many locks are held on it; many hundreds of them take further sessions.
/// A killed holder's name is free between the ttl + one tick and the ttl + two ticks after its last
/// heartbeat.
/// The tasks that serve a session live in the runtime that made it. See the page
/// `docs/zookeeper.md` for the algorithm and its bounds.
#[derive(Clone, Debug)]
pub struct ZkProvider(Arc<Client>);

impl ZkProvider {
    /// What every store of this kind promises, known before one is connected (C13); the ttls are
    /// those of servers with every setting at its default.
    pub const fn declared() -> Guarantees {
        let tick = Duration::from_secs(2);
        let range = TtlRange { min: tick, max: Duration::from_secs(38), granularity: tick };
        let mut guarantees = Guarantees::new(Exclusion::Consensus, Expiry::Session(range));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.kinds = &[Kind::Exclusive, Kind::Shared];
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.failover = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "servers whose tickTime is longer than the tick that was configured",
            "an operator who deletes the holder's node, or ends its session, until the holder is \
             told",
            "a restore of the servers from an older snapshot, or the loss of all data",
            "session limits that are lowered by a restart of the servers, where the answer to a \
             reconnection is lost or late, or the client's runtime stands still",
        ];
        guarantees
    }

    /// Connects, and checks that the servers let this client in.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, the certificates, or no right to the
    /// base; each says what to do. `Unavailable`: no answer. `NoRuntime`: called outside a tokio
    /// runtime, in which the sessions are to be served.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: ZkConfig) -> Result<Self> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        config.check()?;
        let form = Form::new(config.layout, &config.access);
        let (base, token_base) = (config.base.clone(), config.token_base);
        let servers = Servers::of(&config);
        let sessions = Arc::new(servers.name(Sessions::connect(config).await)?);
        let places = Arc::default();
        Ok(Self(Arc::new(Client { sessions, places, form, base, token_base, servers })))
    }
}

#[async_trait]
impl LockProvider for ZkProvider {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Self::declared();
        guarantees.expiry = Expiry::Session(self.0.sessions.range);
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.0.servers.name(self.0.attempt(request, false).await)
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let granted = self.0.servers.name(self.0.attempt(request, true).await)?;
        granted.ok_or_else(|| Error::unavailable(Applied::No, "a wait ended without a grant"))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.servers.name(self.0.withdraw(request).await)
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        self.0.servers.name(self.0.examine().await)
    }

    async fn close(&self) -> Result<()> {
        self.0.sessions.close().await;
        Ok(())
    }
}
