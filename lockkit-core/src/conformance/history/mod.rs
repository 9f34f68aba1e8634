//! Histories of locks, recorded by many processes on one clock, and their check.
//!
//! A history is what clients saw: when they asked, which token they were granted, when they still
//! believed that they held, how it ended, and what they read and wrote under that token at a
//! fenced resource. [`History::check`] tells whether a store that keeps the contract can have led
//! to it. For each name:
//!
//! - no two holders believe at the same time (C1, C5);
//! - tokens are unique, and grow as real time does: who asks after a grant gets a greater one (C4);
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
mod event;
mod fence;
mod lines;
mod numbers;
mod verdict;

use std::collections::HashMap;

use attempt::Attempt;
pub use event::{AttemptId, Event, What};
use fence::Access;
pub use lines::{Recorder, read};
use numbers::ByNumber;
pub use verdict::{Summary, Violation, Violations};

use crate::LockName;

/// What many processes saw of locks and fenced resources, to be [checked](Self::check).
#[derive(Debug, Default)]
pub struct History {
    names: Vec<LockName>,
    numbers: HashMap<LockName, usize>,
    attempts: Vec<Attempt>,
    /// The attempts of each process, by their number.
    processes: ByNumber<Vec<usize>>,
    /// The accesses to each name's resource.
    accesses: Vec<Vec<Access>>,
    summary: Summary,
    /// What no check is needed for: an event that contradicts those before it.
    contradictions: Vec<Violation>,
}

impl History {
    /// A history without events.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes an event in.
    ///
    /// The events of one attempt come in their order, and the attempts of one process in the order
    /// of their numbers, from 0 on. Those of different processes may come in any order.
    pub fn push(&mut self, event: Event) {
        let (at, id) = (event.at, event.attempt);
        let attempts = self.processes.entry(id.process).or_default();
        let known = usize::try_from(id.number).ok().and_then(|number| attempts.get(number));
        if let What::Asks(name) = event.what {
            if id.number != attempts.len() as u64 {
                let attempt = id;
                self.contradictions.push(Violation::OutOfOrder { attempt, at });
                return;
            }
            attempts.push(self.attempts.len());
            self.summary.attempts += 1;
            let name = self.number(name);
            self.attempts.push(Attempt::new(id, name, at.into()));
            return;
        }
        let Some(&known) = known else {
            self.contradictions.push(Violation::OutOfOrder { attempt: id, at });
            return;
        };
        let attempt = &mut self.attempts[known];
        let accesses = &mut self.accesses[attempt.name];
        if let Err(wrong) = attempt.on(at.into(), &event.what, accesses) {
            let name = self.names[attempt.name].clone();
            self.contradictions.push(wrong.violation(name, id, at));
        }
    }

    fn number(&mut self, name: LockName) -> usize {
        if let Some(number) = self.numbers.get(&name) {
            return *number;
        }
        let number = self.names.len();
        self.numbers.insert(name.clone(), number);
        self.names.push(name);
        self.accesses.push(Vec::new());
        number
    }

    /// Whether a store that keeps the contract can have led to this history.
    ///
    /// # Errors
    /// [`Violations`]: what it cannot have led to, the first of each name.
    pub fn check(&self) -> Result<Summary, Violations> {
        let mut summary = self.summary.clone();
        summary.names = self.names.len();
        let mut violations = self.contradictions.clone();
        belief::check(&self.attempts, &self.names, &mut summary, &mut violations);
        for (name, accesses) in self.names.iter().zip(&self.accesses) {
            fence::check(name, accesses, &mut summary, &mut violations);
        }
        if violations.is_empty() { Ok(summary) } else { Err(Violations(violations)) }
    }
}
