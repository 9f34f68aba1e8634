//! What an operator is shown of a database that others use too.

use std::time::Instant;

use crate::common::{by, client, ms, queued, report};
use lockkit_core::{Locks, Operator};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{RedisServer, contenders::waiter};

async fn prefixed(server: &RedisServer, prefix: &str) -> Locks {
    let config = RedisConfig::tcp("127.0.0.1", server.port()).prefix(prefix);
    Locks::new(RedisProvider::connect(config).await.unwrap())
}

async fn names(locks: &Locks, prefix: &str, limit: usize) -> Vec<String> {
    let found = by(ms(3_000), "a list", locks.list(prefix, None, limit)).await.unwrap();
    found.into_iter().map(|seen| seen.name.as_str().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_or_waited_for_is_listed_among_200_000_foreign_keys_and_nothing_else() {
    let server = RedisServer::start().unwrap();
    // In parts: each is answered in time on a busy machine too.
    for part in 0..10 {
        let fill =
            "for i = 1, 20000 do redis.call('SET', 'session:' .. ARGV[1] .. i, 'theirs') end";
        server.cli(&["EVAL", fill, "0", &format!("{part}:")]).unwrap();
    }
    // One that is no UTF-8, in a lock's place too, and one of another type.
    for key in ["'\\255\\254'", "'{\\255}:t'", "'{app:\\255}:n'"] {
        server.cli(&["EVAL", &format!("redis.call('SET', {key}, 'x')"), "0"]).unwrap();
    }
    server.cli(&["SET", "{odd}:n", "theirs"]).unwrap();
    server.cli(&["SET", "waited", "theirs"]).unwrap();
    for prefix in ["", "app:"] {
        let locks = prefixed(&server, prefix).await;
        let mut held = Vec::new();
        for name in ["a/1", "a/2", "b*", "{c}"] {
            held.push(locks.lock(name).acquire().await.unwrap());
        }
        locks.lock("past").acquire().await.unwrap().release().await.unwrap();
        let waiting = waiter(&locks.lock("a/1"), 0).await;
        let began = Instant::now();
        assert_eq!(names(&locks, "", usize::MAX).await, ["a/1", "a/2", "b*", "{c}"], "{prefix}");
        report(&format!("redis: a list among 200,000 foreign keys: {:?}", began.elapsed()));
        assert_eq!(names(&locks, "a/", 100).await, ["a/1", "a/2"]);
        assert_eq!(names(&locks, "b*", 100).await, ["b*"]);
        assert_eq!(names(&locks, "{", 100).await, ["{c}"]);
        assert_eq!(names(&locks, "*", 100).await, [""; 0]);
        assert_eq!(names(&locks, "", 1).await, ["a/1"]);
        waiting.abort();
        for guard in held {
            guard.release().await.unwrap();
        }
    }
    // Held by another client, it is listed while one of ours waits for it.
    let locks = client(&server).await;
    let waiting = tokio::spawn(locks.lock("waited").acquire());
    queued(&locks.lock("waited"), 1).await;
    assert_eq!(names(&locks, "w", 100).await, ["waited"]);
    waiting.abort();
}

#[tokio::test]
async fn a_list_of_none_asks_for_none() {
    let server = RedisServer::start().unwrap();
    let provider = RedisProvider::connect(RedisConfig::tcp("127.0.0.1", server.port())).await;
    let provider = provider.unwrap();
    let locks = Locks::new(provider.clone());
    let held = locks.lock("a").acquire().await.unwrap();
    let operator: &dyn Operator = lockkit_core::LockProvider::operator(&provider).unwrap();
    assert!(operator.list("", None, 0).await.unwrap().is_empty());
    assert_eq!(operator.list("", None, usize::MAX).await.unwrap().len(), 1);
    held.release().await.unwrap();
}

#[tokio::test]
async fn a_foreign_holder_with_an_empty_value_is_held_for_a_try_and_for_an_inspection() {
    let server = RedisServer::start().unwrap();
    let locks = client(&server).await;
    server.cli(&["SET", "a", "", "PX", "60000"]).unwrap();
    let lock = locks.lock("a");
    assert!(lock.try_acquire().await.unwrap().is_none());
    let seen = lock.inspect().await.unwrap();
    let holder = seen.holders.first().expect("held by another client");
    assert!(holder.token.is_none() && holder.expires_in.is_some(), "{holder:?}");
}
