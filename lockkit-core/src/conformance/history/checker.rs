//! The history of many processes, taken in event by event, and its check.

use std::collections::HashMap;

use super::attempt::Attempt;
use super::belief;
use super::event::{AttemptId, Event, What};
use super::fence::{self, Access};
use super::numbers::ByNumber;
use super::verdict::{Summary, Violation, Violations};
use crate::{Instant, Kind, LockName};

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
        match event.what {
            What::Asks(name) => self.asks(at, id, name, Kind::Exclusive),
            What::AsksShared(name) => self.asks(at, id, name, Kind::Shared),
            what => self.saw(at, id, &what),
        }
    }

    fn asks(&mut self, at: Instant, attempt: AttemptId, name: LockName, kind: Kind) {
        let name = self.number(name);
        let attempts = self.processes.entry(attempt.process).or_default();
        if attempt.number != attempts.len() as u64 {
            self.contradictions.push(Violation::OutOfOrder { attempt, at });
            return;
        }
        attempts.push(self.attempts.len());
        self.summary.attempts += 1;
        self.attempts.push(Attempt::new(attempt, name, kind, at.into()));
    }

    fn saw(&mut self, at: Instant, id: AttemptId, what: &What) {
        let attempts = self.processes.get(&id.process);
        let known = usize::try_from(id.number).ok();
        let Some(&known) = attempts.zip(known).and_then(|(attempts, number)| attempts.get(number))
        else {
            self.contradictions.push(Violation::OutOfOrder { attempt: id, at });
            return;
        };
        let attempt = &mut self.attempts[known];
        let accesses = &mut self.accesses[attempt.name];
        if let Err(wrong) = attempt.on(at.into(), what, accesses) {
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
