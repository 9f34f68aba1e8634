//! Hand-offs on a real Redis beside those of the crates `rslock` and `rlock`, in one run.
//!
//! What a grant costs is counted in requests: who polls asks in vain. How many grants there are in
//! a time, the bench compares; this test says the numbers.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // the bench uses all of it
#[path = "../benches/redis/ways.rs"]
mod ways;

use std::io::Write;
use std::time::Duration;

use lockkit_core::Locks;
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Link, RedisServer};
use ways::{POLL, Way, contended, share};

/// By turns, so that what else the machine does meets all of them: together 3 s for each.
const TURNS: usize = 3;
const TURN: Duration = Duration::from_secs(1);
const TASKS: usize = 32;

/// The ways to be compared, each behind a link of its own that counts its requests.
async fn ways(server: &RedisServer) -> Vec<(&'static str, Way, Link)> {
    let link = || Link::to_redis(server.address()).unwrap();
    let ours = link();
    let config = RedisConfig::tcp("127.0.0.1", ours.port());
    let locks = Locks::new(RedisProvider::connect(config).await.unwrap());
    let mut ways = vec![("lockkit-redis", Way::Lockkit(locks), ours)];
    let labels = ["rslock, as it is", "rslock, 5 ms", "rlock, as it is", "rlock, 5 ms"];
    for (number, label) in labels.into_iter().enumerate() {
        let link = link();
        let [rslock, rslock_5, rlock, rlock_5] =
            Way::peers(&format!("redis://{}", link.address()), POLL).await;
        let way = [rslock, rslock_5, rlock, rlock_5].into_iter().nth(number).unwrap();
        ways.push((label, way, link));
    }
    ways
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_waiters_are_granted_with_fewer_requests_than_by_rlock_and_by_rslock_that_polls()
{
    let server = RedisServer::start().unwrap();
    let ways = ways(&server).await;
    let mut grants = [[0; TASKS]; 5];
    let before: Vec<u64> = ways.iter().map(|(_, _, link)| link.requests()).collect();
    for turn in 0..TURNS {
        for ((n, (_, way, _)), sum) in ways.iter().enumerate().zip(&mut grants) {
            let more = contended(way, &format!("{n}-{turn}"), TASKS, TURN).await;
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
    }
    let mut said = String::from("redis, 32 waiters, 3 s:");
    let mut requests = Vec::new();
    for (((label, _, link), grants), before) in ways.iter().zip(&grants).zip(before) {
        let total = grants.iter().sum::<u32>();
        let each = (link.requests() - before) as f64 / f64::from(total.max(1));
        said += &format!(" {label} {total} ({:.3}) by {each:.1} requests each;", share(grants));
        requests.push(each);
    }
    // Not by println!, which is shown only of a test that fails.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{said}").unwrap();
    assert!(requests[2..].iter().all(|peer| requests[0] < *peer), "{said}");
}
