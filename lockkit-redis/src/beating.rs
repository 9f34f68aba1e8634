//! The task by which a client with waiters lives in the server: one heartbeat for all of them.
//!
//! A client is *idle* (no task), or *beating*. An acquire that waits proves life by itself, and starts the task;
//! ten seconds without a waiter end it. A beat tells the server that the client lives, and learns which of the
//! awaited names are free, expire soon, or are granted to a request that has not heard of it. It never grants by
//! itself: a request that it concerns asks the server again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lockkit_core::kit::{Alive, call_limit};
use lockkit_core::{Clock, Family, Instant, LockName, Result};

use crate::protocol::{LIFE, Seen, UNHEARD, beaten, key_of, reading};
use crate::scripts::BEAT;
use crate::shared::{Shared, now};

/// How often a client beats: a grant that it has not heard of must last longer.
pub(crate) const BEAT_EVERY: Duration = Duration::from_millis(300);
/// An expiry within this time is told by a beat.
pub(crate) const SOON: Duration = Duration::from_millis(450);
/// How long a client without waiters goes on.
const IDLE: Duration = Duration::from_secs(10);
/// How many names one beat asks about.
const NAMES: usize = 1_000;

/// Beats until the client is closed, or no request has waited for a while.
pub(crate) async fn serve(mut alive: Alive, shared: Arc<Shared>) {
    tokio::select! {
        () = beat_on(&shared) => {}
        () = alive.stopped() => {}
    }
}

async fn beat_on(shared: &Shared) {
    let awaited = &shared.awaited;
    // Since when every waiter has been asked about without a gap: it came later, or each beat was answered.
    let mut since = now();
    let (mut next, mut idle_since) = (since, since);
    loop {
        let now = now();
        if awaited.is_empty() {
            (since, next) = (now, now.saturating_add(BEAT_EVERY));
            if now.saturating_since(idle_since) >= IDLE {
                return;
            }
        } else {
            idle_since = now;
            if now >= next {
                next = now.saturating_add(BEAT_EVERY);
                shared.withdraw_left().await;
                if beat(shared, awaited.names()).await {
                    let gap = self::now().saturating_since(since);
                    since = now;
                    // A grant that no request heard of may have come and gone, or the client its places.
                    let most = most(shared);
                    if awaited.shortest_ttl().is_some_and(|ttl| ttl.min(most) <= gap) {
                        shared.ask_those(|request| request.ttl().min(most) <= gap);
                    }
                }
                continue;
            }
            let due = awaited.take_due(now);
            if !due.is_empty() {
                beat(shared, due).await;
                continue;
            }
        }
        let until = awaited.next_due().map_or(next, |due| due.min(next));
        tokio::select! {
            () = Clock::system().sleep_until(until) => {}
            () = awaited.sooner() => {}
        }
    }
}

/// The longest gap between two beats that needs no question: a client that does not listen gets short grants, and
/// one that does may lose its places after a whole life.
fn most(shared: &Shared) -> Duration {
    if shared.listens.load(Ordering::SeqCst) { LIFE / 2 } else { UNHEARD }
}

/// Beats, and asks about these names, locks before semaphores; whether all was answered.
async fn beat(shared: &Shared, mut names: Vec<LockName>) -> bool {
    names.sort_unstable_by_key(LockName::family);
    for names in names.chunks(NAMES) {
        match ask(shared, names).await {
            Ok((was_alive, seen)) => {
                if !was_alive {
                    // Counted as dead, they may have lost their places.
                    shared.ask_all();
                }
                let answered = now();
                seen.iter().for_each(|lock| learn(shared, names, lock, answered));
            }
            Err(error) => {
                tracing::debug!(target: "lockkit", event = "beat_failed", error = %error);
                // Each of them learns why, and tells its caller.
                shared.ask_all();
                return false;
            }
        }
    }
    true
}

async fn ask(shared: &Shared, names: &[LockName]) -> Result<(bool, Vec<Seen>)> {
    let keys: Vec<_> = names.iter().map(|name| key_of(&shared.prefix, name)).collect();
    let keys: Vec<_> = keys.iter().map(String::as_str).collect();
    let locks = names.partition_point(|name| name.family() == Family::Lock).to_string();
    let (clock, soon) = (Clock::system(), SOON.as_millis().to_string());
    let sent = clock.now();
    let reading = reading(sent);
    let args = [&*shared.address, &reading, &soon, &locks];
    let answered = shared.commands.script(&clock, call_limit(LIFE), &BEAT, &keys, &args).await;
    let beaten = beaten(&answered.value?)?;
    shared.heard.note(sent);
    Ok(beaten)
}

fn learn(shared: &Shared, names: &[LockName], lock: &Seen, answered: Instant) {
    let Some(name) = names.get(lock.number) else { return };
    if let Some(id) = lock.holder {
        shared.ask_one(id);
    }
    if let Some(left) = lock.expires_in {
        // A little later than the server said: its clock and ours round differently.
        let after = answered.saturating_add(left + Duration::from_millis(1));
        shared.awaited.ask_at(name, after);
    }
    if lock.is_free {
        shared.ask_those(|request| request.name() == name);
    }
}
