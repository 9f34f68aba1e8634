//! What goes over the link: how many requests each thing takes, and what a slow or stuck one costs.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{by, client, join, ms, queued};
use lockkit_core::{Clock, LockName, LockProvider, Locks, Request, StoreSays};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Connections, Counts, Fault, Link, RedisServer, Way, in_time, timing};
use tokio::task::JoinSet;

/// Longer than any of these tests: no renewal comes in between.
const TTL: Duration = Duration::from_secs(60);
/// How often a client with waiters says that it lives.
const HEARTBEAT: Duration = Duration::from_millis(300);

/// After so long a silence nothing is under way any more.
const QUIET: Duration = ms(100);

/// A client behind a link of its own.
async fn linked(server: &RedisServer) -> (Locks, Link) {
    let link = Link::to_redis(server.address()).unwrap();
    (join(link.port()).await, link)
}

fn only(name: &str, count: u64) -> BTreeMap<String, u64> {
    BTreeMap::from([(name.to_owned(), count)])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_a_renewal_and_a_release_take_one_request_each() {
    let server = RedisServer::start().unwrap();
    let (locks, link) = linked(&server).await;
    let lock = locks.lock("a").ttl(TTL);
    let mut seen = Vec::new();
    for _ in 0..3 {
        link.idle(QUIET).await;
        let before = link.counts();
        let guard = lock.acquire().await.unwrap();
        let acquire = link.since(&before);

        let before = link.counts();
        guard.renew().await.unwrap();
        let renew = link.since(&before);

        let before = link.counts();
        assert!(lock.try_acquire().await.unwrap().is_none());
        let attempt = link.since(&before);

        let before = link.counts();
        guard.release().await.unwrap();
        seen.push([acquire, renew, attempt, link.since(&before)]);
    }
    // A stall may have one asked again, or a ping beside it, but not in each round.
    let exact = [(); 4].map(|()| (only("EVALSHA", 1), only("reply", 1)));
    assert!(seen.contains(&exact), "{seen:?}");
    // No withdrawal, no clean-up: that was all.
    link.idle(QUIET).await;
    // One for commands, and one for wake-ups and revocations.
    assert_eq!((link.counts().open, link.counts().accepted), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_takes_the_release_and_a_push() {
    let server = RedisServer::start().unwrap();
    let watcher = client(&server).await;
    let ((holders, holders_link), (waiters, waiters_link)) =
        (linked(&server).await, linked(&server).await);
    let mut seen = Vec::new();
    for number in 0..5 {
        let name = format!("a{number}");
        let holder = holders.lock(&name).ttl(TTL).acquire().await.unwrap();
        let acquire = waiters.lock(&name).ttl(TTL).acquire();
        let waiter = tokio::spawn(acquire);
        queued(&watcher.lock(&name), 1).await;
        waiters_link.idle(QUIET).await;
        holders_link.idle(QUIET).await;
        let (holders_before, waiters_before) = (holders_link.counts(), waiters_link.counts());
        holder.release().await.unwrap();
        let guard = by(ms(5_000), "the waiter's grant", waiter).await.unwrap().unwrap();
        let (held, waited) =
            (holders_link.since(&holders_before), waiters_link.since(&waiters_before));
        seen.push((held, waited));
        guard.release().await.unwrap();
    }
    let exact = ((only("EVALSHA", 1), only("reply", 1)), (BTreeMap::new(), only("push", 1)));
    // A heartbeat may fall into a hand-off, but not into all of them.
    assert!(seen.contains(&exact), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_within_one_client_takes_the_release_and_nothing_more() {
    let server = RedisServer::start().unwrap();
    let watcher = client(&server).await;
    let (locks, link) = linked(&server).await;
    let mut seen = Vec::new();
    for number in 0..5 {
        let name = format!("a{number}");
        let holder = locks.lock(&name).ttl(TTL).acquire().await.unwrap();
        let waiter = tokio::spawn(locks.lock(&name).ttl(TTL).acquire());
        queued(&watcher.lock(&name), 1).await;
        link.idle(QUIET).await;
        let before = link.counts();
        holder.release().await.unwrap();
        let guard = by(ms(5_000), "the waiter's grant", waiter).await.unwrap().unwrap();
        seen.push(link.since(&before));
        guard.release().await.unwrap();
    }
    // A heartbeat may fall into a hand-off, but not into all of them.
    assert!(seen.contains(&(only("EVALSHA", 1), only("reply", 1))), "{seen:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_idle_waiters_of_a_client_send_one_heartbeat() {
    const WAITERS: u32 = 100;
    const SECONDS: u32 = 5;
    let server = RedisServer::start().unwrap();
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let (locks, link) = linked(&server).await;
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        waiters.spawn(locks.lock("a").ttl(TTL).acquire());
    }
    queued(&client(&server).await.lock("a"), WAITERS as usize).await;
    // The subscription is up, and its first questions are answered.
    tokio::time::sleep(ms(500)).await;
    let (before, began) = (link.counts(), timing::start());
    let sent = |counts: &Counts| counts.requests.get("EVALSHA").copied().unwrap_or_default();
    // A third of those that are due.
    let least = sent(&before) + u64::from(SECONDS);
    let beating = link.until(|now| sent(now) >= least);
    let window = Duration::from_secs(SECONDS.into());
    tokio::join!(tokio::time::sleep(window), by(window, "the client's heartbeats", beating));
    let (requests, _) = link.since(&before);
    let beats = began.elapsed().as_secs_f64() / HEARTBEAT.as_secs_f64();

    let sent = requests.get("EVALSHA").copied().unwrap_or_default() as f64;
    let most = beats + 1.0;
    in_time!(began, sent <= most, "{sent} requests, where heartbeats are {most} at most");
    let others: Vec<_> = requests.keys().filter(|name| *name != "EVALSHA").collect();
    assert!(others.iter().all(|name| *name == "PING"), "{requests:?}");
    assert!(requests.get("PING").copied().unwrap_or_default() <= 2, "{requests:?}");
    assert_eq!(link.counts().open, 2, "one connection for commands, and one for wake-ups");

    assert!(waiters.try_join_next().is_none(), "granted beside a holder");
    holder.release().await.unwrap();
    for _ in 0..WAITERS {
        let granted = by(ms(5_000), "the next waiter's grant", waiters.join_next()).await;
        granted.unwrap().unwrap().unwrap().release().await.unwrap();
    }
}

/// One release among so many waiters causes one push, and no requests but the heartbeats that are due.
async fn a_release_is_told_once(server: &RedisServer, waiters: usize) {
    let name = format!("of-{waiters}");
    let holder = client(server).await.lock(&name).ttl(TTL).acquire().await.unwrap();
    let link = Link::to_redis(server.address()).unwrap();
    let config = RedisConfig::tcp("127.0.0.1", link.port());
    let provider = Arc::new(RedisProvider::connect(config).await.unwrap());
    // By this clock no request is ever repeated: whatever else is sent was caused, or is the client's heartbeat.
    let clock = Clock::manual();
    let mut waiting = JoinSet::new();
    let mut requests = Vec::new();
    for _ in 0..waiters {
        let request = Request::new(LockName::new(&name).unwrap(), TTL, clock.clone()).unwrap();
        let (provider, asked) = (Arc::clone(&provider), request.clone());
        waiting.spawn(async move { provider.acquire(&asked).await });
        requests.push(request);
    }
    let told = |request: &Request| matches!(request.last_word(), Some(StoreSays::Held(_)));
    let all_wait = async {
        while !requests.iter().all(told) {
            tokio::time::sleep(ms(5)).await;
        }
    };
    by(ms(10_000), "waiters in the queue", all_wait).await;
    link.idle(QUIET).await;

    let (before, began) = (link.counts(), timing::start());
    holder.release().await.unwrap();
    let granted = by(ms(5_000), "the head's grant", waiting.join_next()).await;
    let granted = granted.unwrap().unwrap().unwrap();
    link.idle(QUIET).await;
    let (requests, answers) = link.since(&before);
    let beats = began.elapsed().as_millis() / HEARTBEAT.as_millis() + 1;
    assert!(waiting.try_join_next().is_none(), "two were granted");
    let sum = |of: &BTreeMap<String, u64>, what: &str| of.get(what).copied().unwrap_or_default();
    let (requests, pushes) = (sum(&requests, "EVALSHA"), sum(&answers, "push"));
    in_time!(began, pushes == 1, "{pushes} pushes among {waiters} waiters");
    in_time!(
        began,
        u128::from(requests) <= beats,
        "{requests} requests among {waiters} waiters, and {beats} heartbeats due"
    );
    granted.lease.release().await.unwrap();
    waiting.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_release_among_a_thousand_waiters_causes_as_much_as_among_ten() {
    let server = RedisServer::start().unwrap();
    // The head is told, and asks nothing.
    for waiters in [10, 1000] {
        a_release_is_told_once(&server, waiters).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_link_holds_up_no_name_behind_another() {
    const NAMES: u32 = 100;
    let server = RedisServer::start().unwrap();
    let (locks, link) = linked(&server).await;
    link.fault(Way::ToClient, Fault::delay(ms(200)));
    let began = timing::start();
    let mut acquired = JoinSet::new();
    for name in 0..NAMES {
        acquired.spawn(locks.lock(format!("a{name}")).acquire());
    }
    let guards = acquired.join_all().await;
    let took = began.elapsed();
    assert!(took > ms(200), "the link was not slow: {took:?}");
    in_time!(began, took < ms(1_000), "{NAMES} names took {took:?} over a link that takes 200 ms");
    for guard in guards {
        drop(guard.unwrap());
    }
    locks.close(ms(5_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_connection_costs_one_call_and_is_replaced() {
    let server = RedisServer::start().unwrap();
    let (locks, link) = linked(&server).await;
    let lock = locks.lock("a").ttl(ms(3_000));
    lock.acquire().await.unwrap().release().await.unwrap();
    let made = link.counts().accepted;
    link.fault_on(Connections::Existing, Way::Both, Fault::Blackhole);

    let began = timing::start();
    assert!(lock.try_acquire().await.is_err(), "answered over a connection that is stuck");
    let cost = began.elapsed();
    in_time!(began, cost < ms(2_000), "a stuck connection cost {cost:?}");
    // What the stuck one left unclear is cleaned up meanwhile, over the new one too.
    let guard = by(ms(700), "the next call", lock.acquire()).await.unwrap();
    let replaced = link.counts().accepted - made;
    in_time!(began, replaced == 1, "{replaced} connections to replace one");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_resets_at_a_ttl_of_5_s_cost_no_holder_its_lock() {
    const RESETS: u64 = 50;
    let server = RedisServer::start().unwrap();
    let (locks, link) = linked(&server).await;
    let ttl = ms(5_000);
    let guard = locks.lock("a").ttl(ttl).acquire().await.unwrap();
    let next = tokio::spawn(client(&server).await.lock("a").ttl(ttl).acquire());
    queued(&client(&server).await.lock("a"), 1).await;
    let (made, began) = (link.counts().accepted, timing::start());
    for reset in 1..=RESETS {
        by(ms(3_000), "both connections", link.until(|counts| counts.open == 2)).await;
        link.reset().unwrap();
        // The driver renews meanwhile; this makes certain that there is a connection again.
        guard.renew().await.unwrap();
        tokio::time::sleep(ms(150)).await;
        testbed::held!(guard, "lost after {reset} resets");
    }
    assert!(began.elapsed() > ttl, "less than a ttl");
    by(ms(3_000), "both connections", link.until(|counts| counts.open == 2)).await;
    let again = link.counts().accepted - made;
    in_time!(began, again == 2 * RESETS, "{again} connections made again");
    assert!(!next.is_finished(), "granted beside a holder");
    guard.release().await.unwrap();
    by(ms(2_000), "the waiter's grant", next).await.unwrap().unwrap().release().await.unwrap();
}
