//! What the calls of a client and the task that beats for them share: the waiters' names and ttls, and the last beats.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::kit::{Awaited, Mailbox, Requests, Waits};
use lockkit_core::{Clock, Instant, LockName, Request, RequestId};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{Notify, watch};

use super::pool::Pool;

/// The longest time for which a client may be silent before its waiters count as dead.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(3);
/// How often a name is looked at of which nothing is known.
const POKE: Duration = Duration::from_secs(3);
/// How many beats' times are kept: a grant names one of the last.
const KEPT: usize = 64;

/// A grant that the server told without being asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) token: u64,
    /// When the beat was sent from which the server counts the term.
    pub(super) sent: Instant,
}

/// What the calls share with the task that beats.
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) schema: String,
    /// The server's, for errors.
    pub(super) address: Arc<str>,
    /// How one connects to listen; `None` behind a pooler.
    pub(super) listener: Option<PgConnectOptions>,
    pub(super) waiters: Arc<Requests<Mailbox<Granted>>>,
    pub(super) beats: Beats,
    /// The longest ttl whose grants are not flushed.
    pub(super) barrier: Duration,
}

/// The waiters of a client, as its task serves them.
#[derive(Debug)]
pub(super) struct Beats {
    /// Whom the server tells of grants.
    pub(super) id: RequestId,
    /// The names that are waited for, each with when it is looked at, since its holder's term is over by then.
    awaited: Awaited,
    state: Mutex<State>,
    /// The life of the last acknowledged beat; `None` unless the client is beating.
    life: watch::Sender<Option<Duration>>,
    /// Told when there is a waiter more.
    entered: Notify,
    /// How many requests hold, and want to hear of the end of that.
    held: AtomicUsize,
    /// The number of the connection that hears what the server tells; `None` while there is none.
    listening: watch::Sender<Option<u64>>,
}

#[derive(Debug, Default)]
struct State {
    beat: u64,
    /// The last beats, each with when it was sent.
    sent: VecDeque<(u64, Instant)>,
    /// What the server said last of waiters that it took out of a queue.
    lost: u64,
    /// How many connections have listened so far.
    connections: u64,
}

/// A request that waits, or is about to; its client beats for as long as this lives.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    beats: &'a Beats,
    request: &'a Request,
    _waits: Waits<'a>,
}

/// A request that holds; its client listens for as long as this lives.
#[derive(Debug)]
pub(super) struct Holder<'a> {
    beats: &'a Beats,
    listening: watch::Receiver<Option<u64>>,
    /// The connection that has listened since before the server was asked last.
    asked_since: Option<u64>,
}

fn now() -> Instant {
    Clock::system().now()
}

/// For how long a client may be silent with waiters of this ttl: a grant counts from its last beat, and
/// must have most of its ttl left.
fn life_of(ttl: Duration) -> Duration {
    (ttl / 2).min(LONGEST_LIFE)
}

impl Beats {
    pub(super) fn new(id: RequestId) -> Self {
        let (awaited, state, entered, held) = Default::default();
        let (life, listening) = (watch::Sender::new(None), watch::Sender::new(None));
        Self { id, awaited, state, life, entered, held, listening }
    }

    pub(super) fn channel(&self) -> String {
        format!("lockkit_{}", self.id)
    }

    pub(super) fn enter<'a>(&'a self, request: &'a Request) -> Waiter<'a> {
        let waits = self.awaited.enter(request);
        self.awaited.ask_at(request.name(), now().saturating_add(POKE));
        self.entered.notify_one();
        Waiter { beats: self, request, _waits: waits }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life that the waiters need, and when the first name is looked at; `None` without waiters.
    pub(super) fn plan(&self) -> (Duration, Option<Instant>) {
        let life = self.awaited.shortest_ttl().map_or(LONGEST_LIFE, life_of);
        // A waiter that has just entered has no instant yet.
        let due = || self.awaited.next_due().unwrap_or_else(|| now().saturating_add(POKE));
        (life, (!self.awaited.is_empty()).then(due))
    }

    /// The number of a beat that is sent now, and what the server said last of waiters that it took out.
    pub(super) fn next(&self) -> (u64, u64) {
        let mut state = self.state();
        state.beat += 1;
        let number = state.beat;
        state.sent.push_back((number, now()));
        if state.sent.len() > KEPT {
            state.sent.pop_front();
        }
        (number, state.lost)
    }

    /// A request holds from now on, until this is dropped.
    pub(super) fn hold(&self) -> Holder<'_> {
        self.held.fetch_add(1, Ordering::SeqCst);
        Holder { beats: self, listening: self.listening.subscribe(), asked_since: None }
    }

