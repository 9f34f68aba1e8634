//! What goes over the link: round trips, heartbeats, wake-ups.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::common::{TICK, by, client, linked, ms, queued, server, waiter};
use lockkit_core::{LockProvider, Locks, LossReason};
use testbed::{Fault, Way, in_time, timing};
use tokio::task::JoinSet;

/// A ttl of three ticks, on a session of four: the longest pause between two heartbeats is a quarter of a tick.
const TTL: Duration = ms(1_500);
/// What a crowd of waiters cannot make a busy machine miss.
const LONG: Duration = ms(30_000);

fn of(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_uncontended_lock_takes_one_round_trip_and_so_does_its_release() {
    const ROUNDS: u64 = 20;
    let server = server();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let lock = locks.lock("a").ttl(LONG);
    // The first one makes the session and the parents; the guard keeps the session in use.
    let _other = locks.lock("other").ttl(LONG).acquire().await.unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    // Its hold is long, and watches its node.
    tokio::time::sleep(ms(300)).await;
    let before = link.counts();
    for _ in 0..ROUNDS {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let (requests, _) = link.since(&before);
    println!("{ROUNDS} rounds: {requests:?}");
    // Created and listed in one flight, and removed: nothing else but heartbeats and the driver's pings.
    for name in ["create", "list", "delete"] {
        assert_eq!(of(&requests, name), ROUNDS, "{requests:?}");
    }
    let others = requests.keys().filter(|name| !["create", "list", "delete"].contains(&&***name));
    assert!(others.into_iter().all(|name| name == "multi" || name == "ping"), "{requests:?}");

    // Over a link that takes 100 ms each way.
    link.fault(Way::Both, Fault::delay(ms(100)));
    let (mut acquired, mut released) = (Duration::MAX, Duration::MAX);
    let first = timing::start();
    for _ in 0..3 {
        let began = Instant::now();
        let guard = lock.acquire().await.unwrap();
        acquired = acquired.min(began.elapsed());
        let began = Instant::now();
        guard.release().await.unwrap();
        released = released.min(began.elapsed());
    }
    println!("at 200 ms a round trip: acquired in {acquired:?}, released in {released:?}");
    in_time!(first, acquired < ms(390) && released < ms(390), "more than one round trip");
}

#[tokio::test(flavor = "multi_thread")]
async fn held_locks_send_nothing_but_one_heartbeat_for_their_session() {
    const HELD: usize = 200;
    const SECONDS: u64 = 4;
    let server = server();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let mut guards = Vec::new();
    for number in 0..HELD {
        guards.push(locks.lock(format!("a{number}")).ttl(TTL).acquire().await.unwrap());
    }
    // Long holds watch their nodes.
    tokio::time::sleep(ms(500)).await;
    let (before, began) = (link.counts(), Instant::now());
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    let (requests, _) = link.since(&before);
    println!("{HELD} locks held for {:?}: {requests:?}", began.elapsed());
    let sent: u64 = requests.values().sum();
    let beats = of(&requests, "multi");
    // The session for operators is silent but for the driver's pings.
    assert_eq!(sent - of(&requests, "ping"), beats, "{requests:?}");
    let most = began.elapsed().as_secs_f64() / (TICK.as_secs_f64() / 4.0) + 2.0;
    assert!(beats as f64 <= most && beats >= SECONDS, "{beats} heartbeats, {most} at most");
    for guard in guards {
        testbed::held!(guard);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_release_among_a_thousand_waiters_wakes_one() {
    let server = server();
    for waiters in [10_usize, 1000] {
        let name = format!("of-{waiters}");
        let holder = client(&server).await.lock(&name).ttl(LONG).acquire().await.unwrap();
        let (provider, link) = linked(&server).await;
        let locks = Locks::new(provider);
        let mut waiting = JoinSet::new();
        for _ in 0..waiters {
            waiting.spawn(locks.lock(&name).ttl(LONG).acquire());
        }
        queued(&client(&server).await.lock(&name), waiters).await;
        // Their watches are set, and what their arrival caused is over.
        let mut quiet = link.counts();
        loop {
            tokio::time::sleep(ms(700)).await;
            let (requests, answers) = link.since(&quiet);
            let asked: u64 = requests.values().sum();
            if asked == of(&requests, "multi") + of(&requests, "ping") && of(&answers, "event") == 0
            {
                break;
            }
            quiet = link.counts();
        }
        let before = link.counts();
        holder.release().await.unwrap();
        let next = by(ms(5_000), "the next grant", waiting.join_next()).await;
        let next = next.unwrap().unwrap().unwrap();
        tokio::time::sleep(ms(300)).await;
        let (requests, answers) = link.since(&before);
        println!("one release among {waiters} waiters: {requests:?}, {answers:?}");
        assert_eq!(of(&answers, "event"), 1, "wake-ups among {waiters} waiters");
        let asked = ["create", "list", "get", "delete", "exists", "sync", "unwatch"];
        let caused: u64 = asked.iter().map(|name| of(&requests, name)).sum();
        assert_eq!(caused, 0, "{requests:?}");
        assert!(waiting.try_join_next().is_none(), "two were granted");
        drop(next);
        waiting.shutdown().await;
        locks.close(ms(20_000)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_connection_is_a_risk_at_once_and_no_loss() {
    let server = server();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let guard = locks.lock("a").ttl(ms(6_000)).acquire().await.unwrap();
    link.refuse().unwrap();
    link.reset().unwrap();
    by(ms(500), "the risk", guard.at_risk()).await;
    testbed::held!(guard);
    link.pass().unwrap();
    by(ms(4_000), "the recovery", async {
        while tokio::time::timeout(ms(20), guard.at_risk()).await.is_ok() {
            tokio::time::sleep(ms(5)).await;
        }
    })
    .await;
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_node_is_a_loss_at_once() {
    let server = server();
    let locks = client(&server).await;
    // No stall of the machine makes it an expiry.
    let lock = locks.lock("a").ttl(LONG);
    for contended in [false, true] {
        let guard = lock.acquire().await.unwrap();
        let next = if contended { Some(waiter(&lock, 0).await) } else { None };
        let operator = client(&server).await;
        assert!(operator.lock("a").revoke(guard.token()).await.unwrap());
        let reason = by(ms(700), "the loss", guard.lost()).await;
        assert_eq!(reason, LossReason::Removed);
        if let Some(next) = next {
            by(ms(700), "the next grant", next).await.unwrap().release().await.unwrap();
        }
    }
    let provider = crate::common::provider(crate::common::at(server.port())).await;
    assert!(provider.operator().is_some());
}
