//! The fences of this crate beside the cases, and fences with one mistake each.
#![cfg(feature = "conformance")]

mod alone;
mod broken;
mod memory;
#[cfg(unix)]
mod pauses;
#[cfg(all(unix, feature = "sqlx-postgres", feature = "sqlx-mysql", feature = "sqlx-sqlite"))]
mod sql;
