//! Shared locks: beside clients of before them, and in a server without memory.

use lockkit_core::Kind;
use testbed::RedisServer;

use crate::common::{by, client, ms, queued};

/// A script of a client of before shared locks, as recorded at commit 405a696.
macro_rules! before_shared {
    ($($part:literal),+) => {
        concat!($(include_str!(concat!("../layouts/before_shared/", $part, ".lua"))),+)
    };
}

const ACQUIRE_BEFORE: &str = before_shared!("head", "acquire_fast", "prelude", "acquire");
const RELEASE_BEFORE: &str = before_shared!("head", "release_fast", "prelude", "release");

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_before_shared_locks_waits_for_a_group() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let guards = [
        locks.lock("a").shared().acquire().await.unwrap(),
        locks.lock("a").shared().acquire().await.unwrap(),
    ];
    let entry = format!("{:032x}.{:016x}.15000.before", 7, 9);
    let ask = || server.cli(&["EVAL", ACQUIRE_BEFORE, "1", "a", &entry, "15000", ""]).unwrap();
    for guard in guards {
        assert_eq!(ask().items()[0].text().as_deref(), Some("held"));
        guard.release().await.unwrap();
    }
    let token = ask().text().expect("free, and granted");
    let seen = locks.lock("a").inspect().await.unwrap();
    assert_eq!((&*seen.holders[0].label, seen.holders[0].kind), ("before", Kind::Exclusive));
    assert!(locks.lock("a").shared().try_acquire().await.unwrap().is_none(), "{token} holds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_before_shared_locks_grants_nothing_to_a_shared_request() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let held = locks.lock("a").acquire().await.unwrap();
    let shared = tokio::spawn(other.lock("a").shared().acquire());
    queued(&locks.lock("a"), 1).await;
    let exclusive = tokio::spawn(other.lock("a").acquire());
    queued(&locks.lock("a"), 2).await;
    let value = server.cli(&["GET", "a"]).unwrap().text().unwrap();
    server.cli(&["EVAL", RELEASE_BEFORE, "1", "a", &value, ""]).unwrap();
    let next = by(ms(10_000), "the exclusive request behind it", exclusive).await.unwrap().unwrap();
    assert!(next.token() > held.token());
    assert!(!shared.is_finished());
    // Dropped, until it asks again.
    assert_eq!(locks.lock("a").inspect().await.unwrap().waiters, Some(0));
    next.release().await.unwrap();
    shared.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_shared_grants_are_renewed_and_handed_on() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let held = locks.lock("a").acquire().await.unwrap();
    let mut waiting = Vec::new();
    for (n, locks) in [&locks, &other, &other].into_iter().enumerate() {
        waiting.push(tokio::spawn(locks.lock("a").shared().acquire()));
        queued(&locks.lock("a"), n + 1).await;
    }
    let writer = tokio::spawn(locks.lock("a").acquire());
    queued(&locks.lock("a"), 4).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]).unwrap();
    held.release().await.expect("a release grants to those who wait");
    for reader in waiting {
        let reader = by(ms(10_000), "a shared grant", reader).await.unwrap().unwrap();
        reader.renew().await.expect("a renewal needs no memory");
        reader.release().await.expect("nor does a release");
    }
    let writer = by(ms(10_000), "the last one's release", writer).await.unwrap().unwrap();
    writer.release().await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "a", "{a}:s", "{a}:m"]).unwrap().integer(), Some(0));
}
