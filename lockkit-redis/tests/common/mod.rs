//! What the tests on a real server share.

#![allow(dead_code)] // each test file uses a part of it

use std::future::Future;
use std::time::{Duration, Instant};

use lockkit_core::{FencingToken, Guard, Lock, Locks};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::RedisServer;
use tokio::task::JoinHandle;

/// How long a noisy machine may take beyond a bound.
pub(crate) const SLACK: Duration = Duration::from_millis(700);

/// A client of its own at this port.
pub(crate) async fn join(port: u16) -> Locks {
    let config = RedisConfig::tcp("127.0.0.1", port);
    Locks::new(RedisProvider::connect(config).await.unwrap())
}

/// A client of its own.
pub(crate) async fn client(server: &RedisServer) -> Locks {
    join(server.port()).await
}

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// What `future` gives within `limit`.
pub(crate) async fn by<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    let began = Instant::now();
    match tokio::time::timeout(limit, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {:?}", began.elapsed()),
    }
}

/// A waiter that is in the queue by now.
pub(crate) async fn waiter(lock: &Lock, before: usize) -> JoinHandle<Guard> {
    let acquire = lock.acquire();
    let waiter = tokio::spawn(async move { acquire.await.unwrap() });
    queued(lock, before + 1).await;
    waiter
}

/// Waits until this many wait.
pub(crate) async fn queued(lock: &Lock, count: usize) {
    let began = Instant::now();
    loop {
        let seen = lock.inspect().await.unwrap();
        if seen.waiters == Some(count) {
            return;
        }
        assert!(began.elapsed() < ms(5_000), "{count} waiters expected: {seen:?}");
        tokio::time::sleep(ms(5)).await;
    }
}

/// Each waiter's token, where each releases before the next is granted.
pub(crate) async fn tokens(waiters: Vec<JoinHandle<Guard>>, limit: Duration) -> Vec<FencingToken> {
    let mut tokens = Vec::new();
    for waiter in waiters {
        let guard = by(limit, "the next waiter's grant", waiter).await.unwrap();
        tokens.push(guard.token());
        guard.release().await.unwrap();
    }
    tokens
}

/// The tokens of waiters that may have lost their places, where each releases at once.
pub(crate) async fn tokens_in_any_order(
    waiters: Vec<JoinHandle<Guard>>,
    limit: Duration,
) -> Vec<FencingToken> {
    let all = waiters.into_iter().map(|waiter| async {
        let guard = waiter.await.unwrap();
        let token = guard.token();
        guard.release().await.unwrap();
        token
    });
    by(limit, "every waiter's grant", futures_util::future::join_all(all)).await
}
