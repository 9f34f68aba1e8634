//! What was read and written at one fenced resource.

use std::collections::HashMap;

use super::AttemptId;
use super::verdict::{Summary, Violation};
use crate::{FencingToken, Instant, LockName};

/// One access to the resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) attempt: AttemptId,
    pub(super) token: FencingToken,
    pub(super) called: Instant,
    /// `None`: nobody knows whether or when it took effect.
    pub(super) answered: Option<Instant>,
    pub(super) effect: Effect,
    pub(super) outcome: Outcome,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// The version that it saw, if it was told.
    Read(Option<u64>),
    Write {
        seen: u64,
        wrote: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Accepted,
    Refused,
    Unknown,
}

impl Access {
    fn seen(&self) -> Option<u64> {
        match self.effect {
            Effect::Read(version) => version,
            Effect::Write { seen, .. } => Some(seen),
        }
    }

    fn wrote(&self) -> Option<u64> {
        match self.effect {
            Effect::Read(_) => None,
            Effect::Write { wrote, .. } => Some(wrote),
        }
    }

    /// An access without an answer may take effect at any time after its call.
    fn over_by(&self, at: Instant) -> bool {
        self.answered.is_some_and(|answered| answered < at)
    }
}

/// Judges the accesses to the resource of `name`; stops at the first fault.
pub(super) fn check(
    name: &LockName,
    accesses: &[Access],
    summary: &mut Summary,
    violations: &mut Vec<Violation>,
) {
    for access in accesses {
        match access.outcome {
            Outcome::Accepted => summary.accepted += 1,
            Outcome::Refused => summary.refused += 1,
            Outcome::Unknown => summary.unknown += 1,
        }
    }
    let resource = Resource { name, accesses };
    violations.extend(resource.check().err());
}

struct Resource<'a> {
    name: &'a LockName,
    accesses: &'a [Access],
}

type Checked<T = ()> = Result<T, Violation>;

