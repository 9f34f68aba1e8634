//! ZooKeeper for lockkit: a fair, push-woken lock with a fencing token, beside Curator and kazoo.
//!
//! ```no_run
//! # async fn connect() -> lockkit_core::Result<()> {
//! use lockkit_zk::{ZkConfig, ZkProvider};
//!
//! let config = ZkConfig::new(["zk1", "zk2", "zk3:2182"]).base("/locks");
//! let locks = lockkit_core::Locks::new(ZkProvider::connect(config).await?);
//! # drop(locks); Ok(()) }
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod acquire;
mod cleanup;
mod client;
mod config;
mod connect;
mod error;
mod examine;
mod lease;
mod limits;
#[cfg(test)]
mod model;
mod operator;
mod orphans;
mod pace;
mod parents;
mod place;
mod proof;
mod protocol;
mod provider;
mod queue;
mod session;
mod sessions;
#[cfg(feature = "tls")]
mod tls;
mod tokens;
mod usage;
mod wait;
mod why;

pub use config::{Access, Layout, Right, ZkConfig};
pub use lease::ZkNode;
pub use lockkit_core::kit::Tls as ZkTls;
pub use provider::ZkProvider;
