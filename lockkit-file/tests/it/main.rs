//! The tests of `lockkit-file` in one program, a module for each subject.
#![cfg(unix)]

mod ahead;
mod bad_input;
mod beliefs;
mod common;
mod examine;
mod fuzz;
mod layouts;
mod processes;
mod removal;
mod requests;
mod runtimes;
mod semaphores;
mod shared;
