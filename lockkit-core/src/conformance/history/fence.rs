//! What was read and written at one fenced resource.

use std::mem;

use super::at::At;
use super::event::AttemptId;
use super::verdict::{Summary, Violation};
use crate::{FencingToken, LockName};

/// One access to the resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) attempt: AttemptId,
    pub(super) token: FencingToken,
    pub(super) called: At,
    /// `None`: nobody knows whether or when it took effect.
    pub(super) answered: Option<At>,
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
    fn over_by(&self, at: At) -> bool {
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
        let order = self.order(&bases, happened)?;
        self.in_time(&order)?;
        self.refusals(&order)
    }

    /// The version that each access saw.
    fn bases(&self) -> Checked<Vec<Slot>> {
        let mut written: Vec<(u64, Slot)> = vec![(0, 0)];
        let mut seen: Vec<(u64, usize)> = Vec::new();
        for (number, access) in self.accesses.iter().enumerate() {
            written.extend(access.wrote().map(|version| (version, number + 1)));
            seen.extend(access.seen().map(|version| (version, number)));
        }
        // Both in order, each is passed over once. A map takes far longer, for want of locality.
        written.sort_by_key(|(version, _)| *version);
        seen.sort_by_key(|(version, _)| *version);
        if let Some(same) =
            written.chunk_by(|one, next| one.0 == next.0).find(|same| same.len() > 1)
        {
            let (name, version) = (self.name.clone(), same[0].0);
            return Err(Violation::VersionTwice { name, version });
        }
        let mut written = written.into_iter().peekable();
        let mut bases = vec![NONE; self.accesses.len()];
        for (version, number) in seen {
            while written.next_if(|(other, _)| *other < version).is_some() {}
            if let Some((_, slot)) = written.peek().filter(|(other, _)| *other == version) {
                bases[number] = *slot;
            }
        }
        Ok(bases)
    }

    /// Which accesses certainly took effect: those acknowledged, and those whose version was seen.
    fn happened(&self, bases: &[Slot]) -> Checked<Vec<bool>> {
        let mut happened = vec![false; self.accesses.len()];
        for (number, access) in self.accesses.iter().enumerate() {
            let mut next = (access.outcome == Outcome::Accepted).then_some(number);
            while let Some(number) = next.filter(|number| !happened[*number]) {
                happened[number] = true;
                let base = bases[number];
                // A refused write that was seen has not been refused.
                if base == NONE || base > 0 && self.accesses[base - 1].outcome == Outcome::Refused {
                    return Err(Violation::SeenFromNowhere {
                        name: self.name.clone(),
                        attempt: self.accesses[number].attempt,
                        version: self.accesses[number].seen().unwrap_or_default(),
                    });
                }
                next = base.checked_sub(1);
            }
        }
        Ok(happened)
    }

    /// The one order in which the accesses can have taken effect: along the chain that the versions
    /// must form, the reads of a version after its write, and reads of one version by their tokens.
    fn order(&self, bases: &[Slot], mut happened: Vec<bool>) -> Checked<Vec<&Access>> {
        // The write over each version, the first read of it, and after each read the next one.
        let mut writes = vec![NONE; happened.len() + 1];
        let mut reads = vec![NONE; happened.len() + 1];
        let mut next = vec![NONE; happened.len()];
        for (number, access) in self.accesses.iter().enumerate().rev() {
            match access.wrote() {
                _ if !happened[number] => {}
                None => next[number] = mem::replace(&mut reads[bases[number]], number),
                Some(_) if writes[bases[number]] == NONE => writes[bases[number]] = number,
                Some(_) => {
                    let second = &self.accesses[writes[bases[number]]];
                    return Err(Violation::LostUpdate {
                        name: self.name.clone(),
                        version: access.seen().unwrap_or_default(),
                        first: (access.attempt, access.token),
                        second: (second.attempt, second.token),
                    });
                }
            }
        }
        let mut order = Vec::new();
        let mut slot = 0;
        loop {
            let (first, mut read) = (order.len(), reads[slot]);
            while read != NONE {
                order.push(&self.accesses[read]);
                happened[read] = false;
                read = next[read];
            }
            order[first..].sort_by_key(|access| access.token);
            let write = writes[slot];
            if write == NONE {
                break;
            }
            order.push(&self.accesses[write]);
            happened[write] = false;
            slot = write + 1;
        }
        match happened.iter().position(|left| *left) {
            // Each version is based on one that was written: a ring.
            Some(number) => Err(self.against_time(&self.accesses[number])),
            None => Ok(order),
        }
    }

    /// Whether the accesses can have taken effect in this order, and the fence with them.
    fn in_time(&self, order: &[&Access]) -> Checked {
        let mut fence: Option<&Access> = None;
        let mut called: Option<At> = None;
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
        let of = |outcome| self.accesses.iter().filter(move |access| access.outcome == outcome);
        let refused: Vec<&Access> = of(Outcome::Refused).collect();
        if refused.is_empty() {
            return Ok(());
        }
        // For each place in the order: by when everything up to there has been called at least.
        let mut called = Vec::with_capacity(order.len());
        for access in order {
            let latest = called.last().map_or(access.called, |last| access.called.max(*last));
            called.push(latest);
        }
        let mut doubtful: Vec<&Access> = of(Outcome::Unknown).collect();
        doubtful.sort_by_key(|access| access.token);
        // By when, at the earliest, an access without an answer has raised the fence that far.
        let mut raised = vec![None; doubtful.len()];
        let mut earliest = None;
        for (number, access) in doubtful.iter().enumerate().rev() {
            earliest = Some(earliest.map_or(access.called, |at| access.called.min(at)));
            raised[number] = earliest;
        }
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
        Violation::AccessAgainstTime { name, attempt, at: access.called.into() }
    }
}
