//! Hand-offs on a real Redis beside those of the crates `rslock` and `rlock`, in one run.
//!
//! What a grant costs is counted in requests: who polls asks in vain. How many grants there are in
//! a time, the bench compares; this test says the numbers.

#![allow(clippy::unwrap_used)]

#[allow(dead_code)] // the bench uses all of it
#[path = "../benches/redis/ways.rs"]
mod ways;

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockkit_bench::{Store, Task, Way};
use testbed::{Link, RedisServer};
use ways::{Kind, Redis};

/// By turns, so that what else the machine does meets all of them: together 3 s for each.
const TURNS: usize = 3;
const TURN: Duration = Duration::from_secs(1);
const TASKS: usize = 32;

const WAYS: [Way<Kind>; 5] = [
    Way { label: "lockkit-redis", kind: Kind::Lockkit, clients: Some(1) },
    Way::new("rslock, as it is", Kind::Rslock(None)),
    Way::new("rslock, 5 ms", Kind::Rslock(Some(5))),
    Way::new("rlock, as it is", Kind::Rlock(100)),
    Way::new("rlock, 5 ms", Kind::Rlock(5)),
];

/// Grants to all tasks that hold nothing, over a turn.
async fn contended(store: &Redis, way: &Way<Kind>, name: &str) -> u32 {
    let over = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    for mut task in store.tasks(way, TASKS).await {
        let (over, name) = (Arc::clone(&over), name.to_owned());
        running.push(tokio::spawn(async move {
            let mut grants = 0_u32;
            while !over.load(Ordering::Relaxed) {
                let held = task.take(&name).await;
                task.give(&name, held).await;
                grants += 1;
            }
            (task, grants)
        }));
    }
    tokio::time::sleep(TURN).await;
    over.store(true, Ordering::Relaxed);
    let (mut ended, mut total) = (Vec::new(), 0);
    for task in running {
        let (task, grants) = task.await.unwrap();
        ended.push(task);
        total += grants;
    }
    for task in ended {
        task.close().await;
    }
    total
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_two_waiters_are_granted_with_fewer_requests_than_by_rlock_and_by_rslock_that_polls()
{
    let server = RedisServer::start().unwrap();
    // Each way is behind a link of its own that counts its requests.
    let links = WAYS.map(|_| Link::to_redis(server.address()).unwrap());
    let mut grants = [0_u32; WAYS.len()];
    for turn in 0..TURNS {
        for (n, (way, link)) in WAYS.iter().zip(&links).enumerate() {
            let store = Redis::at(&format!("redis://{}", link.address()));
            grants[n] += contended(&store, way, &format!("{n}-{turn}")).await;
        }
    }
    let mut said = String::from("redis, 32 waiters, 3 s:");
    let mut requests = Vec::new();
    for ((way, link), grants) in WAYS.iter().zip(&links).zip(grants) {
        let each = link.requests() as f64 / f64::from(grants.max(1));
        said += &format!(" {} {grants} by {each:.1} requests each;", way.label);
        requests.push(each);
    }
    // Not by println!, which is shown only of a test that fails.
    let mut stdout = std::io::stdout();
    writeln!(stdout, "{said}").unwrap();
    assert!(requests[2..].iter().all(|peer| requests[0] < *peer), "{said}");
}
