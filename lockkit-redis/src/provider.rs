//! The provider: what each call asks of Redis.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::{Awaited, Mailbox, call_limit, wait};
use lockkit_core::{
    Applied, Error, Exclusion, Expiry, Fairness, Finding, Grant, Guarantees, Kind, LockProvider,
    MinimumHold, Operator, Request, RequestId, Result, StoreSays, TtlRange, WakeUp,
};

use crate::RedisConfig;
use crate::beating::SOON;
use crate::client::{Client, tombstone};
use crate::connection::Commands;
use crate::examine::examine;
use crate::lease::grant;
use crate::protocol::{Answer, client_name};
use crate::server::check_server;
use crate::shared::{Heard, LeftBehind, Shared, now};
use crate::subscription::subscribe;

/// How often a waiter asks by itself, whatever the heartbeats of its client say.
const RARELY: Duration = Duration::from_secs(30);

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
        guarantees.kinds = &[Kind::Exclusive, Kind::Shared, Kind::Counted];
        guarantees.minimum_hold = MinimumHold::ByStore;
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
        let address = client_name(&RequestId::random()?.to_string());
        let (prefix, token_base) = (config.prefix.clone(), config.token_base);
        let shared = Shared {
            commands: Commands::new(config)?,
            prefix,
            address,
            waiters: Arc::default(),
            awaited: Awaited::default(),
            left: LeftBehind::default(),
            heard: Heard::default(),
            listens: AtomicBool::new(false),
        };
        let client = Client::new(shared, token_base);
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
        let term = request.term();
        match self.0.ask(&entry, false).await? {
            Answer::Granted { token, slot } => grant(&self.0, entry, term, (token, slot)).map(Some),
            Answer::Held { .. } => Ok(None),
            Answer::Withdrawn => Err(Error::withdrawn()),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        // Before the first sending: a push may overtake its answer.
        let entry = self.0.waiters.enter(request);
        let _waits = self.0.awaited.enter(request);
        // What an earlier attempt was told of is asked again.
        entry.data().mailbox = Mailbox::default();
        self.0.withdraw_left().await;
        let mut is_queued = false;
        loop {
            let term = request.term();
            let asked = self.0.ask(&entry, true).await;
            let asked = if is_queued {
                // An earlier sending has left it in the queue.
                asked.map_err(|error| error.with_applied(Applied::Maybe))?
            } else {
                asked?
            };
            let (expires_in, holder, was_alive) = match asked {
                Answer::Granted { token, slot } => {
                    return grant(&self.0, entry, term, (token, slot));
                }
                Answer::Withdrawn => return Err(Error::withdrawn()),
                Answer::Held { expires_in, holder, was_alive } => (expires_in, holder, was_alive),
            };
            is_queued = true;
            request.report(StoreSays::Held(Some(holder)));
            if !was_alive {
                self.0.ask_those(|other| other.id() != request.id());
            }
            subscribe(&self.0, None)?;
            self.0.beat()?;
            if let Some(left) = expires_in.filter(|left| *left <= SOON) {
                let after = now().saturating_add(left + Duration::from_millis(1));
                self.0.awaited.ask_at(request.name(), after);
            }
            let granted = tokio::select! {
                biased;
                granted = wait(&entry, None, RARELY) => {
                    // Revoked or withdrawn: another sending may have queued it again.
                    granted.map_err(|error| error.with_applied(Applied::Maybe))?
                }
                () = self.0.lapsed() => None,
                // The task that beats stands still, with its runtime: each waiter proves that the client lives.
                () = self.0.unheard() => None,
            };
            if let Some(granted) = granted {
                if let Some(term) = granted.term(request) {
                    return grant(&self.0, entry, term, (granted.token, granted.slot));
                }
                // Too little is left: the server grants all of it to a request that asks.
                entry.data().mailbox.refuse();
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let entry = self.0.waiters.enter(request);
        // Before anything is sent: a waiter that asked once more would come back behind it.
        entry.withdraw();
        let late = tombstone(entry.may_still_arrive());
        self.0.withdraw(request.clock(), call_limit(request.ttl()), request, late).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        examine(&self.0).await
    }

    async fn close(&self) -> Result<()> {
        self.0.close();
        Ok(())
    }
}
