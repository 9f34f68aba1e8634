//! Beside clients of the field on the same key: redis-py's lock, SET NX, DEL, and other data.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::common::{SLACK, by, client, ms, queued, waiter};
use lockkit_core::{Error, Locks, LossReason};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::contenders::held_by_another;
use testbed::{Peer, RedisServer, python};

const REDIS_PY: &str = "6.4.0";
const TTL: Duration = ms(3_000);
/// A waiter's life is its ttl here, and it asks three times in one.
const HEARTBEAT: Duration = ms(1_000);

/// A process that uses redis-py.
fn redis_py(server: &RedisServer) -> Peer {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = Command::new(python::with("redis", REDIS_PY, kept).unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/interop/client.py");
    command.arg(script).arg(server.port().to_string());
    Peer::start(command).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_py_and_lockkit_exclude_each_other() {
    let server = RedisServer::start().unwrap();
    let (locks, other) = (client(&server).await, redis_py(&server));
    // With a ttl of its own, and without one, which is its default.
    for ttl in ["30", "0"] {
        assert_eq!(other.tell(&format!("acquire app:job {ttl} 1")).unwrap(), "yes");
        held_by_another(&locks.lock("app:job"), ms(100)).await;
        let seen = locks.lock("app:job").inspect().await.unwrap();
        assert!(seen.holders.len() == 1 && seen.holders[0].token.is_none(), "{seen:?}");
        let waiting = waiter(&locks.lock("app:job").ttl(TTL), 0).await;
        assert_eq!(other.tell("release").unwrap(), "released");
        // Its release tells nobody: the head of the queue finds it.
        let guard = by(HEARTBEAT + SLACK, "the waiter's grant", waiting).await.unwrap();
        assert_eq!(other.tell("acquire app:job 30 0.1").unwrap(), "no");
        guard.release().await.unwrap();
    }
    assert_eq!(other.tell("acquire app:job 30 1").unwrap(), "yes");
    // The same key by a prefix and the rest of it.
    let config = RedisConfig::tcp("127.0.0.1", server.port()).prefix("app:");
    let prefixed = Locks::new(RedisProvider::connect(config).await.unwrap());
    held_by_another(&prefixed.lock("job"), ms(100)).await;
    assert_eq!(other.tell("release").unwrap(), "released");
    let guard = prefixed.lock("job").acquire().await.unwrap();
    assert_eq!(other.tell("acquire app:job 30 0.1").unwrap(), "no");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_py_and_lockkit_share_a_counter_without_a_lost_update() {
    const ROUNDS: u32 = 30;
    let server = RedisServer::start().unwrap();
    let file = server.place().directory().join("counter");
    fs::write(&file, "0").unwrap();
    let add = |file: &Path| {
        let count: u32 = fs::read_to_string(file).unwrap().parse().unwrap();
        std::thread::yield_now();
        fs::write(file, (count + 1).to_string()).unwrap();
    };
    let others: Vec<_> = (0..2)
        .map(|_| {
            let (other, file) = (redis_py(&server), file.clone());
            tokio::task::spawn_blocking(move || {
                for _ in 0..ROUNDS {
                    assert_eq!(other.tell("acquire shared 30 30").unwrap(), "yes");
                    add(&file);
                    assert_eq!(other.tell("release").unwrap(), "released");
                }
            })
        })
        .collect();
    let locks = client(&server).await;
    for _ in 0..ROUNDS {
        let guard = locks.lock("shared").ttl(ms(1_000)).acquire().await.unwrap();
        add(&file);
        // Where the machine stood still for so long, the count shows nothing.
        testbed::held!(guard);
        guard.release().await.unwrap();
        // It polls: without a pause of ours it would rarely get in.
        tokio::time::sleep(ms(10)).await;
    }
    for other in others {
        by(ms(30_000), "redis-py's rounds", other).await.unwrap();
    }
    assert_eq!(fs::read_to_string(&file).unwrap(), (3 * ROUNDS).to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn data_of_another_type_is_a_typed_error_and_stays_untouched() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    server.cli(&["RPUSH", "list", "a", "b"]).unwrap();
    server.cli(&["HSET", "hash", "a", "b"]).unwrap();
    let dumps = || ["list", "hash"].map(|key| server.cli(&["DUMP", key]).unwrap());
    let before = dumps();
    for name in ["list", "hash"] {
        let error = by(ms(1_000), "an answer", locks.lock(name).acquire()).await.unwrap_err();
        assert!(matches!(&error, Error::Rejected { remedy, .. } if !remedy.is_empty()), "{error}");
        let error = locks.lock(name).try_acquire().await.unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{error}");
        assert!(matches!(locks.lock(name).inspect().await, Err(Error::Rejected { .. })));
    }
    assert_eq!(dumps(), before);
    let keys = server.cli(&["DBSIZE"]).unwrap().integer();
    assert_eq!(keys, Some(3), "more of ours than the mark lies beside them");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_value_is_contended_and_stays_untouched() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    server.cli(&["SET", "theirs", "value"]).unwrap();
    held_by_another(&locks.lock("theirs"), ms(100)).await;
    assert_eq!(server.cli(&["GET", "theirs"]).unwrap().text().as_deref(), Some("value"));
    assert_eq!(server.cli(&["PTTL", "theirs"]).unwrap().integer(), Some(-1));
    queued(&locks.lock("theirs"), 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_del_is_found_by_the_head_at_its_heartbeat_and_by_the_holder_at_its_renewal() {
    let server = RedisServer::start().unwrap();
    let (holder, locks) = (client(&server).await, client(&server).await);
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        // No stall of the machine makes it an expiry.
        let guard = holder.lock("a").ttl(TTL * 2).acquire().await.unwrap();
        let token = guard.token();
        let waiting = waiter(&locks.lock("a").ttl(TTL), 0).await;
        server.cli(&["DEL", "a"]).unwrap();
        let began = Instant::now();
        let next = by(HEARTBEAT + SLACK, "the head's grant", waiting).await.unwrap();
        slowest = slowest.max(began.elapsed());
        assert!(next.token() > token);
        let reason = by(TTL + SLACK, "the holder is told", guard.lost()).await;
        assert_eq!(reason, LossReason::Removed);
        // It ends nothing but its own.
        assert!(guard.release().await.is_err());
        testbed::held!(next);
        next.release().await.unwrap();
    }
    println!("a foreign DEL: next grant after {slowest:?} at the latest, of {HEARTBEAT:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn foreign_clients_never_get_in_between_release_and_next_waiter_but_may_after_an_expiry() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    let lock = locks.lock("a").ttl(TTL);
    let held = lock.acquire().await.unwrap();
    let waiters: Vec<_> = (0..200)
        .map(|_| {
            let acquire = lock.acquire();
            tokio::spawn(async move { acquire.await.unwrap().release().await.unwrap() })
        })
        .collect();
    queued(&lock, 200).await;
    // A client that does nothing else than to try, until the queue is empty.
    let mut connection = server.client().unwrap();
    let foreign = tokio::task::spawn_blocking(move || {
        let mut tries = 0;
        while connection.command(&["ZCARD", "{a}:n"]).unwrap().integer() != Some(0) {
            let set = connection.command(&["SET", "a", "foreign", "NX", "PX", "50"]).unwrap();
            let queue = connection.command(&["ZCARD", "{a}:n"]).unwrap().integer();
            assert!(set.text().is_none() || queue == Some(0), "it got in before {queue:?} waiters");
            tries += 1;
        }
        tries
    });
    held.release().await.unwrap();
    for waiter in waiters {
        by(ms(10_000), "a waiter's grant", waiter).await.unwrap();
    }
    println!("{} foreign tries while 200 waiters were granted", foreign.await.unwrap());
    // An expiry hands nothing over: until somebody asks, the name is free for all.
    server.cli(&["DEL", "a"]).unwrap();
    let guard = lock.acquire().await.unwrap();
    let waiting = waiter(&lock, 0).await;
    let script =
        "redis.call('DEL', KEYS[1]) return redis.call('SET', KEYS[1], 'foreign', 'NX', 'PX', 300)";
    server.cli(&["EVAL", script, "1", "a"]).unwrap();
    let next = by(HEARTBEAT + SLACK, "a grant after the foreign one", waiting).await.unwrap();
    assert!(next.token() > guard.token());
}
