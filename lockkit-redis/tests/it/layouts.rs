//! What clients of each layout so far have left in a server, and a newer layout.

use std::time::{Duration, Instant};

use lockkit_core::{FencingToken, Locks};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::RedisServer;
use testbed::contenders::refused_for_its_layout;

use crate::common::{SLACK, by, client, ms, queued};

/// The tokens in the recording.
const HELD: u64 = 1_795_930_198_049_936;
const RELEASED: u64 = 1_795_930_198_049_305;
/// The mark of clients without a prefix.
const MARK: &str = "{}:layout";

/// A server that holds the recording; so much is left of the holder's ttl, and a second more at most
/// than this of the waiter's life.
fn recorded(left: Duration, life: Duration) -> RedisServer {
    let server = RedisServer::start().unwrap();
    let time = server.cli(&["TIME"]).unwrap().items()[0].text().unwrap();
    let until = (time.parse::<u128>().unwrap() + 1) * 1_000_000 + life.as_micros();
    let text = include_str!("../layouts/1.txt")
        .replace("<left>", &left.as_millis().to_string())
        .replace("<until>", &until.to_string());
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let reply = server.cli(&line.split('|').collect::<Vec<_>>()).unwrap();
        assert!(!matches!(reply, testbed::resp::Reply::Error(_)), "{line}: {reply:?}");
    }
    server
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_holder_and_waiter_go_first_and_later_tokens_are_greater() {
    // Longer than the machine may stand still before the first look.
    let (left, life) = (ms(5_000), ms(4_800));
    let (server, began) = (recorded(left, life), Instant::now());
    let locks = client(&server).await;
    let lock = locks.lock("held").ttl(ms(3_000));
    assert!(lock.try_acquire().await.unwrap().is_none());
    let seen = lock.inspect().await.unwrap();
    assert_eq!((&*seen.holders[0].label, seen.waiters), ("recorded holder", Some(1)));
    assert_eq!(seen.holders[0].token, Some(token(HELD)));
    let waiting = tokio::spawn(lock.acquire());
    // Behind the recorded waiter.
    queued(&lock, 2).await;
    let next = by(ms(9_000) + SLACK, "a grant", waiting).await.unwrap().unwrap();
    // The server may have begun to count before this test did.
    assert!(began.elapsed() + ms(200) >= left, "granted beside the recorded holder");
    assert!(next.token() > token(HELD));
    next.release().await.unwrap();
    let next = locks.lock("released").try_acquire().await.unwrap().expect("free");
    assert!(next.token() > token(RELEASED));
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_is_refused_at_connect_and_another_prefix_is_not() {
    let server = recorded(ms(60_000), ms(60_000));
    server.cli(&["SET", MARK, "2"]).unwrap();
    let at = || RedisConfig::tcp("127.0.0.1", server.port());
    let error = RedisProvider::connect(at()).await.unwrap_err();
    refused_for_its_layout(&error, "", "prefix");
    assert_eq!(server.cli(&["GET", MARK]).unwrap().text().as_deref(), Some("2"));
    let other = Locks::new(RedisProvider::connect(at().prefix("app:")).await.unwrap());
    other.lock("held").acquire().await.unwrap().release().await.unwrap();
    assert_eq!(server.cli(&["GET", "{app:}:layout"]).unwrap().text().as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_client_puts_the_mark_that_no_list_shows_unless_the_server_refuses_writes() {
    let server = RedisServer::builder().line("min-replicas-to-write 1").start().unwrap();
    let locks = client(&server).await;
    assert_eq!(server.cli(&["DBSIZE"]).unwrap().integer(), Some(0));
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]).unwrap();
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    drop(client(&server).await);
    assert_eq!(server.cli(&["GET", MARK]).unwrap().text().as_deref(), Some("1"));
    assert_eq!(server.cli(&["PTTL", MARK]).unwrap().integer(), Some(-1));
    assert!(locks.list("", None, 10).await.unwrap().is_empty());
}
