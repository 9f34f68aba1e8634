//! PostgreSQL for lockkit: a fair lease table, and advisory locks that expire, with fencing tokens.
//!
//! ```no_run
//! # async fn connect() -> lockkit_core::Result<()> {
//! use lockkit_postgres::{PostgresConfig, PostgresProvider};
//!
//! let config = PostgresConfig::from_url("postgres://localhost/app")?;
//! let locks = lockkit_core::Locks::new(PostgresProvider::connect(config).await?);
//! # drop(locks); Ok(()) }
//! ```

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod advisory;
mod config;
mod connection;
mod error;
mod examine;
mod line;
mod protocol;
mod provider;
mod rights;
mod setup;
mod table;
mod transaction;

pub use advisory::key;
pub use config::{PostgresConfig, Strategy};
pub use provider::PostgresProvider;
pub use transaction::{FenceError, STALE, TransactionLocks};
