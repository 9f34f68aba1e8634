//! How a client with waiters lives in the server: beats, pokes, and the grants that it is told of.
//!
//! A client is *idle* (no task, no row), *starting* (a task connects), or *beating*: the server has
//! acknowledged a beat whose life is short enough for every waiter. A request enters the queue only while
//! its client beats, since a waiter of a client that does not beat counts as dead. A connection that ends
//! takes the client back to *starting*; the next beat takes it to *beating*, and every waiter asks again,
//! for a grant may have been told to nobody. Ten seconds without a waiter take it back to *idle*.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::kit::{Alive, Backoff, Notice};
use lockkit_core::{Clock, Instant, LockName, LossReason, Request, RequestId, StoreSays};
use tokio::sync::{Notify, watch};

use super::client::{Granted, Shared};
use crate::connection::LIMIT;
use crate::listener::{FIRST_PAUSE, Heard, LONGEST_PAUSE, Listener};
use crate::protocol::{quoted, stored};

/// The longest time for which a client may be silent before its waiters count as dead.
const LONGEST_LIFE: Duration = Duration::from_secs(3);
/// The shortest time that a beat may take: a busy server is not a dead one.
const SHORTEST_CALL: Duration = Duration::from_millis(500);
/// How often a name is looked at of which nothing is known.
const POKE: Duration = Duration::from_secs(3);
/// How long a client without waiters keeps its connection.
const IDLE: Duration = Duration::from_secs(10);
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
        Self { id, state, life, changed: Notify::new() }
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

    /// When the client sent this beat.
    fn sent_at(&self, beat: u64) -> Option<Instant> {
        self.state().sent.iter().find(|(number, _)| *number == beat).map(|(_, at)| *at)
    }
}

impl Waiter<'_> {
    /// Whether the server knows that the client lives, by a beat that is good for this ttl.
    pub(super) fn is_beating(&self) -> bool {
        self.beats.life.borrow().is_some_and(|life| life <= life_of(self.ttl))
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
        let due = now().saturating_add(after + Duration::from_millis(1));
        if let Some(waited) = self.beats.state().names.get_mut(self.name) {
            if waited.due <= due {
                return;
            }
            waited.due = due;
        }
        self.beats.changed.notify_one();
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

/// Beats until the provider is closed, or no request has waited for a while.
pub(super) async fn serve(mut alive: Alive, shared: Arc<Shared>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let connected = tokio::select! {
            connected = beat_on(&shared) => connected,
            () = alive.stopped() => break,
        };
        shared.beats.life.send_replace(None);
        match connected {
            Ended::Idle => break,
            Ended::Broken => backoff.reset(),
            Ended::NotConnected => {}
        }
        // What was said before of a holder is out of date until the server is asked again.
        for waiter in shared.waiters.in_use() {
            waiter.request().report(StoreSays::Unreachable);
        }
        tokio::select! {
            () = backoff.pause() => {}
            () = alive.stopped() => break,
        }
    }
    shared.beats.life.send_replace(None);
}

/// How the beats over one connection ended.
#[derive(Clone, Copy, Debug)]
enum Ended {
    /// No request has waited for a while.
    Idle,
    Broken,
    NotConnected,
}

/// Over what a client beats.
enum Line {
    /// A connection of its own, which hears of grants.
    Listening(Listener),
    /// The connections for statements, behind a pooler.
    Pooled,
}

async fn beat_on(shared: &Shared) -> Ended {
    let beats = &shared.beats;
    let mut line = match &shared.listener {
        Some(options) => match Listener::open(options, &beats.channel()).await {
            Some(listener) => Line::Listening(listener),
            None => return Ended::NotConnected,
        },
        None => Line::Pooled,
    };
    let (mut next_beat, mut idle_since) = (now(), None);
    let mut is_first = true;
    loop {
        let now = now();
        let (life, due) = plan(beats);
        let is_shorter = life < beats.life.borrow().unwrap_or(Duration::MAX);
        if now >= next_beat || is_shorter {
            match beat(shared, &mut line, life).await {
                Some(is_lost) if is_lost || is_first => ask_again(shared),
                Some(_) => {}
                None => return Ended::Broken,
            }
            is_first = false;
            next_beat = now.saturating_add(life / 3);
            continue;
        }
        let Some(due) = due else {
            let since = *idle_since.get_or_insert(now);
            if now.saturating_since(since) >= IDLE {
                beats.life.send_replace(None);
                // A request that has entered by now found the client beating: its place needs the row.
                if plan(beats).1.is_none() {
                    return farewell(shared, &mut line).await;
                }
                continue;
            }
            if !wait(shared, &mut line, now.saturating_add(IDLE / 10)).await {
                return Ended::Broken;
            }
            next_beat = next_beat.min(self::now());
            continue;
        };
        idle_since = None;
        if now >= due && poke(shared, &mut line).await.is_none() {
            return Ended::Broken;
        }
        let until = plan(beats).1.unwrap_or(next_beat).min(next_beat);
        if !wait(shared, &mut line, until).await {
            return Ended::Broken;
        }
    }
}

