//! Ways to take a name on one Redis: lockkit's, its peers', and the least that any lock does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use lockkit_core::Locks;
use redis::aio::MultiplexedConnection;
use rlock::AcquireOptions;
use rlock::async_lock::RLock;
use rslock::LockManager;

const TTL: Duration = Duration::from_secs(10);
/// How long those wait that have no queue; rslock's own default is up to 200 ms, rlock's 100 ms.
pub(crate) const POLL: Duration = Duration::from_millis(5);

/// A way to take a name and give it back; one per task, as its crate wants it to be shared.
#[derive(Clone)]
pub(crate) enum Way {
    Lockkit(Locks),
    /// Several clients, as several processes have them; each task uses one.
    Clients(Vec<Locks>),
    Floor(MultiplexedConnection),
    Rslock(LockManager),
    Rlock(Arc<RLock>, Duration),
}

static IDS: AtomicU64 = AtomicU64::new(0);

impl Way {
    /// This crate's peers, as they are and with this pause between two attempts.
    pub(crate) async fn peers(url: &str, pause: Duration) -> [Self; 4] {
        let mut eager = LockManager::new(vec![url.to_owned()]);
        eager.set_retry(u32::MAX, pause);
        let rlock = Arc::new(RLock::new(url.to_owned()).await.unwrap());
        [
            Self::Rslock(LockManager::new(vec![url.to_owned()])),
            Self::Rslock(eager),
            Self::Rlock(Arc::clone(&rlock), Duration::from_millis(100)),
            Self::Rlock(rlock, pause),
        ]
    }

    /// What the task with this number uses.
    pub(crate) fn of_task(&self, number: usize) -> Self {
        match self {
            Self::Clients(clients) => Self::Lockkit(clients[number % clients.len()].clone()),
            way => way.clone(),
        }
    }

    /// Acquires and releases once.
    pub(crate) async fn cycle(&mut self, name: &str) {
        match self {
            Self::Lockkit(locks) => {
                let guard = locks.lock(name).ttl(TTL).acquire().await.unwrap();
                guard.release().await.unwrap();
            }
            Self::Clients(_) => unreachable!("each task has one of them"),
            Self::Floor(connection) => floor(connection, name).await,
            Self::Rslock(manager) => {
                let lock = manager.acquire_no_guard(name.as_bytes(), TTL).await.unwrap();
                manager.unlock(&lock).await;
            }
            Self::Rlock(locks, poll) => {
                let options = AcquireOptions::builder().ttl(TTL).retry_interval(*poll);
                let options = options.build().unwrap();
                let mut guard = locks.acquire_mutex_with_options(name, options).await.unwrap();
                guard.release().await.unwrap();
            }
        }
    }
}

/// The least that any lock on one Redis does: set if absent, delete if still ours.
async fn floor(connection: &mut MultiplexedConnection, name: &str) {
    const DELETE: &str =
        "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end";
    let id = IDS.fetch_add(1, Ordering::Relaxed);
    let mut set = redis::cmd("SET");
    set.arg(name).arg(id).arg("NX").arg("PX").arg(10_000);
    while set.query_async::<Option<String>>(connection).await.unwrap().is_none() {
        tokio::time::sleep(POLL).await;
    }
    let script = redis::Script::new(DELETE);
    script.key(name).arg(id).invoke_async::<Option<u8>>(connection).await.unwrap();
}

/// Grants to each of so many tasks that hold nothing, over this time.
pub(crate) async fn contended(way: &Way, name: &str, tasks: usize, time: Duration) -> Vec<u32> {
    let over = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    for number in 0..tasks {
        let (mut way, over, name) = (way.of_task(number), Arc::clone(&over), name.to_owned());
        running.push(tokio::spawn(async move {
            let mut grants = 0_u32;
            loop {
                way.cycle(&name).await;
                if over.load(Ordering::Relaxed) {
                    return grants;
                }
                grants += 1;
            }
        }));
    }
    tokio::time::sleep(time).await;
    over.store(true, Ordering::Relaxed);
    let mut grants = Vec::new();
    for task in running {
        grants.push(task.await.unwrap());
    }
    grants
}

/// The least over the most.
pub(crate) fn share(grants: &[u32]) -> f64 {
    let (least, most) = (*grants.iter().min().unwrap(), *grants.iter().max().unwrap());
    f64::from(least) / f64::from(most.max(1))
}
