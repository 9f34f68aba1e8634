//! Starts the real servers that networked backends are tested with, and puts faulty links in
//! front of them.
//!
//! Everything stays on 127.0.0.1, on ports below the ephemeral range and in temporary directories.
//! Every process ends with the value that started it, and also when the test process is killed.
#![cfg(unix)]

pub mod certificates;
pub mod children;
mod cluster;
mod command;
mod conformance;
pub mod contenders;
mod doors;
mod error;
mod etcd;
pub mod findings;
pub mod fuzz;
mod http;
pub mod java;
mod link;
pub mod log;
mod mariadb;
mod peer;
mod pgbouncer;
mod port;
mod postgres;
mod process;
pub mod python;
pub mod quickstart;
mod redis;
pub mod resp;
mod server;
pub mod soak;
pub mod timing;
mod unprivileged;
mod zookeeper;

pub use cluster::Cluster;
pub use error::{Error, Result};
pub use etcd::{Builder as EtcdBuilder, EtcdCluster, EtcdServer, EtcdSnapshot};
pub use link::{
    Builder as LinkBuilder, Connection, Connections, Counts, End, Fault, Flow, Framing, Link, Per,
    Postgres, Resp, Way,
};
pub use mariadb::MariadbServer;
pub use peer::Peer;
pub use pgbouncer::{Pgbouncer, Pooling};
pub use port::Port;
pub use postgres::{Builder as PostgresBuilder, PostgresServer};
pub use redis::{Builder as RedisBuilder, ClientCertificate, RedisServer};
pub use server::{Data, Place, Program, Server};
pub use zookeeper::{Builder as ZkBuilder, ZkBackup, ZkEnsemble, ZkServer};