/// The life that the waiters need, and when the first name is looked at; `None` without waiters.
fn plan(beats: &Beats) -> (Duration, Option<Instant>) {
    let state = beats.state();
    let life = state.ttls.keys().next().map_or(LONGEST_LIFE, |ttl| life_of(*ttl));
    (life, state.names.values().map(|waited| waited.due).min())
}

/// Delivers what comes until then, or until something has changed; `false`: the connection has ended.
async fn wait(shared: &Shared, line: &mut Line, until: Instant) -> bool {
    let left = until.saturating_since(now());
    match line {
        Line::Listening(listener) => tokio::select! {
            biased;
            heard = listener.hear(left) => match heard {
                Heard::Message(message) => {
                    deliver(shared, &message);
                    true
                }
                Heard::Silence => true,
                Heard::End => false,
            },
            () = shared.beats.changed.notified() => true,
        },
        Line::Pooled => {
            tokio::time::timeout(left, shared.beats.changed.notified()).await.ok();
            true
        }
    }
}

/// Asks for one text; `None`: no answer.
async fn text(shared: &Shared, line: &mut Line, sql: String) -> Option<Option<String>> {
    let life = shared.beats.life.borrow().unwrap_or(LONGEST_LIFE);
    // Silent for a life, the client counts as dead: another connection may still save it.
    let limit = life.clamp(SHORTEST_CALL, LIMIT);
    match line {
        Line::Listening(listener) => tokio::time::timeout(limit, listener.text(sql)).await.ok()?,
        Line::Pooled => {
            let answered = shared.pool.run(&Clock::system(), limit, &sql).await.ok()?;
            Some(answered.rows.into_iter().next().and_then(|row| row.into_iter().next()?))
        }
    }
}

/// Sends a beat; whether waiters were taken out of their queues since the last one.
async fn beat(shared: &Shared, line: &mut Line, life: Duration) -> Option<bool> {
    let beats = &shared.beats;
    let (number, lost) = {
        let mut state = beats.state();
        state.beat += 1;
        let number = state.beat;
        state.sent.push_back((number, now()));
        if state.sent.len() > KEPT {
            state.sent.pop_front();
        }
        (number, state.lost)
    };
    let (schema, id, ms) = (&shared.schema, beats.id, life.as_millis());
    let sql = format!("SELECT {schema}.beat('{id}', {number}, {ms}, {lost})");
    let said: u64 = text(shared, line, sql).await??.parse().ok()?;
    beats.state().lost = said;
    beats.life.send_replace(Some(life));
    Some(said != lost)
}

/// Has the server grant on the names whose holders' terms are over.
async fn poke(shared: &Shared, line: &mut Line) -> Option<()> {
    let beats = &shared.beats;
    let names: Vec<LockName> = {
        let (mut state, now) = (beats.state(), now());
        let due = state.names.iter_mut().filter(|(_, waited)| waited.due <= now);
        due.map(|(name, waited)| {
            waited.due = now.saturating_add(POKE);
            name.clone()
        })
        .collect()
    };
    let literals: Vec<_> = names.iter().map(|name| quoted(&stored(name.as_str()))).collect();
    let (schema, barrier) = (&shared.schema, shared.barrier.as_millis());
    let sql = format!("SELECT {schema}.poke(ARRAY[{}]::text[], {barrier})", literals.join(", "));
    let soonest = text(shared, line, sql).await?;
    if let Some(after) = soonest.and_then(|ms| ms.parse().ok()).map(Duration::from_millis) {
        let due = now().saturating_add(after + Duration::from_millis(1));
        let mut state = beats.state();
        for name in &names {
            if let Some(waited) = state.names.get_mut(name) {
                waited.due = waited.due.min(due);
            }
        }
    }
    Some(())
}

/// Takes the client's row away; where that fails, it is out of date in a moment.
async fn farewell(shared: &Shared, line: &mut Line) -> Ended {
    let (schema, id) = (&shared.schema, shared.beats.id);
    text(shared, line, format!("DELETE FROM {schema}.client WHERE id = '{id}'")).await;
    Ended::Idle
}

fn ask_again(shared: &Shared) {
    for waiter in shared.waiters.in_use() {
        waiter.data().post(Notice::Ask);
    }
}

/// A message: `grant <request> <token> <beat>`, or `lost <request>`.
fn deliver(shared: &Shared, message: &str) {
    let mut words = message.split(' ');
    let (Some(what), Some(id)) = (words.next(), words.next()) else { return };
    let Ok(id) = u128::from_str_radix(&id.replace('-', ""), 16) else { return };
    let Some(waiter) = shared.waiters.find(RequestId::from_bytes(id.to_be_bytes())) else { return };
    let mut number = || words.next()?.parse::<u64>().ok();
    let notice = match what {
        "lost" => Notice::Lost(LossReason::Revoked),
        "grant" => match (number(), number().and_then(|beat| shared.beats.sent_at(beat))) {
            (Some(token), Some(sent)) => Notice::Granted(Granted { token, sent }),
            // A beat of long ago: the server tells more.
            _ => Notice::Ask,
        },
        _ => return,
    };
    waiter.data().post(notice);
}
