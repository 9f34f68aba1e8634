//! Fences in Redis.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::redis::{FencedScript, RedisFence};
use lockkit_fence::{Access, Error, Fencing, FencingToken, Result, Stale};
use redis::aio::MultiplexedConnection;
use testbed::{Data, RedisServer};

use crate::pauses::{self, Open};

pub(crate) struct Numbers {
    server: Arc<RedisServer>,
    names: AtomicU64,
}

pub(crate) struct Number {
    server: Arc<RedisServer>,
    connection: MultiplexedConnection,
    name: String,
}

async fn connected(server: &RedisServer) -> MultiplexedConnection {
    let client = redis::Client::open(server.url()).expect("a URL");
    client.get_multiplexed_async_connection().await.expect("a connection")
}

impl Numbers {
    pub(crate) fn start() -> Self {
        let server = RedisServer::builder().appendonly().start().expect("Redis");
        Self { server: Arc::new(server), names: AtomicU64::new(0) }
    }
}

impl Fixture for Numbers {
    type Resource = Number;

    async fn fresh(&self) -> Number {
        let name = format!("number:{}", self.names.fetch_add(1, Ordering::Relaxed));
        Number { server: Arc::clone(&self.server), connection: connected(&self.server).await, name }
    }
}

impl Number {
    fn fence(&self) -> RedisFence<MultiplexedConnection> {
        let key = format!("fence:{}", self.name);
        RedisFence::new(self.connection.clone(), &key).expect("a key").durable()
    }
}

impl Fencing for Number {
    async fn raise(&self, access: Access) -> Result<()> {
        self.fence().raise(access).await
    }

    async fn check(&self, access: Access) -> Result<()> {
        self.fence().check(access).await
    }

    fn is_durable(&self) -> bool {
        Fencing::is_durable(&self.fence())
    }
}

impl Resource for Number {
    async fn begin(&self, access: Access) -> Result<u64> {
        self.fence().raise(access).await?;
        Ok(self.peek().await)
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        self.fence().set(access, &self.name, value).await
    }

    async fn restarted(self) -> Self {
        self.server.restart(Data::Kept).expect("a restart");
        Self { connection: connected(&self.server).await, ..self }
    }
}

impl Open for Number {
    async fn peek(&self) -> u64 {
        let get = redis::cmd("GET").arg(&self.name).query_async(&mut self.connection.clone()).await;
        get.map(Option::unwrap_or_default).expect("the number")
    }

    async fn overwrite(&self, value: u64) {
        let mut set = redis::cmd("SET");
        set.arg(&self.name).arg(value);
        set.exec_async(&mut self.connection.clone()).await.expect("a write");
    }
}

fn token(value: u64) -> FencingToken {
    FencingToken::new(value).expect("a token")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_redis_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Numbers::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn a_thousand_pauses_of_holders_lose_no_update_behind_a_fence_in_redis() {
    pauses::keeps_updates(&Numbers::start(), 10, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_script_writes_with_the_newest_token_only() {
    let numbers = Numbers::start();
    let number = numbers.fresh().await;
    let fence = number.fence();
    let (old, new) = (token(33), token(34));
    let swap = FencedScript::new(
        "local old = redis.call('GET', KEYS[1]) redis.call('SET', KEYS[1], ARGV[1]) return {old, #KEYS, #ARGV}",
    );
    fence.set(old, "a", "one").await.expect("set");
    assert_eq!(fence.increment(old, "n", 5).await.expect("increment"), 5);
    let swapped: (String, u64, u64) =
        fence.run(new, &swap, &["a"], &["two"]).await.expect("a script");
    assert_eq!(swapped, ("one".to_owned(), 1, 1));
    let nothing = FencedScript::new("redis.call('PING')");
    fence.run::<()>(new, &nothing, &[], &[]).await.expect("a script without an answer");

    let stale = Stale { presented: old, newest: new };
    assert_eq!(fence.set(old, "a", "late").await.expect_err("stale").stale(), Some(stale));
    assert_eq!(fence.increment(old, "n", 1).await.expect_err("stale").stale(), Some(stale));
    assert_eq!(fence.delete(old, "a").await.expect_err("stale").stale(), Some(stale));
    let late = fence.run::<(String, u64, u64)>(old, &swap, &["a"], &["late"]).await;
    assert_eq!(late.expect_err("stale").stale(), Some(stale));
    let get = |key: &str| numbers.server.cli(&["GET", key]).expect("an answer").text();
    assert_eq!((get("a"), get("n")), (Some("two".to_owned()), Some("5".to_owned())));
    assert!(fence.delete(new, "a").await.expect("delete"));
    assert!(!fence.delete(new, "a").await.expect("delete again"));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_refuses_with_a_clear_error_what_it_cannot_serve() {
    let numbers = Numbers::start();
    let connection = connected(&numbers.server).await;
    for name in ["", "a\0b", "line\n", &"x".repeat(256)] {
        let error = RedisFence::new(connection.clone(), name).expect_err(name);
        assert!(matches!(error, Error::Invalid { .. }), "{name:?}: {error}");
    }
    let cli = |words: &[&str]| numbers.server.cli(words).expect("an answer");
    let fence = RedisFence::new(connection, "fence").expect("a key");
    let far = token(1_800_000_000_000_000);
    // A text where the fence should be, and a field that is no token.
    for spoiled in [&["SET", "fence", "34"][..], &["HSET", "fence", "exclusive", "many"]] {
        cli(spoiled);
        let error = fence.set(far, "value", "new").await.expect_err("no fence");
        assert!(matches!(error, Error::Invalid { .. }), "{spoiled:?}: {error:?}");
        cli(&["DEL", "fence"]);
    }
    assert_eq!(cli(&["GET", "value"]).text(), None);
    // What is no number is not incremented.
    cli(&["SET", "value", "text"]);
    let error = fence.increment(far, "value", 1).await.expect_err("no number");
    assert!(
        matches!(&error, Error::Invalid { .. }) && error.to_string().contains("not an integer"),
        "{error}"
    );
    assert_eq!(cli(&["GET", "value"]).text().as_deref(), Some("text"));
    let error = fence.set(token(41), "value", "new").await.expect_err("far below");
    assert!(error.to_string().contains("another store"), "{error}");
    assert_eq!(cli(&["GET", "value"]).text().as_deref(), Some("text"));
}
