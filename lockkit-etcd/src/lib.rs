//! etcd for lockkit: a fair, push-woken lock whose fencing token is a revision, in one round trip.
//!
//! ```no_run
//! # async fn connect() -> lockkit_core::Result<()> {
//! use lockkit_etcd::{EtcdConfig, EtcdProvider};
//!
//! let config = EtcdConfig::new([("etcd-1", 2379), ("etcd-2", 2379), ("etcd-3", 2379)]);
//! let locks = lockkit_core::Locks::new(EtcdProvider::connect(config).await?);
//! # drop(locks); Ok(()) }
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod answer;
mod client;
mod config;
mod endpoints;
mod error;
mod examine;
mod history;
mod keeper;
mod lease;
mod mark;
mod member_client;
mod members;
mod operator;
mod own;
mod protocol;
mod provider;
mod queue;
mod replica;
mod requests;
mod server;
mod session;
mod sight;
mod slots;
mod turns;
mod watch;

pub use config::EtcdConfig;
pub use lease::EtcdGrant;
pub use lockkit_core::kit::Tls as EtcdTls;
pub use provider::EtcdProvider;
