//! The task by which a client with waiters lives in the server: beats, pokes, and the grants that it is told of.
//!
//! A client is *idle* (no task, no row), *starting* (a task connects), or *beating*: the server has
//! acknowledged a beat whose life is short enough for every waiter. A request enters the queue only while
//! its client beats, since a waiter of a client that does not beat counts as dead. A connection that ends
//! takes the client back to *starting*; the next beat takes it to *beating*, and every waiter asks again,
//! for a grant may have been told while no connection listened. Ten seconds without a waiter take it back to *idle*,
//! or, while a request holds, to *listening*: it hears of a revocation, and beats no more.

use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::{Alive, Backoff, Notice};
use lockkit_core::{Clock, Instant, LockName, LossReason, RequestId, StoreSays};

use super::beats::{Granted, LONGEST_LIFE, Shared};
use crate::line::{Heard, LIMIT, Listener, only};
use crate::protocol::{quoted, stored};

/// How long the client waits before it connects again.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// The shortest time that a beat may take: a busy server is not a dead one.
const SHORTEST_CALL: Duration = Duration::from_millis(500);
/// How long a client without waiters keeps its connection.
const IDLE: Duration = Duration::from_secs(10);

fn now() -> Instant {
    Clock::system().now()
}

/// Beats until the provider is closed, or no request has waited for a while.
pub(super) async fn serve(mut alive: Alive, shared: Arc<Shared>) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    loop {
        let connected = tokio::select! {
            connected = beat_on(&shared) => connected,
            () = alive.stopped() => break,
        };
        shared.beats.silent();
        shared.beats.is_deaf();
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
    shared.beats.silent();
    shared.beats.is_deaf();
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
enum Route {
    /// A connection of its own, which hears of grants.
    Listening(Listener),
    /// The connections for statements, behind a pooler.
    Pooled,
}

impl Route {
    /// `None`: no connection now.
    async fn open(shared: &Shared) -> Option<Self> {
        let Some(options) = &shared.listener else { return Some(Self::Pooled) };
        let listener = Listener::open(options, &shared.beats.channel(), LIMIT).await?;
        Some(Self::Listening(listener))
    }
}

async fn beat_on(shared: &Shared) -> Ended {
    let Some(mut route) = Route::open(shared).await else { return Ended::NotConnected };
    let beats = &shared.beats;
    beats.hears();
    let (mut next_beat, mut idle_since) = (now(), None);
    let mut is_first = true;
    loop {
        let now = now();
        let (life, due) = beats.plan();
        if is_first && due.is_none() {
            if let Some(ended) = listen_on(shared, &mut route).await {
                return ended;
            }
            next_beat = self::now();
            continue;
        }
        let is_shorter = life < beats.life().unwrap_or(Duration::MAX);
        if now >= next_beat || is_shorter {
            match beat(shared, &mut route, life).await {
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
                beats.silent();
                // A request that has entered by now found the client beating: its place needs the row.
                if beats.plan().1.is_some() {
                    continue;
                }
                let ended = farewell(shared, &mut route).await;
                if !beats.is_held() {
                    return ended;
                }
                (is_first, idle_since) = (true, None);
                continue;
            }
            if !wait(shared, &mut route, now.saturating_add(IDLE / 10)).await {
                return Ended::Broken;
            }
            next_beat = next_beat.min(self::now());
            continue;
        };
        idle_since = None;
        if now >= due && poke(shared, &mut route).await.is_none() {
            return Ended::Broken;
        }
        let until = beats.plan().1.unwrap_or(next_beat).min(next_beat);
        if !wait(shared, &mut route, until).await {
            return Ended::Broken;
        }
    }
}

/// Listens without a beat until a request waits; how that ended, if it has: for the requests that hold no beat is needed.
async fn listen_on(shared: &Shared, route: &mut Route) -> Option<Ended> {
    let mut idle_since = now();
    while shared.beats.plan().1.is_none() {
        let now = now();
        if shared.beats.is_held() {
            idle_since = now;
        } else if now.saturating_since(idle_since) >= IDLE {
            return Some(farewell(shared, route).await);
        }
        if !wait(shared, route, now.saturating_add(IDLE / 10)).await {
            return Some(Ended::Broken);
        }
    }
    None
}

/// Delivers what comes until then, or until something has changed; `false`: the connection has ended.
async fn wait(shared: &Shared, route: &mut Route, until: Instant) -> bool {
    let left = until.saturating_since(now());
    match route {
        Route::Listening(listener) => tokio::select! {
            biased;
            heard = listener.hear(left) => match heard {
                Heard::Message(message) => {
                    deliver(shared, &message);
                    true
                }
                Heard::Silence => true,
                Heard::End => false,
            },
            () = shared.beats.changed() => true,
        },
        Route::Pooled => {
            tokio::time::timeout(left, shared.beats.changed()).await.ok();
            true
        }
    }
}

/// Asks for one text; `None`: no answer.
async fn text(shared: &Shared, route: &mut Route, sql: String) -> Option<Option<String>> {
    let life = shared.beats.life().unwrap_or(LONGEST_LIFE);
    // Silent for a life, the client counts as dead: another connection may still save it.
    let limit = life.clamp(SHORTEST_CALL, LIMIT);
    match route {
        Route::Listening(listener) => tokio::time::timeout(limit, listener.text(sql)).await.ok()?,
        Route::Pooled => {
            let answered = shared.pool.run(&Clock::system(), limit, &sql).await.ok()?;
            Some(only(answered.rows))
        }
    }
}

/// Sends a beat; whether waiters were taken out of their queues since the last one.
async fn beat(shared: &Shared, route: &mut Route, life: Duration) -> Option<bool> {
    let beats = &shared.beats;
    let (number, lost) = beats.next();
    let (schema, id, ms) = (&shared.schema, beats.id, life.as_millis());
    let sql = format!("SELECT {schema}.beat('{id}', {number}, {ms}, {lost})");
    let said: u64 = text(shared, route, sql).await??.parse().ok()?;
    beats.acknowledged(life, said);
    Some(said != lost)
}

/// Has the server grant on the names whose holders' terms are over.
async fn poke(shared: &Shared, route: &mut Route) -> Option<()> {
    let beats = &shared.beats;
    let names: Vec<LockName> = beats.due();
    let literals: Vec<_> = names.iter().map(|name| quoted(&stored(name.as_str()))).collect();
    let schema = &shared.schema;
    let sql = format!("SELECT {schema}.poke(ARRAY[{}]::text[])", literals.join(", "));
    let soonest = text(shared, route, sql).await?;
    if let Some(after) = soonest.and_then(|ms| ms.parse().ok()).map(Duration::from_millis) {
        beats.look_at(&names, after);
    }
    Some(())
}

/// Takes the client's row away; where that fails, it is out of date in a moment.
async fn farewell(shared: &Shared, route: &mut Route) -> Ended {
    let (schema, id) = (&shared.schema, shared.beats.id);
    text(shared, route, format!("DELETE FROM {schema}.client WHERE id = '{id}'")).await;
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
