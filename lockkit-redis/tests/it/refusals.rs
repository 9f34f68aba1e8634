//! What a server that refuses writes by its settings does to locks: no memory left, a snapshot that
//! failed, too few replicas, a primary that was demoted.

use std::fs;

use crate::common::{ms, report};
use crate::turns::party::{Party, Standing, TTL, request};
use lockkit_core::{Applied, Error, LockProvider, Result};
use testbed::{RedisServer, timing};

/// A setting by which a server refuses writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Setting {
    MaxMemory,
    StopWritesOnBgsaveError,
    MinReplicasToWrite,
    ReplicaOf,
}

const ALL: [Setting; 4] = [
    Setting::MaxMemory,
    Setting::StopWritesOnBgsaveError,
    Setting::MinReplicasToWrite,
    Setting::ReplicaOf,
];

impl Setting {
    /// Makes the server refuse.
    async fn refuse(self, server: &RedisServer) {
        match self {
            Self::MaxMemory => set(server, &["CONFIG", "SET", "maxmemory", "1"]),
            Self::StopWritesOnBgsaveError => {
                // Nothing can be renamed to the path of a directory.
                fs::create_dir(server.place().data().join("dump.rdb")).unwrap();
                snapshot(server, "err").await;
            }
            Self::MinReplicasToWrite => {
                set(server, &["CONFIG", "SET", "min-replicas-to-write", "1"]);
            }
            Self::ReplicaOf => set(server, &["REPLICAOF", "127.0.0.1", "1"]),
        }
    }

    /// Lets the server write again.
    async fn serve(self, server: &RedisServer) {
        match self {
            Self::MaxMemory => set(server, &["CONFIG", "SET", "maxmemory", "0"]),
            Self::StopWritesOnBgsaveError => {
                fs::remove_dir(server.place().data().join("dump.rdb")).unwrap();
                snapshot(server, "ok").await;
            }
            Self::MinReplicasToWrite => {
                set(server, &["CONFIG", "SET", "min-replicas-to-write", "0"]);
            }
            Self::ReplicaOf => set(server, &["REPLICAOF", "NO", "ONE"]),
        }
    }
}

fn set(server: &RedisServer, words: &[&str]) {
    assert_eq!(server.cli(words).unwrap().text().as_deref(), Some("OK"), "{words:?}");
}

/// Has a snapshot written, which ends with this status.
async fn snapshot(server: &RedisServer, status: &str) {
    server.cli(&["BGSAVE"]).unwrap();
    timing::until(ms(10_000), "the end of a snapshot", || {
        server.info("rdb_bgsave_in_progress").unwrap() == "0"
            && server.info("rdb_last_bgsave_status").unwrap() == status
    })
    .await;
}

/// A server that takes snapshots, as one with the settings of its package does.
fn server() -> RedisServer {
    RedisServer::builder().line("save 3600 1").start().unwrap()
}

