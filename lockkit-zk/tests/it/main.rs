//! The tests of `lockkit-zk` in one program, a module for each subject.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod access;
mod beliefs;
mod cancel;
mod common;
mod connect;
mod crowd;
mod ensemble;
mod examine;
mod fuzz;
mod herd;
mod idle;
mod interop;
mod late;
mod layouts;
mod leaving;
mod limits;
mod link;
mod noise;
mod orphans;
mod processes;
mod reasons;
mod refused;
mod rolling;
mod sessions;
mod soak;
#[cfg(feature = "tls")]
mod tls;
mod tokens;
mod twins;
