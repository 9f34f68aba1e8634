//! Locks on a real Redis: lockkit, a bare SET NX, and the crates `rslock` and `rlock`, side by side.
//!
//! Hand-offs are counted over a time and not per call: what matters is the rate and its fairness.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockkit_core::Locks;
use lockkit_redis::{RedisConfig, RedisProvider};
use redis::aio::MultiplexedConnection;
use rlock::AcquireOptions;
use rlock::async_lock::RLock;
use rslock::LockManager;
use testbed::RedisServer;

const TTL: Duration = Duration::from_secs(10);
const CONTENDED: Duration = Duration::from_secs(3);
const CYCLES: u32 = 2_000;
/// How long those wait that have no queue; rslock's own default is up to 200 ms, rlock's 100 ms.
const POLL: Duration = Duration::from_millis(5);
const FAST: Duration = Duration::from_millis(1);
const ROUNDS: u32 = 3;

/// A way to take a name and give it back; one per task, as its crate wants it to be shared.
#[derive(Clone)]
enum Way {
    Lockkit(Locks),
    /// Several clients, as several processes have them; each task uses one.
    Clients(Vec<Locks>),
    Floor(MultiplexedConnection),
    Rslock(LockManager),
    Rlock(Arc<RLock>, Duration),
}

static IDS: AtomicU64 = AtomicU64::new(0);

impl Way {
    /// What the task with this number uses.
    fn of_task(&self, number: usize) -> Self {
        match self {
            Self::Clients(clients) => Self::Lockkit(clients[number % clients.len()].clone()),
            way => way.clone(),
        }
    }

    /// Acquires and releases once.
    async fn cycle(&mut self, name: &str) {
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

/// The time of one acquire and release that nobody disturbs: the least of some rounds.
async fn alone(mut way: Way, name: &str) -> Duration {
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..CYCLES / 5 {
            way.cycle(name).await;
        }
        best = best.min(began.elapsed() / (CYCLES / 5));
    }
    best
}

/// Grants per second to so many tasks that hold nothing, and the least over the most.
async fn contended(way: Way, name: &str, tasks: usize) -> (f64, f64) {
    let over = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    let began = Instant::now();
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
    tokio::time::sleep(CONTENDED).await;
    over.store(true, Ordering::Relaxed);
    let took = began.elapsed();
    let mut grants = Vec::new();
    for task in running {
        grants.push(task.await.unwrap());
    }
    let (least, most) = (*grants.iter().min().unwrap(), *grants.iter().max().unwrap());
    let rate = f64::from(grants.iter().sum::<u32>()) / took.as_secs_f64();
    (rate, f64::from(least) / f64::from(most.max(1)))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = RedisServer::start().unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let config = RedisConfig::tcp("127.0.0.1", server.port());
        clients.push(Locks::new(RedisProvider::connect(config).await.unwrap()));
    }
    let client = redis::Client::open(server.url()).unwrap();
    let rslock = |poll| {
        let mut manager = LockManager::new(vec![server.url()]);
        manager.set_retry(u32::MAX, poll);
        manager
    };
    let rlock = Arc::new(RLock::new(server.url()).await.unwrap());
    let ways = [
        ("lockkit-redis", Way::Lockkit(clients.remove(0))),
        ("SET NX, 5 ms", Way::Floor(client.get_multiplexed_async_connection().await.unwrap())),
        ("rslock, as it is", Way::Rslock(LockManager::new(vec![server.url()]))),
        ("rslock, 5 ms", Way::Rslock(rslock(POLL))),
        ("rslock, 1 ms", Way::Rslock(rslock(FAST))),
        ("rlock, as it is", Way::Rlock(Arc::clone(&rlock), Duration::from_millis(100))),
        ("rlock, 5 ms", Way::Rlock(Arc::clone(&rlock), POLL)),
        ("rlock, 1 ms", Way::Rlock(rlock, FAST)),
        ("lockkit, 4 clients", Way::Clients(clients)),
    ];
    println!("Redis {}, least/most over {CONTENDED:?}", server.version().unwrap());
    println!(
        "{:<18} {:>16} {:>18} {:>10} {:>18} {:>10}",
        "",
        "alone, one cycle",
        "8 waiters: grants",
        "least/most",
        "32 waiters: grants",
        "least/most"
    );
    let mut rates = Vec::new();
    for (n, (label, way)) in ways.iter().enumerate() {
        let one = alone(way.of_task(0), &format!("alone-{n}")).await;
        let eight = contended(way.clone(), &format!("eight-{n}"), 8).await;
        rates.push((*label, one, eight, (0.0_f64, 1.0_f64)));
    }
    // By turns, so that what else the machine does meets all of them: the best rate, the worst share.
    for round in 0..ROUNDS {
        for ((n, (_, way)), rate) in ways.iter().enumerate().zip(&mut rates) {
            let (grants, fair) = contended(way.clone(), &format!("many-{n}-{round}"), 32).await;
            rate.3 = (rate.3.0.max(grants), rate.3.1.min(fair));
        }
    }
    for (label, one, (eight, eight_fair), (many, fair)) in &rates {
        println!(
            "{label:<18} {one:>16.1?} {eight:>16.0}/s {eight_fair:>10.3} {many:>16.0}/s {fair:>10.3}"
        );
    }
    let (_, one, _, (many, _)) = rates[0];
    for (label, other_one, _, (other_many, _)) in &rates[1..] {
        println!(
            "lockkit beside {label}: {:.2} times the time alone, {:.2} times the grants to 32 waiters",
            one.as_secs_f64() / other_one.as_secs_f64(),
            many / other_many,
        );
    }
}
