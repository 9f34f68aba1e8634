//! What was read and written at one fenced resource.

use super::AttemptId;
use super::numbers::ByNumber;
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

/// A version by its writer: 0 is what was there before all writes, others are the number of the
/// access that wrote it, plus one.
type Slot = usize;

/// No version that anybody wrote, or no write.
const NONE: usize = usize::MAX;

impl Resource<'_> {
    fn check(&self) -> Checked {
        let bases = self.bases()?;
        let happened = self.happened(&bases)?;
        let places = self.places(&bases, &happened)?;
        // The one order in which the accesses can have taken effect: along the chain of versions,
        // the reads of a version after its write, and reads of one version by their tokens.
        let mut order: Vec<((usize, bool, FencingToken), &Access)> = Vec::new();
        for (number, access) in self.accesses.iter().enumerate().filter(|(at, _)| happened[*at]) {
            let reads = access.wrote().is_none();
            let place = places[if reads { bases[number] } else { number + 1 }];
            order.push(((place, reads, access.token), access));
        }
        order.sort_by_key(|(place, _)| *place);
        let order: Vec<&Access> = order.into_iter().map(|(_, access)| access).collect();
        self.in_time(&order)?;
        self.refusals(&order)
    }

    /// The version that each access saw.
    fn bases(&self) -> Checked<Vec<Slot>> {
        let mut slots: ByNumber<Slot> = ByNumber::default();
        slots.reserve(self.accesses.len());
        slots.insert(0, 0);
        for (number, access) in self.accesses.iter().enumerate() {
            let Some(wrote) = access.wrote() else { continue };
            if slots.insert(wrote, number + 1).is_some() {
                let (name, version) = (self.name.clone(), wrote);
                return Err(Violation::VersionTwice { name, version });
            }
        }
        let slot = |seen| slots.get(&seen).copied().unwrap_or(NONE);
        Ok(self.accesses.iter().map(|access| access.seen().map_or(NONE, slot)).collect())
    }

    /// Which accesses certainly took effect: those acknowledged, and those whose version was seen.
    fn happened(&self, bases: &[Slot]) -> Checked<Vec<bool>> {
        let mut happened = vec![false; self.accesses.len()];
        let mut open: Vec<usize> = Vec::new();
        for (number, access) in self.accesses.iter().enumerate() {
            if access.outcome == Outcome::Accepted {
                happened[number] = true;
                open.push(number);
            }
        }
        while let Some(number) = open.pop() {
            let base = bases[number];
            if base == 0 {
                continue;
            }
            // A refused write that was seen has not been refused.
            if base == NONE || self.accesses[base - 1].outcome == Outcome::Refused {
                return Err(Violation::SeenFromNowhere {
                    name: self.name.clone(),
                    attempt: self.accesses[number].attempt,
                    version: self.accesses[number].seen().unwrap_or_default(),
                });
            }
            if !std::mem::replace(&mut happened[base - 1], true) {
                open.push(base - 1);
            }
        }
        Ok(happened)
    }

    /// Where each version stands in the one chain that they must form, by its slot.
    fn places(&self, bases: &[Slot], happened: &[bool]) -> Checked<Vec<usize>> {
        let writes = || {
            let all = self.accesses.iter().enumerate();
            all.filter(|(number, access)| happened[*number] && access.wrote().is_some())
        };
        let mut next = vec![NONE; happened.len() + 1];
        for (number, access) in writes() {
            let first = std::mem::replace(&mut next[bases[number]], number);
            if first != NONE {
                let first = &self.accesses[first];
                return Err(Violation::LostUpdate {
                    name: self.name.clone(),
                    version: access.seen().unwrap_or_default(),
                    first: (first.attempt, first.token),
                    second: (access.attempt, access.token),
                });
            }
        }
        let mut places = vec![NONE; happened.len() + 1];
        let (mut slot, mut place) = (0, 0);
        places[slot] = place;
        while next[slot] != NONE {
            slot = next[slot] + 1;
            place += 1;
            places[slot] = place;
        }
        match writes().find(|(number, _)| places[number + 1] == NONE) {
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
