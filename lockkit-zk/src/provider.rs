//! The provider: what each call asks of ZooKeeper.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::call_limit;
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, Grant, Guarantees, LockProvider, Operator,
    Request, Result, TtlRange, WakeUp,
};

use crate::ZkConfig;
use crate::cleanup::{Removal, remove_and};
use crate::client::Client;
use crate::error::limited;
use crate::place::Known;
use crate::queue::Form;
use crate::sessions::Sessions;

/// A client of one ZooKeeper server or ensemble, 3.5 or newer.
///
/// It makes a session for each ttl that is in use, rounded up to whole ticks, and keeps it alive by
/// one heartbeat, however many locks are held on it; many hundreds of them take further sessions.
/// The tasks that serve a session live in the runtime that made it. See the page
/// `docs/zookeeper.md` for the algorithm and its bounds.
#[derive(Clone, Debug)]
pub struct ZkProvider(Arc<Client>);

impl ZkProvider {
    /// What every store of this kind promises, known before one is connected (C13); the ttls are
    /// those of servers with every setting at its default.
    pub const fn declared() -> Guarantees {
        let tick = Duration::from_secs(2);
        let range = TtlRange { min: tick, max: Duration::from_secs(36), granularity: tick };
        let mut guarantees = Guarantees::new(Exclusion::Consensus, Expiry::Session(range));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.failover = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "servers whose tickTime is longer than the tick that was configured",
            "an operator who deletes the holder's node, or ends its session, until the holder is \
             told",
            "a restore of the servers from an older snapshot, or the loss of all data",
            "session limits that are lowered by a restart of the servers, where the answer to a \
             reconnection is lost, or two ticks late, or the client's runtime stands still",
        ];
        guarantees
    }

    /// Connects, and checks that the servers let this client in.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, the certificates, or no right to the
    /// base; each says what to do. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: ZkConfig) -> Result<Self> {
        config.check()?;
        let form = Form::new(config.layout, &config.access);
        let (base, token_base) = (config.base.clone(), config.token_base);
        let sessions = Arc::new(Sessions::connect(config).await?);
        let places = Arc::default();
        Ok(Self(Arc::new(Client { sessions, places, form, base, token_base })))
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
        self.0.attempt(request, false).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let granted = self.0.attempt(request, true).await?;
        granted.ok_or_else(|| Error::unavailable(Applied::No, "a wait ended without a grant"))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let (clock, limit) = (request.clock(), call_limit(request.ttl()));
        let place = self.0.places.find(request.id());
        let known = match place.as_ref().map(|place| place.known()) {
            Some(Known::Taken(node)) => node.paths(),
            _ => Vec::new(),
        };
        let asked = place.as_ref().map(|place| place.withdraw());
        let mut forgets = place.map(|place| self.0.places.forgets(request.id(), &place));
        let (session, _in_use) = match asked {
            Some(None) => return Ok(()),
            Some(Some(session)) if !session.is_over() => (session, None),
            // A session that is over here may live on there for a moment: another one looks.
            _ => {
                forgets = None;
                let another = limited(clock, limit, self.0.session(request, Known::Nothing)).await;
                let (session, in_use) = another.map_err(|error| error.with_applied(Applied::No))?;
                (session, Some(in_use))
            }
        };
        let was_asked = forgets.is_some();
        let removal = Removal::Request(self.0.parent(request.name()), request.clone(), known);
        let removal = remove_and(&session, removal, move |outcome| {
            if let Some(forgets) = forgets.filter(|_| outcome.is_err()) {
                forgets.cancel();
            }
        });
        match limited(clock, limit, removal).await {
            // Who was never let in has left nothing, and need not be let look.
            Err(Error::Rejected { .. }) if !was_asked => Ok(()),
            outcome => outcome,
        }
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn close(&self) -> Result<()> {
        self.0.sessions.close().await;
        Ok(())
    }
}
