//! Strategy "advisory": session-level locks, on sessions that the server ends when they fall silent.

mod budget;
mod end;
mod held;
mod lease;
mod seek;
mod session;
mod sessions;
mod slots;
mod wake;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::call_limit;
use lockkit_core::{
    Applied, Clock, Error, Exclusion, Expiry, Grant, Guarantees, LockName, LockProvider, Operator,
    Request, Result, TtlRange, WakeUp,
};
use tokio::sync::oneshot;

use crate::PostgresConfig;
use crate::connection::{LIMIT, PATIENCE, Session};
use crate::protocol::key;
use crate::setup::check_server;
use budget::Budget;
use session::LockSession;
use sessions::Sessions;
use slots::{Slots, Waiter};
use wake::Wake;

/// How soon the end of a session that holds something is seen, at the latest.
const WATCH: Duration = Duration::from_millis(500);

/// How long a session is kept that nobody uses.
const UNUSED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Advisory(Arc<Client>);

#[derive(Debug)]
pub(crate) struct Client {
    sessions: Sessions,
    slots: Slots,
    wake: Arc<Wake>,
    budget: Arc<Budget>,
    schema: String,
    keys: HashMap<LockName, i64>,
    token_base: u64,
}

impl Advisory {
    pub(crate) async fn connect(config: PostgresConfig) -> Result<Self> {
        let session = Session::open(&config.options, PATIENCE, PATIENCE).await?;
        let server = check_server(&config, &session).await?;
        drop(session);
        let client = Arc::new_cyclic(|client: &Weak<Client>| {
            let client = Weak::clone(client);
            let watch = move |session: &Arc<LockSession>| watch(Weak::clone(&client), session);
            Client {
                sessions: Sessions::new(
                    &config.options,
                    &config.schema,
                    config.connections,
                    Box::new(watch),
                ),
                slots: Slots::default(),
                wake: Arc::default(),
                budget: Arc::new(Budget::new(config.budget, server.lock_table, server.locks)),
                schema: config.schema,
                keys: config.keys,
                token_base: config.token_base,
            }
        });
        client.sessions.warm().await?;
        Ok(Self(client))
    }

    /// The key of a name.
    pub(crate) fn key(&self, name: &LockName) -> i64 {
        self.0.key(name)
    }

    pub(crate) fn token_base(&self) -> u64 {
        self.0.token_base
    }

    /// Has the epoch looked after, for tokens in others' transactions.
    pub(crate) async fn enter(&self) -> Result<()> {
        let sql = format!("SELECT {}.enter()", self.0.schema);
        self.0.sessions.control(&Clock::system(), LIMIT, &sql).await.map(drop)
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.wake.close();
        self.sessions.close();
    }
}

/// Ends the locks of a session with the runtime that it lives in, where its watch has not.
struct Watching(Weak<Client>, Weak<LockSession>);

impl Drop for Watching {
    fn drop(&mut self) {
        if let (Some(client), Some(session)) = (self.0.upgrade(), self.1.upgrade()) {
            client.abandon(&session);
        }
    }
}

/// Looks after a session for as long as it and its provider live.
fn watch(client: Weak<Client>, session: &Arc<LockSession>) {
    let (session, ended) = (Arc::downgrade(session), session.ended());
    let watching = Watching(Weak::clone(&client), Weak::clone(&session));
    #[allow(clippy::disallowed_methods)] // it ends with the session
    tokio::spawn(async move {
        let _watching = watching;
        let mut ended = std::pin::pin!(ended);
        let clock = Clock::system();
        let mut last_heard = clock.now();
        let mut last_used = clock.now();
        loop {
            let tick = session.upgrade().map_or(WATCH, |session| (session.ttl() / 3).min(WATCH));
            tokio::select! {
                () = &mut ended => {}
                () = clock.sleep(tick) => {}
            }
            let (Some(client), Some(session)) = (client.upgrade(), session.upgrade()) else {
                return;
            };
            if session.is_ended() {
                client.lose(&session).await;
                return;
            }
            client.lapse(&session);
            if session.users() > 0 {
                last_used = clock.now();
            } else if clock.now().saturating_since(last_used) > UNUSED {
                client.sessions.retire(&session);
            }
            if session.users() == 0 || session.is_waiting() {
                // Nobody has asked it anything, or it is not to answer yet.
                last_heard = clock.now();
                continue;
            }
            let sent = clock.now();
            if session.ping(&clock, session.ttl()).await.is_ok() {
                last_heard = sent;
            } else if clock.now().saturating_since(last_heard) >= session.ttl() {
                session.cut();
            }
        }
    });
}

