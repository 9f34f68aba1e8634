//! Fences in Redis and Valkey: scripts that write only with a token that is not stale, by the crate `redis`.
//!
//! ```no_run
//! # async fn pay(token: lockkit_fence::FencingToken) -> Result<(), Box<dyn std::error::Error>> {
//! use lockkit_fence::redis::RedisFence;
//!
//! let client = redis::Client::open("redis://127.0.0.1/")?;
//! let fence = RedisFence::new(client.get_multiplexed_async_connection().await?, "fence:{ledger}")?;
//! fence.raise(token).await?; // before the first read
//! fence.increment(token, "balance:{ledger}", -5).await?;
//! # Ok(()) }
//! ```
//!
//! The fence is a hash at a key of its own, which nothing else may touch, expire or evict. On a cluster give the fence and all keys behind it one
//! hash tag, as above. Redis may forget what it has not synced: see [`RedisFence::durable`].

mod script;

use redis::aio::ConnectionLike;
use redis::{FromRedisValue, ToRedisArgs, Value};

use crate::name::checked_name;
use crate::{Access, Error, Fencing, FencingToken, Result, Stale};
pub use script::FencedScript;
use script::{DELETE, INCREMENT, NOTHING, SET};

/// The fence of one resource in Redis, over a connection that can be cloned: a `MultiplexedConnection` or a `ConnectionManager`.
#[derive(Clone, Debug)]
pub struct RedisFence<C> {
    connection: C,
    key: String,
    is_durable: bool,
}

impl<C: ConnectionLike + Clone + Send + Sync> RedisFence<C> {
    /// The fence at this key.
    ///
    /// # Errors
    /// `Invalid`: the key is empty, longer than 255 bytes, or has a control character.
    pub fn new(connection: C, key: &str) -> Result<Self> {
        Ok(Self { connection, key: checked_name(key)?.to_owned(), is_durable: false })
    }

    /// Declares that the server syncs each write before it answers (`appendonly yes`, `appendfsync always`), and is not failed over
    /// to a replica that lags: only then does the fence survive a crash of it.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.is_durable = true;
        self
    }

    /// Raises the fence, before the new holder reads. Upholds C14.
    ///
    /// # Errors
    /// `Stale`: a newer token has been seen. `Invalid`: the key is no fence. `Unavailable`: the server.
    pub async fn raise(&self, access: impl Into<Access> + Send) -> Result<()> {
        self.call::<()>(access.into(), &NOTHING, "raise", &[], &[]).await
    }

    /// Whether this access is not stale; remembers nothing.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    pub async fn check(&self, access: impl Into<Access> + Send) -> Result<()> {
        self.call::<()>(access.into(), &NOTHING, "check", &[], &[]).await
    }

    /// `SET key value`, if the access is not stale; raises the fence.
    ///
    /// # Errors
    /// As [`raise`](Self::raise); nothing is written after `Stale`.
    pub async fn set(
        &self,
        access: impl Into<Access> + Send,
        key: &str,
        value: impl ToRedisArgs + Send,
    ) -> Result<()> {
        let value = value.to_redis_args();
        self.call(access.into(), &SET, "raise", &[key], &value).await
    }

    /// `DEL key`, if the access is not stale; raises the fence. Whether there was such a key.
    ///
    /// # Errors
    /// As [`set`](Self::set).
    pub async fn delete(&self, access: impl Into<Access> + Send, key: &str) -> Result<bool> {
        self.call(access.into(), &DELETE, "raise", &[key], &[]).await
    }

    /// `INCRBY key by`, if the access is not stale; raises the fence. The new number.
    ///
    /// # Errors
    /// As [`set`](Self::set). `Invalid`: what stands at the key is no number.
    pub async fn increment(
        &self,
        access: impl Into<Access> + Send,
        key: &str,
        by: i64,
    ) -> Result<i64> {
        self.call(access.into(), &INCREMENT, "raise", &[key], &by.to_redis_args()).await
    }

    /// Runs a script of the caller's, if the access is not stale; raises the fence. Its answer.
    ///
    /// # Errors
    /// As [`set`](Self::set). `Invalid`: the script failed. What it wrote before stays, as with every script.
    pub async fn run<T: FromRedisValue>(
        &self,
        access: impl Into<Access> + Send,
        script: &FencedScript,
        keys: &[&str],
        arguments: &[&str],
    ) -> Result<T> {
        let arguments: Vec<_> = arguments.iter().flat_map(ToRedisArgs::to_redis_args).collect();
        self.call(access.into(), script, "raise", keys, &arguments).await
    }

    async fn call<T: FromRedisValue>(
        &self,
        access: Access,
        script: &FencedScript,
        wish: &str,
        keys: &[&str],
        arguments: &[Vec<u8>],
    ) -> Result<T> {
        let field = match access {
            Access::Exclusive(_) => "exclusive".to_owned(),
            Access::Shared(_) => "shared".to_owned(),
            Access::Counted { slot, .. } => format!("slot:{slot}"),
        };
        let mut invocation = script.0.prepare_invoke();
        invocation.key(&self.key);
        for key in keys {
            invocation.key(*key);
        }
        invocation.arg(field).arg(access.token().as_u64()).arg(wish);
        for argument in arguments {
            invocation.arg(argument.as_slice());
        }
        let mut connection = self.connection.clone();
        let answer: Vec<Value> = invocation.invoke_async(&mut connection).await.map_err(failed)?;
        let mut answer = answer.into_iter();
        match answer.next() {
            Some(Value::Int(1)) => redis::from_redis_value(answer.next().unwrap_or_default())
                .map_err(Error::unavailable),
            _ => Err(refusal(access.token(), answer.next().unwrap_or_default())),
        }
    }
}

/// The refusal of a token behind the newest one, in the script's answer.
fn refusal(presented: FencingToken, newest: Value) -> Error {
    let newest = redis::from_redis_value::<String>(newest).ok().and_then(|text| text.parse().ok());
    newest.map_or_else(
        || Error::unavailable("the script answered without the newest token"),
        |newest| Stale { presented, newest }.into(),
    )
}

fn failed(error: redis::RedisError) -> Error {
    match error.code() {
        Some("WRONGTYPE" | "ERR") => Error::invalid(
            error.to_string(),
            "let the fence's key be a hash that only fences use, and give a script keys of the type that it wants",
        ),
        _ => Error::unavailable(error),
    }
}

impl<C: ConnectionLike + Clone + Send + Sync> Fencing for RedisFence<C> {
    async fn raise(&self, access: Access) -> Result<()> {
        Self::raise(self, access).await
    }

    async fn check(&self, access: Access) -> Result<()> {
        Self::check(self, access).await
    }

    fn is_durable(&self) -> bool {
        self.is_durable
    }
}
