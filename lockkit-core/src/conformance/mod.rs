//! The conformance suite, for the author of a backend.
//!
//! The suite checks a [`LockProvider`](crate::LockProvider) against the clauses of the
//! [`contract`](crate::contract), through nothing but the public traits and API. A backend runs it
//! from one file, declared in its `Cargo.toml` as a test with `harness = false`:
//!
//! ```
//! use std::process::ExitCode;
//! use std::sync::Arc;
//!
//! use lockkit_core::conformance::Fixture;
//! use lockkit_core::{LockProvider, Memory, Result, async_trait};
//!
//! #[derive(Debug)]
//! struct MyFixture(Memory);
//!
//! #[async_trait]
//! impl Fixture for MyFixture {
//!     async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
//!         Ok(Arc::new(self.0.clone()))
//!     }
//! }
//!
//! fn main() -> ExitCode {
//!     # if true { return ExitCode::SUCCESS }
//!     lockkit_core::conformance::main(MyFixture(Memory::new()))
//! }
//! ```
//!
//! Each [`Case`] is one test with a stable id, tied to a clause and to one of the six
//! [challenges](Challenge). `cargo test --test conformance -- AT-01` runs one of them.
//!
//! A case that rests on a guarantee that is not declared is *not claimed*; one that needs a
//! [`Hook`] that the fixture lacks is *not reached*. Both are shown as ignored, with the reason
//! in the [`Report`]: neither counts as passed. A declared guarantee that does not hold fails.
//!
//! A case that misses a time bound while the machine gives its process too little time is
//! *inconclusive*: a [`StallWatch`] saw that the process stood still for [`LONG_STALL`] or longer, or
//! that threads waited for a core for half of a second ([`Starved`]). The case says so and runs once
//! more, when no other case of the process runs, and the second run counts, whatever the machine does
//! meanwhile. A runner that sets `LOCKKIT_RERUN_LATER` makes that second run itself: there the case
//! fails, and the reason begins with `inconclusive: `.
//! Nothing but a missed time bound runs again: two holders, a token, an order, a residue, a count or a
//! grant that came too early fails at once. The report counts the cases that ran again. In virtual
//! time none does.
//!
//! The report ends every run, with what cases measured; `--report DIR` writes it as JSON and as a
//! page too, and [`run`] gives it as a value.
//!
//! Most cases need a client and nothing else. Those that need a network between client and store
//! come with [`Fixture::linked`], for any proxy that can be a [`Link`]; those that stop and start
//! the store's server come with [`Fixture::served`], which gives each of them a [`Server`] of its
//! own. Both are the same for every store.

// Cases are programs of their own: they spawn and block as programs do.
#![allow(clippy::disallowed_methods)]

mod call_log;
mod case;
mod cases;
mod child;
mod context;
mod counted;
mod faults;
mod fixture;
pub mod history;
mod hook;
mod logged;
mod notes;
mod one_run;
mod outcome;
mod pace;
mod poll;
mod pressure;
mod queue;
mod report;
mod rerun;
mod runner;
mod runtime;
pub mod simulation;
mod stall;
mod starved;
mod stop;
mod tap;
mod under_faults;
mod walk;

pub use case::{Case, Challenge, Level};
pub use cases::cases;
pub use faults::{Link, Linked, Server, Traffic, Way};
pub use fixture::{Fixture, Served, Time};
pub use hook::Hook;
pub use notes::{Figure, Measure};
pub use outcome::Outcome;
pub use report::{CaseRun, Report};
pub use runner::{check, main, run, run_some};
pub use stall::StallWatch;
pub use starved::{LONG_STALL, Starved};
