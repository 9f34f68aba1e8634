//! A name that thousands wait for: what a release costs does not depend on how many they are.

use std::time::{Duration, Instant};

use crate::common::{BUSY, at, by, client, framing, ms, provider, queued, server};
use lockkit_core::Locks;
use testbed::{Link, ZkServer, in_time, timing};
use tokio::task::JoinSet;

const CLIENTS: usize = 20;
const RELEASES: usize = 20;
const TTL: Duration = ms(30_000);

/// What a release led to.
struct Seen {
    median: Duration,
    /// How many requests all clients sent for each grant, heartbeats left out.
    requests: f64,
}

/// So many wait for one name, of twenty clients; the first release is left out.
async fn released(server: &ZkServer, waiters: usize) -> Seen {
    let name = format!("of-{waiters}");
    let holder = client(server).await.lock(&name).ttl(TTL).acquire().await.unwrap();
    let links: Vec<Link> = (0..CLIENTS).map(|_| framing::counting(server.address())).collect();
    let mut waiting = JoinSet::new();
    let mut clients = Vec::new();
    for link in &links {
        clients.push(Locks::new(provider(at(link.port())).await));
    }
    let operator = client(server).await.lock(&name);
    for number in 0..waiters {
        waiting.spawn(clients[number % CLIENTS].lock(&name).ttl(TTL).acquire());
        // Not all at once: each lists those before it.
        if (number + 1) % 100 == 0 {
            queued(&operator, number + 1).await;
        }
    }
    queued(&operator, waiters).await;
    // What their arrival caused is over.
    tokio::time::sleep(ms(2_000)).await;
    let sent = || -> u64 {
        let silent = ["ping", "multi", "connect"];
        let counts = links.iter().map(|link| link.counts().requests);
        let sent = counts.flatten().filter(|(name, _)| !silent.contains(&&**name));
        sent.map(|(_, count)| count).sum()
    };
    let (mut guard, mut took) = (holder, Vec::new());
    let mut before = 0;
    for round in 0..=RELEASES {
        if round == 1 {
            before = sent();
        }
        let began = Instant::now();
        guard.release().await.unwrap();
        let next = by(ms(10_000), "the next grant", waiting.join_next()).await;
        guard = next.unwrap().unwrap().unwrap();
        // As many wait as before.
        waiting.spawn(clients[round % CLIENTS].lock(&name).ttl(TTL).acquire());
        if round > 0 {
            took.push(began.elapsed());
        }
    }
    let requests = (sent() - before) as f64 / RELEASES as f64;
    took.sort();
    let median = took[RELEASES / 2];
    println!("{waiters} waiters: {median:?} from release to grant, {requests:.2} requests each");
    drop(guard);
    waiting.shutdown().await;
    for client in clients {
        client.close(ms(20_000)).await.ok();
    }
    Seen { median, requests }
}

async fn a_crowd(waiters: usize) {
    let _busy = BUSY.lock().await;
    let server = server();
    let began = timing::start();
    released(&server, 11).await;
    let few = released(&server, 10).await;
    let many = released(&server, waiters).await;
    assert!(many.requests <= few.requests + 1.0, "{} and {}", few.requests, many.requests);
    in_time!(
        began,
        many.median <= 2 * few.median.max(ms(2)),
        "{:?} and {:?}",
        few.median,
        many.median
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_among_five_hundred_takes_no_longer_than_among_few() {
    a_crowd(500).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a minute; `cargo xtask soak` runs it"]
async fn a_release_among_five_thousand_takes_no_longer_than_among_few() {
    a_crowd(5_000).await;
}
