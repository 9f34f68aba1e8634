//! Redis for lockkit: a fair, push-woken lock with a fencing token, in one round trip.
//!
//! ```no_run
//! # async fn connect() -> lockkit_core::Result<()> {
//! use lockkit_redis::{RedisConfig, RedisProvider};
//!
//! let provider = RedisProvider::connect(RedisConfig::tcp("127.0.0.1", 6379)).await?;
//! let locks = lockkit_core::Locks::new(provider);
//! # drop(locks); Ok(()) }
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod beating;
mod client;
mod config;
mod connection;
mod error;
mod examine;
mod lease;
mod operator;
mod protocol;
mod provider;
mod role;
mod scripts;
mod server;
mod shared;
mod subscription;

pub use config::RedisConfig;
pub use lockkit_core::kit::Tls as RedisTls;
pub use provider::RedisProvider;
