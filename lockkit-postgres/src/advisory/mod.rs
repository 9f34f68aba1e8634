//! Strategy "advisory": session-level locks, on sessions that the server ends when they fall silent.

mod budget;
mod lease;
mod seek;
mod sessions;
mod slots;

use std::collections::HashMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::{
    Applied, Clock, Error, Exclusion, Expiry, Grant, Guarantees, LockName, LockProvider,
    LossReason, Operator, Request, Result, TtlRange, WakeUp,
};
use tokio::sync::oneshot;

use crate::PostgresConfig;
use crate::connection::{LIMIT, PATIENCE, Session};
use crate::error::is_ended_by_server;
use crate::protocol::key;
use crate::setup::look_around;
use budget::Budget;
use lease::{Held, Life, State};
use sessions::{LockSession, Sessions};
use slots::{Seeker, Slots, Waiter};

/// How soon the end of a session that holds something is seen, at the latest.
const WATCH: Duration = Duration::from_millis(500);

/// How many tokens are fetched at once for those who wait here: the lock then goes from hand to hand
/// without the server, for as long as it has just been heard of.
const BATCH: usize = 32;

/// How long a session is kept that nobody uses.
const UNUSED: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(crate) struct Advisory(Arc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    sessions: Sessions,
    slots: Slots,
    budget: Arc<Budget>,
    schema: String,
    keys: HashMap<LockName, i64>,
    token_base: u64,
}

/// How long one call may take: sooner than the driver turns away (a third, 2 s).
fn call_limit(ttl: Duration) -> Duration {
    (ttl * 3 / 10).clamp(LIMIT / 20, LIMIT * 9 / 10)
}

