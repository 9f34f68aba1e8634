//! Hand-offs on a real Redis beside those of the crates `rslock` and `rlock`, in one run.
//!
//! Without optimization the lead over `rslock` with its own pauses is too small to be asserted beside
//! whatever else the machine does: there the bench does it, and this test says the numbers.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // the bench uses all of it
#[path = "../benches/redis/ways.rs"]
mod ways;

use std::io::Write;
use std::time::Duration;

use lockkit_core::Locks;
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::RedisServer;
use ways::{POLL, Way, contended, share};

/// By turns, so that what else the machine does meets all of them: together 3 s for each.
const TURNS: usize = 3;
const TURN: Duration = Duration::from_secs(1);
const TASKS: usize = 32;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_waiters_are_granted_more_often_than_by_rlock_and_by_rslock_that_polls() {
    let server = RedisServer::start().unwrap();
    let config = RedisConfig::tcp("127.0.0.1", server.port());
    let ours = Way::Lockkit(Locks::new(RedisProvider::connect(config).await.unwrap()));
    let [rslock, rslock_5, rlock, rlock_5] = Way::peers(&server.url(), POLL).await;
    let ways = [
        ("lockkit-redis", ours),
        ("rslock, as it is", rslock),
        ("rslock, 5 ms", rslock_5),
        ("rlock, as it is", rlock),
        ("rlock, 5 ms", rlock_5),
    ];
    let mut grants = [[0; TASKS]; 5];
    for turn in 0..TURNS {
        for ((n, (_, way)), sum) in ways.iter().enumerate().zip(&mut grants) {
            let more = contended(way, &format!("{n}-{turn}"), TASKS, TURN).await;
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
    let total = |grants: &[u32]| grants.iter().sum::<u32>();
    let mut said = String::from("redis, 32 waiters, 3 s:");
    for ((label, _), grants) in ways.iter().zip(&grants) {
        said += &format!(" {label} {} ({:.3})", total(grants), share(grants));
    }
    // Not by println!, which is shown only of a test that fails.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{said}").unwrap();
    let ours = total(&grants[0]);
    assert!(grants[2..].iter().all(|peer| ours > total(peer)), "{said}");
}
