//! Histories of locks, recorded by many processes on one clock, and their check.
//!
//! A history is what clients saw: when they asked, which token they were granted, when they still
//! believed that they held, how it ended, and what they read and wrote under that token at a
//! fenced resource. [`History::check`] tells whether a store that keeps the contract can have led
//! to it. For each name:
//!
//! - no two holders believe at the same time, unless both share the name (C1, C5);
//! - tokens are unique, and grow as real time does: who asks after a grant that excludes it gets a greater one (C4);
//! - nobody is granted after it gave up, believes after its loss, or releases what it was not
//!   granted (C7, C9);
//! - no update at the fenced resource is lost, the fence never goes back, and it refuses nobody
//!   but the stale (C14).
//!
//! An outcome that nobody knows is given the benefit of the doubt: it may have happened or not. An
//! event that is missing, because its process was killed, is such an outcome.
//!
//! The verdict is that of a search for a linearization, without the search: tokens and versions
//! tell the only order there can be. So the check sorts by them, which takes little more than one
//! pass over logs that are each in order, and then passes over everything once.
//!
//! ```
//! use std::time::Duration;
//! use lockkit_core::conformance::history::{AttemptId, Event, History, What};
//! use lockkit_core::{FencingToken, Instant, LockName};
//!
//! let at = |millis| Instant::from_origin(Duration::from_millis(millis));
//! let (a, b) = (AttemptId { process: 1, number: 0 }, AttemptId { process: 2, number: 0 });
//! let name = LockName::new("billing/nightly")?;
//! let mut history = History::new();
//! for (millis, attempt, what) in [
//!     (1, a, What::Asks(name.clone())),
//!     (2, a, What::Granted(FencingToken::new(1)?)),
//!     (3, b, What::Asks(name)),
//!     (9, a, What::Believes),
//!     (8, b, What::Granted(FencingToken::new(2)?)),
//! ] {
//!     history.push(Event { at: at(millis), attempt, what });
//! }
//! let violations = history.check().expect_err("a believed for 1 ms after b was granted");
//! assert!(violations.to_string().contains("believed at the same time"), "{violations}");
//! # Ok::<(), lockkit_core::Error>(())
//! ```

mod at;
mod attempt;
mod belief;
mod checker;
mod event;
mod fence;
mod lines;
mod numbers;
mod verdict;

pub use checker::History;
pub use event::{AttemptId, Event, What};
pub use lines::{Recorder, read};
pub use verdict::{Summary, Violation, Violations};