/// How a call ended, in the words of `docs/redis.md`.
fn outcome<T>(result: &Result<T>) -> &'static str {
    match result {
        Ok(_) => "goes on",
        Err(Error::Unavailable { applied: Applied::No, .. }) => "refused, without effect",
        Err(Error::Unavailable { applied: Applied::Maybe, .. }) => "refused, perhaps with effect",
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_a_release_grants_to_the_next_waiter() {
    let server = server();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let Standing { holder, mut line } = ours.holder(&other, "a", TTL, 1).await;
    Setting::MaxMemory.refuse(&server).await;
    let released = holder.lease.release().await;
    let next = line.pop_front().unwrap().granted(ms(1_000)).await;
    released.expect("a grant replaces what is there");
    next.lease.renew().await.expect("a renewal needs no memory");
    next.lease.release().await.expect("a release needs no memory");
    assert_eq!(server.cli(&["EXISTS", "a"]).unwrap().integer(), Some(0));
    Setting::MaxMemory.serve(&server).await;
    assert!(other.takes("a").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_memory_the_waiters_of_two_clients_keep_their_places_and_are_granted() {
    let server = server();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let ttl = ms(3_000);
    let holder = ours.provider.acquire(&request("a", TTL)).await.unwrap();
    let first = other.waiter("a", ttl, 0).await;
    let second = ours.waiter("a", ttl, 1).await;
    Setting::MaxMemory.refuse(&server).await;
    // Beyond a heartbeat of each.
    tokio::time::sleep(ms(1_200)).await;
    assert_eq!(ours.waiters("a").await, 2);
    holder.lease.release().await.unwrap();
    let first = first.granted(ms(2_000)).await;
    assert!(first.token > holder.token);
    first.lease.release().await.unwrap();
    let second = second.granted(ms(2_000)).await;
    assert!(second.token > first.token);
    second.lease.release().await.unwrap();
}

/// What each call says while the server refuses, in the order of the table in `docs/redis.md`.
async fn calls(server: &RedisServer, setting: Setting) -> [&'static str; 6] {
    let (ours, other) = (Party::new(server).await, Party::new(server).await);
    let [held, kept] = [request("held", TTL), request("kept", TTL)];
    let first = ours.provider.acquire(&held).await.unwrap();
    let second = ours.provider.acquire(&kept).await.unwrap();
    setting.refuse(server).await;
    let free = other.provider.try_acquire(&request("free", TTL)).await;
    let tried = other.provider.try_acquire(&request("held", TTL)).await;
    let waits = other.provider.acquire(&request("held", TTL)).await;
    let renewed = first.lease.renew().await;
    let released = first.lease.release().await;
    let withdrawn = ours.provider.withdraw(&kept).await;
    let said = [
        outcome(&free),
        outcome(&tried),
        outcome(&waits),
        outcome(&renewed),
        outcome(&released),
        outcome(&withdrawn),
    ];
    setting.serve(server).await;
    assert!(!matches!(tried, Ok(Some(_))), "{setting:?}: two hold it");
    for key in ["free", "{free}:t", "{free}:n", "{held}:n"] {
        let left = server.cli(&["EXISTS", key]).unwrap().integer();
        assert_eq!(left, Some(0), "{setting:?}: {key} is left by what had no effect");
    }
    first.lease.release().await.unwrap();
    ours.provider.withdraw(&kept).await.unwrap();
    drop(second);
    for name in ["free", "held", "kept"] {
        assert!(other.takes(name).await.is_some(), "{setting:?}: {name} is still held");
    }
    said
}

#[tokio::test(flavor = "multi_thread")]
async fn each_setting_that_refuses_writes_does_to_each_call_what_the_page_says() {
    const NO: &str = "refused, without effect";
    const OK: &str = "goes on";
    for setting in ALL {
        let said = calls(&server(), setting).await;
        report(&format!("redis: {setting:?}: {}", said.join(" | ")));
        let expected = match setting {
            Setting::MaxMemory => [NO, OK, NO, OK, OK, OK],
            // It may not know yet what its primary has granted.
            Setting::ReplicaOf => [NO; 6],
            _ => [NO, OK, NO, NO, NO, NO],
        };
        assert_eq!(said, expected, "{setting:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_snapshot_costs_every_hold_at_its_ttl_and_none_before() {
    let server = server();
    let locks = crate::common::client(&server).await;
    let ttl = ms(1_500);
    let guard = locks.lock("a").ttl(ttl).acquire().await.unwrap();
    Setting::StopWritesOnBgsaveError.refuse(&server).await;
    let refused = std::time::Instant::now();
    let watch = guard.watch();
    let reason = crate::common::by(ttl * 2, "the loss", watch.lost()).await;
    assert_eq!(reason, lockkit_core::LossReason::Expired);
    report(&format!("redis: lost {:?} after the failed snapshot, ttl {ttl:?}", refused.elapsed()));
    Setting::StopWritesOnBgsaveError.serve(&server).await;
    let next = locks.lock("a").ttl(ttl).acquire().await.unwrap();
    assert!(next.token() > guard.token());
}
