//! Locks on a real etcd: lockkit, a bare leased key, and the driver's own `lock()`, side by side.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{Client, Compare, CompareOp, LockOptions, PutOptions, Txn, TxnOp};
use lockkit_core::Locks;
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::EtcdServer;

const TTL: Duration = Duration::from_secs(30);
const CONTENDED: Duration = Duration::from_secs(3);
const CYCLES: u32 = 500;

/// A way to take a name and give it back; one per task, with a lease of its own where it needs one.
#[derive(Clone)]
enum Way {
    Lockkit(Locks),
    Floor(Client),
    Driver(Client),
}

impl Way {
    async fn lease(&self) -> i64 {
        match self {
            Self::Lockkit(_) => 0,
            Self::Floor(client) | Self::Driver(client) => {
                client.lease_client().grant(30, None).await.unwrap().id()
            }
        }
    }

    /// Acquires and releases once; how long the first took.
    async fn cycle(&self, name: &str, lease: i64) -> Duration {
        let began = Instant::now();
        match self {
            Self::Lockkit(locks) => {
                let guard = locks.lock(name).ttl(TTL).acquire().await.unwrap();
                let waited = began.elapsed();
                guard.release().await.unwrap();
                waited
            }
            Self::Floor(client) => {
                let free = Compare::create_revision(name, CompareOp::Equal, 0);
                let put = TxnOp::put(name, "", Some(PutOptions::new().with_lease(lease)));
                let txn = Txn::new().when([free]).and_then([put]);
                assert!(client.kv_client().txn(txn).await.unwrap().succeeded());
                let waited = began.elapsed();
                client.kv_client().delete(name, None).await.unwrap();
                waited
            }
            Self::Driver(client) => {
                let options = LockOptions::new().with_lease(lease);
                let held = client.lock_client().lock(name, Some(options)).await.unwrap();
                let waited = began.elapsed();
                client.lock_client().unlock(held.key()).await.unwrap();
                waited
            }
        }
    }
}

/// The time of one acquire and release that nobody disturbs: the least of some rounds.
async fn alone(way: &Way, name: &str) -> Duration {
    let lease = way.lease().await;
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let began = Instant::now();
        for _ in 0..CYCLES / 5 {
            way.cycle(name, lease).await;
        }
        best = best.min(began.elapsed() / (CYCLES / 5));
    }
    best
}

/// Grants per second to so many tasks that hold nothing, their median wait, and the least over the
/// most grants of one.
async fn contended(way: &Way, name: &str, tasks: usize) -> (f64, Duration, f64) {
    let over = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    for _ in 0..tasks {
        let (way, over, name) = (way.clone(), Arc::clone(&over), name.to_owned());
        running.push(tokio::spawn(async move {
            let (lease, mut waits) = (way.lease().await, Vec::new());
            while !over.load(Ordering::Relaxed) {
                waits.push(way.cycle(&name, lease).await);
            }
            waits
        }));
    }
    let began = Instant::now();
    tokio::time::sleep(CONTENDED).await;
    over.store(true, Ordering::Relaxed);
    let took = began.elapsed();
    let (mut counts, mut waits) = (Vec::new(), Vec::new());
    for task in running {
        let of_one = task.await.unwrap();
        counts.push(u32::try_from(of_one.len()).unwrap());
        waits.extend(of_one);
    }
    waits.sort_unstable();
    let rate = f64::from(counts.iter().sum::<u32>()) / took.as_secs_f64();
    let (least, most) = (*counts.iter().min().unwrap(), *counts.iter().max().unwrap());
    (rate, waits[waits.len() / 2], f64::from(least) / f64::from(most.max(1)))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if !lockkit_bench::is_wanted("etcd") {
        return;
    }
    let server = EtcdServer::start().unwrap();
    let config = EtcdConfig::new([("127.0.0.1", server.port())]);
    let driver = Client::connect([format!("http://{}", server.address())], None).await.unwrap();
    println!("etcd {}, {CONTENDED:?} each", server.version().unwrap());
    let ways = [
        ("lockkit-etcd", Way::Lockkit(Locks::new(EtcdProvider::connect(config).await.unwrap()))),
        ("leased key", Way::Floor(driver.clone())),
        ("etcd-client lock()", Way::Driver(driver)),
    ];
    println!(
        "{:<20} {:>16} {:>22} {:>14} {:>10}",
        "", "alone, one cycle", "8 waiters: median wait", "grants", "least/most"
    );
    for (n, (label, way)) in ways.into_iter().enumerate() {
        let one = alone(&way, &format!("alone-{n}")).await;
        if matches!(way, Way::Floor(_)) {
            println!("{label:<20} {one:>16.1?} {:>22}", "does not wait");
            continue;
        }
        let (rate, wait, fair) = contended(&way, &format!("eight-{n}"), 8).await;
        println!("{label:<20} {one:>16.1?} {wait:>22.1?} {rate:>12.0}/s {fair:>10.3}");
    }
}
