//! The fences of this crate beside the cases, and fences with one mistake each.
#![cfg(feature = "conformance")]

mod alone;
mod broken;
#[cfg(all(
    unix,
    feature = "etcd",
    feature = "file",
    feature = "http",
    feature = "object-store",
    feature = "redis",
    feature = "sqlx-mysql",
    feature = "sqlx-postgres",
    feature = "sqlx-sqlite",
    feature = "zookeeper"
))]
mod costs;
#[cfg(all(unix, feature = "etcd"))]
mod etcd;
#[cfg(all(unix, feature = "file"))]
mod file;
#[cfg(all(unix, feature = "http"))]
mod http;
mod memory;
#[cfg(all(unix, feature = "object-store"))]
mod object;
#[cfg(unix)]
mod pauses;
#[cfg(all(unix, feature = "sqlx-postgres"))]
mod queue;
#[cfg(all(unix, feature = "redis"))]
mod redis;
#[cfg(all(unix, feature = "sqlx-postgres", feature = "sqlx-mysql", feature = "sqlx-sqlite"))]
mod sql;
#[cfg(all(unix, feature = "zookeeper"))]
mod zookeeper;
