//! The provider: what each call asks of Redis.

use std::sync::Arc;

use async_trait::async_trait;
use lockkit_core::kit::{Service, wait, waiter_life};
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, Finding, Grant, Guarantees, Holder, LockProvider,
    Operator, Request, RequestId, Result, StoreSays, TtlRange, WakeUp,
};

use crate::RedisConfig;
use crate::client::{Asked, Client, tombstone};
use crate::connection::Commands;
use crate::examine::examine;
use crate::handoff::HandedOn;
use crate::lease::grant;
use crate::protocol::{Answer, WITHDRAW};
use crate::server::check_server;
use crate::subscription::subscribe;
use crate::waiter::rest;

/// A client of one Redis or Valkey server, 6.2 or newer.
///
/// It makes one connection for commands, shared by all its locks, and one for wake-ups and news of
/// revocations; both are made again when they end. The tasks that serve them live in the runtime that
/// made them. See the page `docs/redis.md` for the algorithm and its bounds.
#[derive(Clone, Debug)]
pub struct RedisProvider(Arc<Client>);

impl RedisProvider {
    /// What every store of this kind promises, known before one is connected (C13).
    pub const fn declared() -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Ttl(TtlRange::ANY));
        guarantees.fairness = Fairness::Fifo;
        guarantees.wake_up = WakeUp::Push;
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.data_loss = true;
        guarantees.belief_breaks_on = &[
            "a pause between a check and its use that outlasts the margin",
            "a jump of the server's clock",
            "a crash of a server that does not keep every write",
            "a failover to a replica",
            "removal of the lock's key by others (DEL, FLUSHALL, eviction), until the next renewal",
            "a revocation, until the holder is told: at its next renewal at the latest",
        ];
        guarantees
    }

    /// Connects, and checks that the server is fit for locks.
    ///
    /// ```no_run
    /// # async fn connect() -> lockkit_core::Result<()> {
    /// use lockkit_redis::{RedisConfig, RedisProvider};
    ///
    /// let provider = RedisProvider::connect(RedisConfig::unix("/run/redis/redis.sock")).await?;
    /// let locks = lockkit_core::Locks::new(provider);
    /// let guard = locks.lock("billing/nightly").acquire().await?;
    /// # drop(guard); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login failed, or the server is older than 6.2, is a
    /// replica, may evict keys, or denies PUBLISH or SUBSCRIBE; each says what to do. `Unavailable`: no
    /// answer. `NoRuntime`: called outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: RedisConfig) -> Result<Self> {
        config.check()?;
        let address = RequestId::random()?.to_string()[..16].to_owned();
        let (prefix, token_base) = (config.prefix.clone(), config.token_base);
        let client = Client {
            commands: Commands::new(config)?,
            prefix,
            token_base,
            address,
            waiters: Arc::default(),
            cohorts: Arc::default(),
            subscription: Service::default(),
        };
        let listening = check_server(&client).await?;
        subscribe(&client, Some(listening))?;
        Ok(Self(Arc::new(client)))
    }
}

#[async_trait]
impl LockProvider for RedisProvider {
    fn guarantees(&self) -> Guarantees {
        Self::declared()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let entry = self.0.waiters.enter(request);
        let sent = request.clock().now();
        match self.0.ask(&entry, false).await? {
            Asked::Answered(Answer::Granted { token, queue_head }) => {
                let cohort = self.0.cohorts.granted(&entry, token, sent, queue_head);
                grant(&self.0, entry, HandedOn { cohort, token, sent }).map(Some)
            }
            Asked::Answered(Answer::Held { .. }) => Ok(None),
            Asked::Answered(Answer::Withdrawn) => Err(Error::withdrawn()),
            Asked::HandedOn(granted) => grant(&self.0, entry, granted).map(Some),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let entry = self.0.waiters.enter(request);
        let (clock, heartbeat) = (request.clock(), waiter_life(request.ttl()) / 3);
        let mut is_queued = false;
        loop {
            let sent = clock.now();
            let asked = self.0.ask(&entry, true).await;
            let asked = if is_queued {
                // An earlier sending has left it in the queue.
                asked.map_err(|error| error.with_applied(Applied::Maybe))?
            } else {
                asked?
            };
            let (expires_in, rank, label, ticket, holder) = match asked {
                Asked::Answered(Answer::Granted { token, queue_head }) => {
                    let cohort = self.0.cohorts.granted(&entry, token, sent, queue_head);
                    return grant(&self.0, entry, HandedOn { cohort, token, sent });
                }
                Asked::HandedOn(granted) => return grant(&self.0, entry, granted),
                Asked::Answered(Answer::Withdrawn) => return Err(Error::withdrawn()),
                Asked::Answered(Answer::Held { expires_in, rank, label, ticket, token }) => {
                    (expires_in, rank, label, ticket, token)
                }
            };
            is_queued = true;
            if let (Some(0), Some(ticket), Some(token)) = (rank, ticket, holder)
                && let Some(cohort) = self.0.cohorts.latest(request.name())
            {
                cohort.head((request.id(), ticket), token);
            }
            request.report(StoreSays::Held(Some(Holder::new(label))));
            subscribe(&self.0, None)?;
            // Past its life it may have lost its place, and be queued again by a sending that is late.
            let resting = rest(&entry, ticket, sent.saturating_add(heartbeat * 3));
            let handed_on = wait(&entry, expires_in, heartbeat).await?;
            drop(resting);
            if let Some(granted) = handed_on {
                return grant(&self.0, entry, granted);
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let entry = self.0.waiters.enter(request);
        // Before anything is sent: a waiter that asked once more would come back behind it.
        entry.withdraw();
        // A holder of this client sees that, or has handed the name on to it by now.
        if let Some(cohort) = self.0.cohorts.latest(request.name()) {
            cohort.forget(request.id());
            if let Some(token) = cohort.token_of(request.id()) {
                cohort.end(&self.0.waiters, request.id());
                match cohort.ended(&*self.0, request, token).await {
                    Ok(()) | Err(Error::Lost { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let late = tombstone(entry.may_still_arrive());
        self.0.run(request, &WITHDRAW, &[late]).await.value?;
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        examine(&self.0).await
    }

    async fn close(&self) -> Result<()> {
        self.0.subscription.stop();
        self.0.commands.close();
        Ok(())
    }
}
