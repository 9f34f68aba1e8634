//! The tests of `lockkit-core` in one program, a module for each subject.
#![allow(clippy::unwrap_used)]

mod at_once;
mod cancellation;
mod elections;
mod ending;
mod events;
#[cfg(feature = "conformance")]
mod history;
mod holding;
#[cfg(feature = "conformance")]
mod idle_link;
mod leaving;
#[cfg(feature = "conformance")]
mod link_traffic;
mod many_killed;
mod many_names;
mod memory;
mod moment;
mod quorum;
#[cfg(feature = "conformance")]
mod report;
#[cfg(feature = "conformance")]
mod residue;
mod resting;
mod semaphores;
#[cfg(feature = "conformance")]
mod simulation;
mod support;
