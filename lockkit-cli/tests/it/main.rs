//! The tests of the command in one program, a module for each subject.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;
mod doctor;
mod endings;
mod looks;
mod overlap;
mod refused;
#[cfg(target_os = "linux")] // where `script` has these options
mod terminal;
