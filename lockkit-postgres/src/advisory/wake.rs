//! Wake-ups for those that wait, and for whom no session is left to wait on.
//!
//! Each of them has a mark in the server: a shared lock of its own, in the space of two-part keys.
//! Whoever releases a lock and finds its mark there notifies.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lockkit_core::kit::{Alive, Backoff, Service};
use lockkit_core::{Clock, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;

use super::budget::Reserved;
use crate::listener::{FIRST_PAUSE, Heard, LONGEST_PAUSE, Listener, PROBE};

const CHANNEL: &str = "lockkit_free";
/// After this many milliseconds the server ends a listener that is stopped.
const STOPPED: &str = "30000";
/// How soon a mark is tried again that a release was just looking at.
const AGAIN: Duration = Duration::from_millis(20);
/// How long the connection is kept when nobody wishes anything.
const UNUSED: Duration = Duration::from_secs(10);
/// Keeps our marks apart from two-part keys of others.
const SALT: [u32; 2] = [0x6c6f_636b, 0x6b69_7421];

#[derive(Debug, Default)]
pub(super) struct Wake {
    wishes: Mutex<HashMap<i64, Arc<Notify>>>,
    changed: Notify,
    listening: Service,
    closed: AtomicBool,
}

/// To be told of the release of a lock, until dropped.
#[derive(Debug)]
pub(super) struct Wish {
    wake: Arc<Wake>,
    key: i64,
    told: Arc<Notify>,
    /// Its mark is a lock too.
    _reserved: Reserved,
}

impl Wish {
    pub(super) async fn told(&self) {
        self.told.notified().await;
    }
}

impl Drop for Wish {
    fn drop(&mut self) {
        let mut wishes = self.wake.wishes();
        if wishes.get(&self.key).is_some_and(|told| Arc::ptr_eq(told, &self.told)) {
            wishes.remove(&self.key);
        }
        drop(wishes);
        self.wake.changed.notify_one();
    }
}

impl Wake {
    pub(super) fn wish(self: &Arc<Self>, key: i64, reserved: Reserved) -> Wish {
        let told = Arc::new(Notify::new());
        self.wishes().insert(key, Arc::clone(&told));
        self.changed.notify_one();
        Wish { wake: Arc::clone(self), key, told, _reserved: reserved }
    }

    /// Listens in the current runtime, for as long as somebody wishes it, unless somebody does.
    pub(super) fn listen(self: &Arc<Self>, options: &PgConnectOptions) -> Result<()> {
        self.listening.ensure(|alive| {
            let options = options.clone().options([("idle_session_timeout", STOPPED)]);
            listen(alive, Arc::downgrade(self), options)
        })
    }

    /// Ends the listening.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.changed.notify_one();
    }

    fn is_wished(&self) -> bool {
        !self.closed.load(Ordering::SeqCst) && !self.wishes().is_empty()
    }

    fn tell(&self, key: i64) {
        if let Some(told) = self.wishes().get(&key) {
            told.notify_one();
        }
    }

    fn wishes(&self) -> MutexGuard<'_, HashMap<i64, Arc<Notify>>> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Listens again and again, as long as a lock is wished.
async fn listen(_alive: Alive, wake: Weak<Wake>, options: PgConnectOptions) {
    let mut backoff = Backoff::new(FIRST_PAUSE, LONGEST_PAUSE);
    while wake.upgrade().is_some_and(|wake| wake.is_wished()) {
        if let Some(listener) = Listener::open(&options, CHANNEL).await {
            serve(&wake, listener).await;
            backoff.reset();
        }
        backoff.pause().await;
    }
}

/// Marks what is wished, and passes on what is heard, until nobody wishes anything for long.
async fn serve(wake: &Weak<Wake>, mut listener: Listener) {
    let clock = Clock::system();
    let (mut marked, mut last_wished) = (HashSet::new(), clock.now());
    while let Some(wake) = wake.upgrade() {
        if wake.closed.load(Ordering::SeqCst) {
            return;
        }
        let wished: HashSet<i64> = wake.wishes().keys().copied().collect();
        if !wished.is_empty() {
            last_wished = clock.now();
        } else if clock.now().saturating_since(last_wished) > UNUSED {
            return;
        }
        for key in marked.difference(&wished).copied().collect::<Vec<_>>() {
            let [first, second] = mark(key);
            let unmark = format!("SELECT pg_advisory_unlock_shared({first}, {second})");
            if listener.ask(unmark).await.is_none() {
                return;
            }
            marked.remove(&key);
        }
        for key in wished.difference(&marked).copied().collect::<Vec<_>>() {
            let [first, second] = mark(key);
            let sql = format!("SELECT pg_try_advisory_lock_shared({first}, {second})");
            match listener.ask(sql).await {
                Some(true) => {
                    marked.insert(key);
                    // It may have been released before.
                    wake.tell(key);
                }
                Some(false) => {}
                None => return,
            }
        }
        let limit = if wished.is_subset(&marked) { PROBE } else { AGAIN };
        let heard = tokio::select! {
            heard = listener.hear(limit) => heard,
            () = wake.changed.notified() => continue,
        };
        match heard {
            Heard::Message(key) => key.parse().into_iter().for_each(|key| wake.tell(key)),
            Heard::Silence if listener.lives().await => {}
            Heard::Silence | Heard::End => return,
        }
    }
}

/// The mark of those who wait beside a lock.
fn mark(key: i64) -> [i32; 2] {
    let key = key.cast_unsigned();
    let half = |shift: u32| u32::try_from(key >> shift & u64::from(u32::MAX)).unwrap_or_default();
    [half(32) ^ SALT[0], half(0) ^ SALT[1]].map(u32::cast_signed)
}

/// Frees a lock, and tells those who wait beside it.
pub(super) fn unlock(key: i64) -> String {
    let [first, second] = mark(key);
    // A subquery that is evaluated first: whoever sets a mark afterwards finds the lock free.
    format!(
        "SELECT unlocked, CASE WHEN NOT pg_try_advisory_xact_lock({first}, {second}) \
         THEN pg_notify('{CHANNEL}', '{key}')::text END \
         FROM (SELECT pg_advisory_unlock({key}) AS unlocked OFFSET 0) u"
    )
}

/// The condition that a row of `pg_locks` is such a mark.
pub(super) fn of_mark(key: i64) -> String {
    let [first, second] = mark(key).map(i32::cast_unsigned);
    format!(
        "locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = \
         current_database()) AND objsubid = 2 AND classid::bigint = {first} AND objid::bigint = {second}"
    )
}
