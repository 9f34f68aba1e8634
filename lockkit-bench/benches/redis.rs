//! Locks on a real Redis: lockkit, a bare SET NX, and the crates `rslock` and `rlock`, side by side.
//!
//! Hand-offs are counted over a time and not per call: what matters is the rate and its fairness.

#![allow(clippy::unwrap_used)]

#[path = "redis/ways.rs"]
mod ways;

use std::time::{Duration, Instant};

use lockkit_core::Locks;
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::RedisServer;
use ways::{POLL, Way, contended, share};

const CONTENDED: Duration = Duration::from_secs(3);
const CYCLES: u32 = 2_000;
const FAST: Duration = Duration::from_millis(1);
const ROUNDS: u32 = 3;

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
async fn rated(way: &Way, name: &str, tasks: usize) -> (f64, f64) {
    let grants = contended(way, name, tasks, CONTENDED).await;
    (f64::from(grants.iter().sum::<u32>()) / CONTENDED.as_secs_f64(), share(&grants))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if lockkit_bench::is_wanted("redis") {
        compare().await;
    }
}

async fn compare() {
    let server = RedisServer::start().unwrap();
    let mut clients = Vec::new();
    for _ in 0..5 {
        let config = RedisConfig::tcp("127.0.0.1", server.port());
        clients.push(Locks::new(RedisProvider::connect(config).await.unwrap()));
    }
    let client = redis::Client::open(server.url()).unwrap();
    let [rslock, rslock_5, rlock, rlock_5] = Way::peers(&server.url(), POLL).await;
    let [_, rslock_1, _, rlock_1] = Way::peers(&server.url(), FAST).await;
    let ways = [
        ("lockkit-redis", Way::Lockkit(clients.remove(0))),
        ("SET NX, 5 ms", Way::Floor(client.get_multiplexed_async_connection().await.unwrap())),
        ("rslock, as it is", rslock),
        ("rslock, 5 ms", rslock_5),
        ("rslock, 1 ms", rslock_1),
        ("rlock, as it is", rlock),
        ("rlock, 5 ms", rlock_5),
        ("rlock, 1 ms", rlock_1),
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
        let eight = rated(way, &format!("eight-{n}"), 8).await;
        rates.push((*label, one, eight, (0.0_f64, 1.0_f64)));
    }
    // By turns, so that what else the machine does meets all of them: the best rate, the worst share.
    for round in 0..ROUNDS {
        for ((n, (_, way)), rate) in ways.iter().enumerate().zip(&mut rates) {
            let (grants, fair) = rated(way, &format!("many-{n}-{round}"), 32).await;
            rate.3 = (rate.3.0.max(grants), rate.3.1.min(fair));
        }
    }
    for (label, one, (eight, eight_fair), (many, fair)) in &rates {
        println!(
            "{label:<18} {one:>16.1?} {eight:>16.0}/s {eight_fair:>10.3} {many:>16.0}/s {fair:>10.3}"
        );
    }
    beside_peers(&rates);
}

/// A way's time alone, and its rates and shares of 8 and of 32 waiters.
type Rates = (&'static str, Duration, (f64, f64), (f64, f64));

fn beside_peers(rates: &[Rates]) {
    let (_, one, _, (many, _)) = rates[0];
    for (label, other_one, _, (other_many, _)) in &rates[1..] {
        println!(
            "lockkit beside {label}: {:.2} times the time alone, {:.2} times the grants to 32 waiters",
            one.as_secs_f64() / other_one.as_secs_f64(),
            many / other_many,
        );
    }
    for (label, _, _, (other, _)) in rates {
        let is_peer = label.starts_with("rslock") || label.starts_with("rlock");
        assert!(!is_peer || many > *other, "{many:.0} grants a second, and {other:.0} by {label}");
    }
}
