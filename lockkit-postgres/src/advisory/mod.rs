//! Strategy "advisory": session-level locks, on sessions that the server ends when they fall silent.
//!
//! A request takes its name's turn in this client (`names`), asks the server over a session that many locks
//! share (`client`, `sessions`), and where another client holds the name, waits on a session of its own, in slices.

mod budget;
mod client;
mod lease;
mod names;
mod session;
mod sessions;

pub(crate) use budget::{MORE_LOCKS, budget_of, check_budget};
pub(crate) use client::{Advisory, declared};
pub use names::key;
pub(crate) use names::key_of;
