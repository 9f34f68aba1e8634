//! The replica of a queue, by which waiters know their places: over breaks of its stream, too.

use std::time::Duration;

use crate::common::{SLACK, by, client, idle, join, link_to, ms, queued, since, waiter};
use etcd_client::{Client, PutOptions};
use testbed::{EtcdServer, contenders::held_by_another};

/// Longer than any of these tests: no keep-alive comes in between.
const TTL: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread")]
async fn what_a_broken_stream_did_not_tell_is_read_once_before_a_waiter_is_granted() {
    const WAITERS: usize = 8;
    let server = EtcdServer::start().unwrap();
    let (first, other) = (client(&server).await, client(&server).await);
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let held = first.lock("a").ttl(TTL).acquire().await.unwrap();
    let ahead = waiter(&other.lock("a").ttl(TTL), 0).await;
    let mut behind = Vec::new();
    for number in 1..=WAITERS {
        behind.push(waiter(&locks.lock("a").ttl(TTL), number).await);
    }
    // While they hear nothing, the holder goes, and the next one holds.
    link.refuse().unwrap();
    link.reset().unwrap();
    let mut token = held.token();
    held.release().await.unwrap();
    let held = by(SLACK, "the first waiter's grant", ahead).await.unwrap();
    assert!(held.token() > token);
    let before = link.counts();
    link.pass().unwrap();
    held_by_another(&other.lock("a"), ms(1_000)).await;
    assert!(behind.iter().all(|waiter| !waiter.is_finished()), "granted beside a holder");
    idle(&link).await;
    // The look at the member, the stream, and one reading for all; some of them in vain at first.
    let (asked, ..) = since(&before, &link);
    println!("{asked} requests for {WAITERS} waiters");
    assert!(asked < WAITERS as u64, "{asked} requests for {WAITERS} waiters");
    token = held.token();
    held.release().await.unwrap();
    for waiting in behind {
        let guard = by(SLACK, "the next waiter's grant", waiting).await.unwrap();
        assert!(guard.token() > token);
        token = guard.token();
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_key_went_while_the_stream_was_broken_comes_again_at_the_end() {
    let server = EtcdServer::start().unwrap();
    let other = client(&server).await;
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let held = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let first = waiter(&locks.lock("a").ttl(TTL), 0).await;
    let keys = server.cli(&["get", "--prefix", "--keys-only", "--sort-by=CREATE", "lockkit/a/"]);
    let key = keys.unwrap().lines().filter(|line| !line.is_empty()).nth(1).unwrap().to_owned();
    let second = waiter(&other.lock("a").ttl(TTL), 1).await;
    link.refuse().unwrap();
    link.reset().unwrap();
    server.cli(&["del", &key]).unwrap();
    held.release().await.unwrap();
    let second = by(SLACK, "who was behind it", second).await.unwrap();
    link.pass().unwrap();
    by(ms(3_000), "a new place at the end", queued(&other.lock("a"), 1)).await;
    assert!(!first.is_finished(), "granted on a key that is gone");
    let token = second.token();
    second.release().await.unwrap();
    let first = by(SLACK, "its grant", first).await.unwrap();
    assert!(first.token() > token);
    first.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_waited_for_again_is_read_once_and_forgotten_after_a_while() {
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let (locks, other) = (join(&[link.port()]).await, client(&server).await);
    let contended = async || {
        let held = other.lock("a").ttl(TTL).acquire().await.unwrap();
        idle(&link).await;
        let before = link.counts();
        let waiting = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
        queued(&other.lock("a"), 1).await;
        held.release().await.unwrap();
        let guard = by(SLACK, "the waiter's grant", waiting).await.unwrap().unwrap();
        guard.release().await.unwrap();
        idle(&link).await;
        since(&before, &link).0
    };
    // The first one opens the session and the stream.
    assert!(contended().await > 3);
    let seen = [contended().await, contended().await, contended().await];
    // A put and a delete; a stall may have one asked again, but not in each round.
    assert!(seen.contains(&2), "{seen:?}");
    tokio::time::sleep(ms(12_000)).await;
    assert_eq!(contended().await, 3, "the queue is read again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiters_key_that_an_operator_puts_without_a_lease_is_replaced() {
    let server = EtcdServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let held = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let waiting = waiter(&locks.lock("a").ttl(TTL), 0).await;
    let driver = Client::connect([format!("http://{}", server.address())], None).await.unwrap();
    let keys = server.cli(&["get", "--prefix", "--keys-only", "--sort-by=CREATE", "lockkit/a/"]);
    let key = keys.unwrap().lines().filter(|line| !line.is_empty()).nth(1).unwrap().to_owned();
    driver.kv_client().put(&*key, "stray", Some(PutOptions::new())).await.unwrap();
    queued(&other.lock("a"), 1).await;
    let found = driver.kv_client().get(&*key, None).await.unwrap();
    assert!(found.kvs()[0].lease() != 0, "a key without a lease would outlive its client");
    held.release().await.unwrap();
    by(SLACK, "its grant", waiting).await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_key_went_while_the_stream_was_broken_is_told_once_it_is_back() {
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    idle(&link).await;
    link.refuse().unwrap();
    link.reset().unwrap();
    server.cli(&["del", "--prefix", "lockkit/a/"]).unwrap();
    tokio::time::sleep(ms(300)).await;
    testbed::held!(guard);
    link.pass().unwrap();
    by(ms(1_500) + SLACK, "the holder is told", guard.lost()).await;
}
