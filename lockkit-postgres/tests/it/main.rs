//! The tests of `lockkit-postgres` in one program, a module for each subject.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod advisory;
mod answers;
mod common;
mod connect;
mod endings;
mod examine;
mod fuzz;
mod grants;
mod hand_offs;
mod index_builds;
mod interop;
mod layouts;
mod leaks;
mod link;
mod plans;
mod processes;
mod roles;
mod runtimes;
mod scale;
mod server;
mod shared;
mod shared_advisory;
mod silent_waiters;
mod table;
#[cfg(feature = "tls")]
mod tls;
mod transaction;
