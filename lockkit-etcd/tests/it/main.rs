//! The tests of `lockkit-etcd` in one program, a module for each subject.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod beliefs;
mod cluster;
mod common;
mod connect;
mod examine;
mod foreign;
mod fuzz;
mod growth;
mod interop;
mod late;
mod layouts;
mod link;
mod moments;
mod operated;
mod orphans;
mod processes;
mod queues;
mod refused;
mod restore;
mod rolling;
mod server;
mod session;
mod soak;
#[cfg(feature = "tls")]
mod tls;
