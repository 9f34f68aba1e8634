//! The tests of `testbed` in one program, a module for each subject.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod clusters;
mod common;
mod counts;
mod etcd;
mod faults;
mod packets;
mod postgres;
mod processes;
mod redis;
mod resp;
mod stores;
mod tls;
mod versions;
mod zookeeper;
