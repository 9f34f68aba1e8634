//! The tests of `lockkit-redis` in one program, a module for each subject.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod beliefs;
mod common;
mod connect;
mod examine;
mod fuzz;
mod interop;
mod layouts;
mod left;
mod link;
mod lists;
mod processes;
mod reconnect;
mod refusals;
mod resting;
mod roles;
mod scripts;
mod semaphores;
mod server;
mod setups;
mod shared;
#[cfg(feature = "tls")]
mod tls;
mod turns;
