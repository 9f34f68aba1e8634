//! PostgreSQL for lockkit: advisory locks that expire, and a fair lease table, with fencing tokens.
//!
//! ```no_run
//! # async fn connect() -> lockkit_core::Result<()> {
//! use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
//!
//! let config = PostgresConfig::from_url("postgres://localhost/app")?.strategy(Strategy::Table);
//! let locks = lockkit_core::Locks::new(PostgresProvider::connect(config).await?);
//! # drop(locks); Ok(()) }
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod advisory;
mod config;
mod connection;
mod error;
mod line;
mod listener;
mod protocol;
mod provider;
mod setup;
mod table;
mod transaction;

pub use config::{PostgresConfig, Strategy};
pub use protocol::key;
pub use provider::PostgresProvider;
pub use transaction::{FenceError, STALE, TransactionLocks};