    pub(super) fn is_held(&self) -> bool {
        self.held.load(Ordering::SeqCst) > 0
    }

    /// What the server tells is heard from now on, over a new connection.
    pub(super) fn hears(&self) {
        let number = {
            let mut state = self.state();
            state.connections += 1;
            state.connections
        };
        self.listening.send_replace(Some(number));
    }

    /// What the server tells is heard no more.
    pub(super) fn is_deaf(&self) {
        self.listening.send_replace(None);
    }

    /// The server has acknowledged a beat of this life, and says this of waiters that it took out.
    pub(super) fn acknowledged(&self, life: Duration, lost: u64) {
        self.state().lost = lost;
        self.life.send_replace(Some(life));
    }

    /// The server knows no more that the client lives.
    pub(super) fn silent(&self) {
        self.life.send_replace(None);
    }

    /// The life of the last acknowledged beat.
    pub(super) fn life(&self) -> Option<Duration> {
        *self.life.borrow()
    }

    /// The names whose holders' terms are over by now; they are looked at again after a while.
    pub(super) fn due(&self) -> Vec<LockName> {
        let now = now();
        let due = self.awaited.take_due(now);
        due.iter().for_each(|name| self.awaited.ask_at(name, now.saturating_add(POKE)));
        due
    }

    /// Of these names, the first holder's term is over after this.
    pub(super) fn look_at(&self, names: &[LockName], after: Duration) {
        let due = now().saturating_add(after + Duration::from_millis(1));
        names.iter().for_each(|name| self.awaited.ask_at(name, due));
    }

    /// Completes when there is a waiter more, or a name to be looked at sooner.
    pub(super) async fn changed(&self) {
        tokio::select! {
            () = self.entered.notified() => {}
            () = self.awaited.sooner() => {}
        }
    }

    /// When the client sent this beat.
    pub(super) fn sent_at(&self, beat: u64) -> Option<Instant> {
        self.state().sent.iter().find(|(number, _)| *number == beat).map(|(_, at)| *at)
    }
}

impl Holder<'_> {
    /// Completes with a connection that has begun to listen since the server was asked last: what was told before, it
    /// has not heard.
    pub(super) async fn new_connection(&mut self) -> Option<u64> {
        let asked_since = self.asked_since;
        let is_new = |number: &Option<u64>| number.is_some() && *number != asked_since;
        // The sender lives as long as this.
        *self.listening.wait_for(is_new).await.ok()?
    }

    /// The server was asked, and whatever it tells later comes over this connection.
    pub(super) const fn asked(&mut self, connection: Option<u64>) {
        self.asked_since = connection;
    }
}

impl Drop for Holder<'_> {
    fn drop(&mut self) {
        self.beats.held.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Waiter<'_> {
    /// Whether the server knows that the client lives, by a beat that is good for this ttl.
    pub(super) fn is_beating(&self) -> bool {
        self.beats.life().is_some_and(|life| life <= life_of(self.request.ttl()))
    }

    /// Completes once it knows.
    pub(super) async fn beating(&self) {
        let mut life = self.beats.life.subscribe();
        let is_enough =
            |life: &Option<Duration>| life.is_some_and(|life| life <= life_of(self.request.ttl()));
        // The sender lives as long as this.
        life.wait_for(is_enough).await.ok();
    }

    /// The name is looked at again after this.
    pub(super) fn look_in(&self, after: Duration) {
        self.beats.look_at(std::slice::from_ref(self.request.name()), after);
    }
}