impl Resource<'_> {
    fn check(&self) -> Checked {
        let writers = self.writers()?;
        let happened = self.happened(&writers)?;
        let places = self.places(&happened)?;
        // The one order in which the accesses can have taken effect: along the chain of versions,
        // the reads of a version after its write, and reads of one version by their tokens.
        let mut order: Vec<((usize, bool, FencingToken), &Access)> = Vec::new();
        for (access, happened) in self.accesses.iter().zip(&happened) {
            let version = access.wrote().or(access.seen()).filter(|_| *happened);
            if let Some(place) = version.and_then(|version| places.get(&version)) {
                order.push(((*place, access.wrote().is_none(), access.token), access));
            }
        }
        order.sort_by_key(|(place, _)| *place);
        let order: Vec<&Access> = order.into_iter().map(|(_, access)| access).collect();
        self.in_time(&order)?;
        self.refusals(&order)
    }

    /// Who writes each version.
    fn writers(&self) -> Checked<HashMap<u64, usize>> {
        let mut writers = HashMap::with_capacity(self.accesses.len());
        for (number, access) in self.accesses.iter().enumerate() {
            let Some(wrote) = access.wrote() else { continue };
            if wrote == 0 || writers.insert(wrote, number).is_some() {
                let (name, version) = (self.name.clone(), wrote);
                return Err(Violation::VersionTwice { name, version });
            }
        }
        Ok(writers)
    }

    /// Which accesses certainly took effect: those acknowledged, and those whose version was seen.
    fn happened(&self, writers: &HashMap<u64, usize>) -> Checked<Vec<bool>> {
        let mut happened = vec![false; self.accesses.len()];
        let mut open: Vec<usize> = Vec::new();
        for (number, access) in self.accesses.iter().enumerate() {
            if access.outcome == Outcome::Accepted {
                happened[number] = true;
                open.push(number);
            }
        }
        while let Some(number) = open.pop() {
            let Some(version) = self.accesses[number].seen().filter(|version| *version != 0) else {
                continue;
            };
            let writer = writers.get(&version).filter(|writer| {
                // A refused write that was seen has not been refused.
                self.accesses[**writer].outcome != Outcome::Refused
            });
            let Some(&writer) = writer else {
                let attempt = self.accesses[number].attempt;
                let name = self.name.clone();
                return Err(Violation::SeenFromNowhere { name, attempt, version });
            };
            if !std::mem::replace(&mut happened[writer], true) {
                open.push(writer);
            }
        }
        Ok(happened)
    }

    /// Where each version stands in the one chain that they must form.
    fn places(&self, happened: &[bool]) -> Checked<HashMap<u64, usize>> {
        let mut next: HashMap<u64, (u64, &Access)> = HashMap::with_capacity(happened.len());
        for (access, _) in self.accesses.iter().zip(happened).filter(|(_, happened)| **happened) {
            let Effect::Write { seen, wrote } = access.effect else { continue };
            if let Some((_, first)) = next.insert(seen, (wrote, access)) {
                return Err(Violation::LostUpdate {
                    name: self.name.clone(),
                    version: seen,
                    first: (first.attempt, first.token),
                    second: (access.attempt, access.token),
                });
            }
        }
        let mut places = HashMap::with_capacity(next.len() + 1);
        let mut version = 0;
        places.insert(version, 0);
        while let Some((wrote, _)) = next.get(&version) {
            version = *wrote;
            places.insert(version, places.len());
        }
        match next.values().find(|(wrote, _)| !places.contains_key(wrote)) {
            // Each version is based on one that was written: a ring.
            Some((_, access)) => Err(self.against_time(access)),
            None => Ok(places),
        }
    }

    /// Whether the accesses can have taken effect in this order, and the fence with them.
    fn in_time(&self, order: &[&Access]) -> Checked {
        let mut fence: Option<&Access> = None;
        let mut called: Option<Instant> = None;
        for access in order {
            if let Some(before) = fence.filter(|before| before.token > access.token) {
                return Err(Violation::FenceWentBack {
                    name: self.name.clone(),
                    attempt: access.attempt,
                    token: access.token,
                    after: before.token,
                });
            }
            if called.is_some_and(|called| access.over_by(called)) {
                return Err(self.against_time(access));
            }
            fence = Some(access);
            called = called.max(Some(access.called));
        }
        Ok(())
    }

    /// Whether whoever was refused was stale by then.
    fn refusals(&self, order: &[&Access]) -> Checked {
        // For each place in the order: by when everything up to there has been called at least.
        let mut called = Vec::with_capacity(order.len());
        for access in order {
            let latest = called.last().map_or(access.called, |last| access.called.max(*last));
            called.push(latest);
        }
        let mut doubtful: Vec<&Access> =
            self.accesses.iter().filter(|access| access.outcome == Outcome::Unknown).collect();
        doubtful.sort_by_key(|access| access.token);
        // By when, at the earliest, an access without an answer has raised the fence that far.
        let mut raised = vec![None; doubtful.len()];
        let mut earliest = None;
        for (number, access) in doubtful.iter().enumerate().rev() {
            earliest = Some(earliest.map_or(access.called, |at| access.called.min(at)));
            raised[number] = earliest;
        }
        let refused = self.accesses.iter().filter(|access| access.outcome == Outcome::Refused);
        for access in refused {
            let newer = order.partition_point(|other| other.token <= access.token);
            let older_in_time = newer == 0 || !access.over_by(called[newer - 1]);
            let newer_in_time = called.get(newer).is_some_and(|at| !access.over_by(*at));
            let doubt = doubtful.partition_point(|other| other.token <= access.token);
            let doubt = raised.get(doubt).copied().flatten();
            if !(older_in_time && (newer_in_time || doubt.is_some_and(|at| !access.over_by(at)))) {
                return Err(Violation::WrongRefusal {
                    name: self.name.clone(),
                    attempt: access.attempt,
                    token: access.token,
                });
            }
        }
        Ok(())
    }

    fn against_time(&self, access: &Access) -> Violation {
        let (name, attempt) = (self.name.clone(), access.attempt);
        Violation::AccessAgainstTime { name, attempt, at: access.called }
    }
}