impl Advisory {
    pub(crate) async fn connect(config: PostgresConfig) -> Result<Self> {
        let session = Session::open(&config.options, PATIENCE).await?;
        let server = look_around(&config, &session).await?;
        drop(session);
        let inner = Arc::new_cyclic(|inner: &Weak<Inner>| {
            let inner = Weak::clone(inner);
            let watch = move |session: &Arc<LockSession>| watch(Weak::clone(&inner), session);
            Inner {
                sessions: Sessions::new(
                    &config.options,
                    &config.schema,
                    config.connections,
                    Box::new(watch),
                ),
                slots: Slots::default(),
                budget: Arc::new(Budget::new(config.budget, server.lock_table, server.locks)),
                schema: config.schema,
                keys: config.keys,
                token_base: config.token_base,
            }
        });
        inner.sessions.warm().await?;
        Ok(Self(inner))
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

impl Drop for Inner {
    fn drop(&mut self) {
        self.sessions.close();
    }
}

/// Looks after a session for as long as it and its provider live.
fn watch(inner: Weak<Inner>, session: &Arc<LockSession>) {
    let (session, ended) = (Arc::downgrade(session), session.ended());
    #[allow(clippy::disallowed_methods)] // it ends with the session
    tokio::spawn(async move {
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
            let (Some(inner), Some(session)) = (inner.upgrade(), session.upgrade()) else { return };
            if session.is_ended() {
                inner.lose(&session).await;
                return;
            }
            inner.lapse(&session);
            if session.users() > 0 {
                last_used = clock.now();
            } else if clock.now().saturating_since(last_used) > UNUSED {
                inner.sessions.retire(&session);
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

impl Inner {
    fn key(&self, name: &LockName) -> i64 {
        self.keys.get(name).copied().unwrap_or_else(|| key(name))
    }

    async fn attempt(self: &Arc<Self>, request: &Request, waits: bool) -> Result<Option<Grant>> {
        let key = self.key(request.name());
        let (reply, answer) = oneshot::channel();
        let replayed = {
            let mut slots = self.slots.lock();
            let slot = slots.entry(key).or_default();
            slot.prune();
            let ours = slot.held.as_ref().filter(|held| held.request.id() == request.id());
            let ours = ours.cloned();
            if ours.is_none() {
                if !waits && slot.is_taken() {
                    return Ok(None);
                }
                let asked = request.clock().now();
                let (request, replies) = (request.clone(), vec![reply]);
                slot.enqueue(Waiter { request, waits, asked, replies });
                if slot.held.is_none() && slot.seeker.is_none() {
                    let seeker = Arc::new(Seeker::default());
                    slot.seeker = Some(Arc::clone(&seeker));
                    self.seek(key, seeker);
                }
            }
            ours
        };
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
        let (held, seeker) = {
            let mut slots = self.slots.lock();
            let Some(slot) = slots.get_mut(&key) else { return Ok(()) };
            slot.leave(request.id());
            slot.prune();
            let held = slot.held.clone().filter(|held| held.request.id() == request.id());
            let seeker = slot.seeker.clone().filter(|_| slot.queue.is_empty());
            (held, seeker)
        };
        if let Some(held) = held {
            return match self.release(&held).await {
                Ok(()) => Ok(()),
                Err(Error::Lost { .. }) => self.gone(&held).await,
                Err(error) => Err(error),
            };
        }
        let Some(seeker) = seeker else { return Ok(()) };
        // What the server was asked for is for nobody now: wait until it is undone.
        let mut rounds = seeker.rounds.subscribe();
        rounds.mark_unchanged();
        seeker.left.notify_one();
        drop(seeker);
        tokio::select! {
            // An error says that the task has ended.
            _ = rounds.changed() => Ok(()),
            () = request.clock().sleep(call_limit(request.ttl())) => {
                let silence = "PostgreSQL did not undo the request in time";
                Err(Error::unavailable(Applied::Maybe, silence))
            }
        }
    }

    /// Waits until nothing of a lost grant is in the server.
    async fn gone(&self, held: &Arc<Held>) -> Result<()> {
        let clock = held.request.clock();
        let end = clock.now().saturating_add(call_limit(held.ttl));
        let is_there = || {
            let slots = self.slots.lock();
            let there = slots.get(&held.key).and_then(|slot| slot.held.as_ref());
            there.is_some_and(|other| Arc::ptr_eq(other, held))
        };
        while is_there() {
            if clock.now() >= end {
                let what = "the backend of a lost session may not have ended";
                return Err(Error::unavailable(Applied::Maybe, what));
            }
            clock.sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Ends a grant, within the limit of a call; what it began goes on.
    async fn release(self: &Arc<Self>, held: &Arc<Held>) -> Result<()> {
        let begins = held.state.send_if_modified(|state| {
            let begins = *state == State::Live;
            if begins {
                *state = State::Ending;
            }
            begins
        });
        let mut states = held.state.subscribe();
        if begins {
            let (inner, held) = (Arc::clone(self), Arc::clone(held));
            #[allow(clippy::disallowed_methods)] // a release goes on when its caller has left
            tokio::spawn(async move {
                let how = inner.end(&held, true).await;
                held.end(how);
            });
        }
        let ended = states.wait_for(|state| !matches!(state, State::Live | State::Ending));
        tokio::select! {
            state = ended => match state.as_deref() {
                Ok(State::Lost(reason)) => Err(Error::lost(*reason)),
                _ => Ok(()),
            },
            () = held.request.clock().sleep(call_limit(held.ttl)) => {
                let silence = "PostgreSQL gave no answer to a release in time";
                Err(Error::unavailable(Applied::Maybe, silence))
            }
        }
    }

    /// Hands the lock of an ended grant on, or gives it back to the server; what to tell of it.
    async fn end(self: &Arc<Self>, held: &Arc<Held>, was_held: bool) -> State {
        let (key, clock) = (held.key, held.request.clock());
        let Some(life) = held.life().take() else {
            return State::Lost(LossReason::SessionEnded);
        };
        let (seeker, next, goes_round) = {
            let mut slots = self.slots.lock();
            let slot = slots.entry(key).or_default();
            if slot.held.as_ref().is_none_or(|other| !Arc::ptr_eq(other, held)) {
                // It was lost, and the key is others' business.
                return State::Lost(LossReason::SessionEnded);
            }
            slot.held = None;
            slot.prune();
            let seeker = Arc::new(Seeker::default());
            slot.seeker = Some(Arc::clone(&seeker));
            let next = slot.queue.front().map(|waiter| waiter.request.clone());
            (seeker, next, slot.has_gone_round())
        };
        // From here on the seeker stands for us, so that nobody else asks the server meanwhile.
        let how = self.pass_on(key, clock, life, next, goes_round).await;
        self.go_on(key, seeker);
        match how {
            Ok(true) if was_held => State::Released,
            Ok(true) => State::Lost(LossReason::Expired),
            Ok(false) => State::Lost(LossReason::Removed),
            Err(error) if is_ended_by_server(&error) => State::Lost(LossReason::SessionEnded),
            // The connection broke, and what was left of it is gone by now.
            Err(_) => State::Released,
        }
    }

    /// Asks the server for those who wait, if there are any and nobody holds it here.
    fn go_on(self: &Arc<Self>, key: i64, seeker: Arc<Seeker>) {
        let mut slots = self.slots.lock();
        let Some(slot) = slots.get_mut(&key) else { return };
        slot.prune();
        if slot.held.is_none() && !slot.queue.is_empty() {
            return self.seek(key, seeker);
        }
        slot.seeker = None;
        if slot.is_free() {
            slots.remove(&key);
        }
    }

    /// Whether the lock was held until it was handed on or given back.
    async fn pass_on(
        self: &Arc<Self>,
        key: i64,
        clock: &Clock,
        life: Life,
        next: Option<Request>,
        goes_round: bool,
    ) -> Result<bool> {
        let goes_on = match next.filter(|_| !life.session.is_ended()) {
            Some(_) if goes_round && self.others_wait(clock, &life.session, key).await? => None,
            next => next,
        };
        if goes_round && let Some(slot) = self.slots.lock().get_mut(&key) {
            slot.begin_round();
        }
        let mut life = life;
        if let Some(next) = goes_on.filter(|next| life.session.suits(next.ttl())) {
            let token = match life.spare(next.clock().now()) {
                Some(token) => token,
                None => {
                    let count = (4 * self.slots.waiting(key)).clamp(1, BATCH);
                    let (tokens, sent) = self.tokens(&next, &life.session, count).await?;
                    (life.spare, life.heard) = (tokens, sent);
                    life.spare.pop_front().unwrap_or_default()
                }
            };
            let heard = life.heard;
            match self.give(key, life, token, heard) {
                Ok(()) => return Ok(true),
                Err(back) => life = back,
            }
        }
        self.unlock(clock, key, &life.session).await
    }

    /// Ends what lives on a session that has ended.
    async fn lose(self: &Arc<Self>, session: &Arc<LockSession>) {
        let on_it = self.held_on(session);
        for held in &on_it {
            held.end(State::Lost(LossReason::SessionEnded));
        }
        // Its backend may not know yet: until it does, it holds.
        self.sessions.bury(&Clock::system(), session).await;
        for held in on_it {
            held.life().take();
            let mut slots = self.slots.lock();
            let Some(slot) = slots.get_mut(&held.key) else { continue };
            if slot.held.as_ref().is_some_and(|other| Arc::ptr_eq(other, &held)) {
                slot.held = None;
            }
            if slot.is_free() {
                slots.remove(&held.key);
            } else if slot.held.is_none() && slot.seeker.is_none() {
                let seeker = Arc::new(Seeker::default());
                slot.seeker = Some(Arc::clone(&seeker));
                self.seek(held.key, seeker);
            }
        }
    }

    /// Gives back what is renewed no more, where others keep its session alive.
    fn lapse(self: &Arc<Self>, session: &Arc<LockSession>) {
        for held in self.held_on(session).into_iter().filter(|held| held.has_lapsed()) {
            if held.end(State::Lost(LossReason::Expired)) {
                let inner = Arc::clone(self);
                #[allow(clippy::disallowed_methods)] // a clean-up that nobody waits for
                tokio::spawn(async move { inner.end(&held, false).await });
            }
        }
    }

    fn held_on(&self, session: &Arc<LockSession>) -> Vec<Arc<Held>> {
        let slots = self.slots.lock();
        let held = slots.values().filter_map(|slot| slot.held.as_ref());
        let on_it = |held: &&Arc<Held>| {
            let life = held.life();
            life.as_ref().is_some_and(|life| Arc::ptr_eq(life.session.session(), session))
        };
        held.filter(on_it).cloned().collect()
    }
}

/// What this strategy promises.
pub(crate) fn declared() -> Guarantees {
    let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Session(TtlRange::ANY));
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
        self.0.sessions.close();
        Ok(())
    }
}
