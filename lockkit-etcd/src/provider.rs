//! The provider: what each call asks of etcd.

use std::sync::Arc;

use async_trait::async_trait;
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, Finding, Grant, Guarantees, Kind, LockProvider,
    Operator, Request, Result, WakeUp,
};
use tokio::runtime::Handle;

use crate::EtcdConfig;
use crate::client::Client;
use crate::endpoints::Endpoints;
use crate::error::outlasts_full;
use crate::examine::examine;
use crate::lease::grant;
use crate::protocol::Keys;
use crate::queue::TakeOutcome;
use crate::server::{TTLS, check_server};

/// A client of one etcd cluster, 3.4 or newer.
///
/// Its locks of equal ttl share a lease, and all of them one stream of watches. It speaks to one member, and to
/// the next when that one fails. The tasks that serve it live in the runtime that made them, and
/// when that ends, in one where a caller waits or holds. See the page `docs/etcd.md` for the
/// algorithm and its bounds.
#[derive(Clone, Debug)]
pub struct EtcdProvider(Arc<Client>);

impl EtcdProvider {
    /// What every store of this kind promises, known before one is connected (C13); the least ttl
    /// follows the cluster's settings.
    pub const fn declared() -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::Consensus, Expiry::Session(TTLS));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.kinds = &[Kind::Exclusive, Kind::Shared];
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.failover = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "a deposed leader that revokes a lease it did not see renewed (before 3.4.31 and 3.5.13)",
            "an operator who deletes the holder's key, until the holder is told",
            "a restore from an older backup or the loss of all data, until the holder is told",
            "a copy of the cluster, made from a backup, that clients use beside it",
        ];
        guarantees
    }

    /// Connects, and checks that the cluster is fit for locks and that this user may take them.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, a certificate, a right that is missing,
    /// or a cluster that is too old; each says what to do. `Unavailable`: no answer. `NoRuntime`: called
    /// outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancel-safe: what it has asked for ends by itself within seconds.
    pub async fn connect(config: EtcdConfig) -> Result<Self> {
        config.check()?;
        // The driver panics without one.
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        // There is no request yet that could have taken effect.
        Self::connect_to(&config).await.map_err(|error| error.with_applied(Applied::No))
    }

    async fn connect_to(config: &EtcdConfig) -> Result<Self> {
        let endpoints = Endpoints::new(config);
        let keys = Keys::new(&config.prefix);
        let (ttls, mark) = check_server(&endpoints, &keys, config.tls.is_some()).await?;
        // The cluster's own base is already greater than the tokens of most other stores.
        let token_base = config.token_base.max(mark.base());
        endpoints.know(mark.clone()).await?;
        Ok(Self(Arc::new(Client::new(endpoints, keys, mark, ttls, token_base))))
    }
}

#[async_trait]
impl LockProvider for EtcdProvider {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Self::declared();
        guarantees.expiry = Expiry::Session(self.0.ttls);
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let client = &self.0;
        let entry = client.requests.enter(request);
        loop {
            let session = client.session(request, &entry).await?;
            let sent = request.clock().now();
            match client.take(request, &entry, &session).await? {
                TakeOutcome::Taken(place) => {
                    if let Some(grant) = grant(client, &entry, session, place, sent).await? {
                        return Ok(Some(grant));
                    }
                }
                TakeOutcome::Held => {
                    // A key of an earlier attempt may be in the queue, or a sending without an answer take the name.
                    client.clear(&entry).await?;
                    return Ok(None);
                }
                TakeOutcome::Ended => {}
            }
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.wait(request).await.map_err(outlasts_full)
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let Some(record) = self.0.requests.find(request.id()) else { return Ok(()) };
        // Before anything is sent: an attempt that asked once more would come back behind it.
        record.withdraw();
        self.0.clear(&record).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        examine(&self.0).await
    }

    async fn close(&self) -> Result<()> {
        let ended = self.0.end_sessions().await;
        self.0.watch.close();
        self.0.endpoints.close();
        ended
    }
}

impl EtcdProvider {
    async fn wait(&self, request: &Request) -> Result<Grant> {
        let client = &self.0;
        let entry = client.requests.enter(request);
        loop {
            let session = client.session(request, &entry).await?;
            let sent = request.clock().now();
            let Some(place) = client.enter(request, &entry, &session).await? else { continue };
            if let Some(place) = client.wait(request, &entry, &session, place).await?
                && !session.is_past()
                && let Some(grant) = grant(client, &entry, session, place, sent).await?
            {
                return Ok(grant);
            }
        }
    }
}

#[cfg(all(test, unix))]
mod tests;
