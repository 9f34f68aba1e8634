//! The resource's side of [lockkit](https://docs.rs/lockkit): fences that refuse the writes of a stale holder.
//!
//! A lock service cannot keep a paused holder from writing late. The resource can: it keeps the newest token that it has
//! seen, and refuses older ones. A service that only checks tokens needs nothing but this crate.
//!
//! 1. A new holder *raises* the fence before it reads. What it read before could still be changed by the holder before it.
//! 2. From then on tokens that are equal or greater pass, and smaller ones are [`Stale`].
//! 3. The check and the write are one step: one transaction, one script, one critical section.
//!
//! [`Access`] is what a holder presents, [`Seen`] is the rule, [`Fenced`] fences a value in memory, and [`Fencing`] is what every
//! fence can do.

#![cfg_attr(not(test), warn(clippy::disallowed_methods))]

mod access;
#[cfg(any(feature = "etcd", feature = "object-store", feature = "zookeeper"))]
mod cell;
#[cfg(feature = "conformance")]
pub mod conformance;
mod error;
#[cfg(feature = "etcd")]
pub mod etcd;
mod fenced;
mod fencing;
#[cfg(all(unix, feature = "file"))]
pub mod file;
#[cfg(feature = "http")]
pub mod http;
#[cfg(any(
    feature = "etcd",
    feature = "redis",
    feature = "sqlx-mysql",
    feature = "sqlx-postgres",
    feature = "sqlx-sqlite",
    feature = "zookeeper"
))]
mod name;
mod not_a_token;
#[cfg(feature = "object-store")]
pub mod object;
#[cfg(feature = "redis")]
pub mod redis;
mod seen;
#[cfg(any(feature = "sqlx-mysql", feature = "sqlx-postgres", feature = "sqlx-sqlite"))]
pub mod sql;
mod stale;
mod token;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;

pub use access::Access;
pub use error::Error;
pub use fenced::{Fence, Fenced};
pub use fencing::Fencing;
pub use not_a_token::NotAToken;
pub use seen::Seen;
pub use stale::Stale;
pub use token::FencingToken;

/// What most of this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;