impl Client {
    fn key(&self, name: &LockName) -> i64 {
        self.keys.get(name).copied().unwrap_or_else(|| key(name))
    }

    async fn attempt(self: &Arc<Self>, request: &Request, waits: bool) -> Result<Option<Grant>> {
        let key = self.key(request.name());
        let (reply, answer) = oneshot::channel();
        let (replayed, seeking) = {
            let mut slots = self.slots.lock();
            let slot = slots.entry(key).or_default();
            slot.prune();
            let ours = slot.held.as_ref().filter(|held| held.request.id() == request.id());
            let ours = ours.cloned();
            let mut seeking = None;
            if ours.is_none() {
                if !waits && slot.is_taken() {
                    return Ok(None);
                }
                slot.enqueue(Waiter::new(request.clone(), waits, reply));
                if slot.held.is_none() && slot.seeker.is_none() {
                    seeking = Some(self.begin(key, slot));
                }
            }
            (ours, seeking)
        };
        if let Some(seeking) = seeking {
            seeking.start();
        }
        if let Some(held) = replayed {
            // The same grant, with a term that counts from now.
            let mut grant = held.grant(self, request.clock().now());
            grant.term = grant.lease.renew().await?;
            return Ok(Some(grant));
        }
        let left = || Error::unavailable(Applied::No, "the request was withdrawn");
        tokio::select! {
            biased;
            answer = answer => answer.unwrap_or_else(|_| Err(left())),
            // One that waits is told by the task that asks the server.
            () = request.clock().sleep(call_limit(request.ttl())), if !waits => {
                let silence = "PostgreSQL gave no answer in time";
                Err(Error::unavailable(Applied::Maybe, silence))
            }
        }
    }

    async fn leave(self: &Arc<Self>, request: &Request) -> Result<()> {
        let key = self.key(request.name());
        let (held, seeker, is_last) = {
            let mut slots = self.slots.lock();
            let Some(slot) = slots.get_mut(&key) else { return Ok(()) };
            slot.leave(request.id());
            slot.prune();
            let held = slot.held.clone().filter(|held| held.request.id() == request.id());
            let seeker = slot.seeker.clone().filter(|_| !slot.is_waited_for());
            (held, seeker, slot.queue.is_empty())
        };
        if let Some(held) = held {
            return match self.release(&held).await {
                Ok(()) => Ok(()),
                Err(Error::Lost { .. }) => self.gone(&held).await,
                Err(error) => Err(error),
            };
        }
        let Some(seeker) = seeker else { return Ok(()) };
        let mut rounds = seeker.rounds.subscribe();
        rounds.mark_unchanged();
        seeker.left.notify_one();
        drop(seeker);
        if !is_last {
            return Ok(());
        }
        // What the server was asked for is for nobody now: wait until it is undone.
        tokio::select! {
            // An error says that the task has ended.
            _ = rounds.changed() => Ok(()),
            () = request.clock().sleep(call_limit(request.ttl())) => {
                let silence = "PostgreSQL did not undo the request in time";
                Err(Error::unavailable(Applied::Maybe, silence))
            }
        }
    }
}

/// What this strategy promises.
pub(crate) fn declared() -> Guarantees {
    let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Connection(TtlRange::ANY));
    guarantees.wake_up = WakeUp::Push;
    guarantees.token_survives.server_restart = true;
    guarantees.belief_breaks_on = &[
        "a pause between a check and its use that outlasts the margin",
        "a failover to a standby",
    ];
    guarantees
}

#[async_trait]
impl LockProvider for Advisory {
    fn guarantees(&self) -> Guarantees {
        declared()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.0.attempt(request, false).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let granted = self.0.attempt(request, true).await?;
        granted.ok_or_else(|| Error::unavailable(Applied::No, "a waiter was turned away"))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.leave(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    async fn close(&self) -> Result<()> {
        self.0.wake.close();
        self.0.sessions.close();
        Ok(())
    }
}
