//! What the waiters of a client and the task that beats for them share: names, ttls, and the last beats.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Clock, Instant, LockName, Request, RequestId};
use tokio::sync::{Notify, watch};

/// The longest time for which a client may be silent before its waiters count as dead.
pub(super) const LONGEST_LIFE: Duration = Duration::from_secs(3);
/// How often a name is looked at of which nothing is known.
const POKE: Duration = Duration::from_secs(3);
/// How many beats' times are kept: a grant names one of the last.
const KEPT: usize = 64;

/// What the waiters of a client and its task share.
#[derive(Debug)]
pub(super) struct Beats {
    /// Whom the server tells of grants.
    pub(super) id: RequestId,
    state: Mutex<State>,
    /// The life of the last acknowledged beat; `None` unless the client is beating.
    life: watch::Sender<Option<Duration>>,
    /// Told when there is a waiter more, or a name to be looked at sooner.
    changed: Notify,
    /// How many requests hold, and want to hear of the end of that.
    held: AtomicUsize,
    /// The number of the connection that hears what the server tells; `None` while there is none.
    listening: watch::Sender<Option<u64>>,
}

#[derive(Debug, Default)]
struct State {
    names: HashMap<LockName, Waited>,
    /// The waiters' ttls, each with how many have it.
    ttls: BTreeMap<Duration, usize>,
    beat: u64,
    /// The last beats, each with when it was sent.
    sent: VecDeque<(u64, Instant)>,
    /// What the server said last of waiters that it took out of a queue.
    lost: u64,
    /// How many connections have listened so far.
    connections: u64,
}

/// A name that is waited for.
#[derive(Debug)]
struct Waited {
    count: usize,
    /// When it is looked at, since its holder's term is over by then.
    due: Instant,
}

/// A request that waits, or is about to; its client beats for as long as this lives.
#[derive(Debug)]
pub(super) struct Waiter<'a> {
    beats: &'a Beats,
    name: &'a LockName,
    ttl: Duration,
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
        let (state, life) = (Mutex::default(), watch::Sender::new(None));
        let (held, listening) = (AtomicUsize::new(0), watch::Sender::new(None));
        Self { id, state, life, changed: Notify::new(), held, listening }
    }

    pub(super) fn channel(&self) -> String {
        format!("lockkit_{}", self.id)
    }

    pub(super) fn enter<'a>(&'a self, request: &'a Request) -> Waiter<'a> {
        let (name, ttl) = (request.name(), request.ttl());
        let mut state = self.state();
        *state.ttls.entry(ttl).or_default() += 1;
        let due = now().saturating_add(POKE);
        state.names.entry(name.clone()).or_insert(Waited { count: 0, due }).count += 1;
        drop(state);
        self.changed.notify_one();
        Waiter { beats: self, name, ttl }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The life that the waiters need, and when the first name is looked at; `None` without waiters.
    pub(super) fn plan(&self) -> (Duration, Option<Instant>) {
        let state = self.state();
        let life = state.ttls.keys().next().map_or(LONGEST_LIFE, |ttl| life_of(*ttl));
        (life, state.names.values().map(|waited| waited.due).min())
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
        let (mut state, now) = (self.state(), now());
        let due = state.names.iter_mut().filter(|(_, waited)| waited.due <= now);
        due.map(|(name, waited)| {
            waited.due = now.saturating_add(POKE);
            name.clone()
        })
        .collect()
    }

    /// Of these names, the first holder's term is over after this; whether one is looked at sooner now.
    pub(super) fn look_at(&self, names: &[LockName], after: Duration) -> bool {
        let due = now().saturating_add(after + Duration::from_millis(1));
        let mut state = self.state();
        let mut is_sooner = false;
        for name in names {
            if let Some(waited) = state.names.get_mut(name).filter(|waited| due < waited.due) {
                waited.due = due;
                is_sooner = true;
            }
        }
        is_sooner
    }

    /// Completes when there is a waiter more, or a name to be looked at sooner.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
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
        self.beats.life().is_some_and(|life| life <= life_of(self.ttl))
    }

    /// Completes once it knows.
    pub(super) async fn beating(&self) {
        let mut life = self.beats.life.subscribe();
        let is_enough =
            |life: &Option<Duration>| life.is_some_and(|life| life <= life_of(self.ttl));
        // The sender lives as long as this.
        life.wait_for(is_enough).await.ok();
    }

    /// The name is looked at again after this.
    pub(super) fn look_in(&self, after: Duration) {
        if self.beats.look_at(std::slice::from_ref(self.name), after) {
            self.beats.changed.notify_one();
        }
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        let mut state = self.beats.state();
        if let Some(count) = state.ttls.get_mut(&self.ttl) {
            *count -= 1;
            if *count == 0 {
                state.ttls.remove(&self.ttl);
            }
        }
        if let Some(waited) = state.names.get_mut(self.name) {
            waited.count -= 1;
            if waited.count == 0 {
                state.names.remove(self.name);
            }
        }
    }
}
