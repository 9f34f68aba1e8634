//! What was read and written at one fenced resource.

use std::mem;

use super::at::At;
use super::event::AttemptId;
use super::verdict::{Summary, Violation};
use crate::{FencingToken, Kind, LockName};

/// One access to the resource.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) attempt: AttemptId,
    pub(super) token: FencingToken,
    pub(super) kind: Kind,
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

    fn is_shared(&self) -> bool {
        self.kind == Kind::Shared
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
        let (mut exclusive, mut shared): (Option<FencingToken>, Option<FencingToken>) =
            (None, None);
        let called = Called::in_order(order);
        for (number, access) in order.iter().enumerate() {
            let token = access.token;
            // A shared grant has a token of its own beside an exclusive one, not beside other shared ones.
            let after = match access.is_shared() {
                true => exclusive.filter(|before| *before >= token),
                false => exclusive
                    .filter(|before| *before > token)
                    .max(shared.filter(|before| *before >= token)),
            };
            if let Some(after) = after {
                let (name, attempt) = (self.name.clone(), access.attempt);
                return Err(Violation::FenceWentBack { name, attempt, token, after });
            }
            if called.before(order, number).is_some_and(|called| access.over_by(called)) {
                return Err(self.against_time(access));
            }
            let newest = if access.is_shared() { &mut shared } else { &mut exclusive };
            *newest = (*newest).max(Some(token));
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
        let called = Called::in_order(order);
        // What raises the fence for exclusive accesses, and for shared ones: these refuse none of their own kind.
        let by_all = Raised::new(order, &called, of(Outcome::Unknown), |_| true);
        let by_exclusive =
            Raised::new(order, &called, of(Outcome::Unknown), |access| !access.is_shared());
        for access in refused {
            let newer = order.partition_point(|other| other.token <= access.token);
            let older_in_time = newer
                .checked_sub(1)
                .and_then(|older| called.exclusive[older])
                .is_none_or(|called| !access.over_by(called));
            let raised = if access.is_shared() { &by_exclusive } else { &by_all };
            let newer_in_time = raised.above(access.token).any(|at| !access.over_by(at));
            if !(older_in_time && newer_in_time) {
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

/// By when everything up to a place in the order has been called at least: all accesses, and those that a shared one
/// follows, which are the exclusive ones and what these follow.
struct Called {
    all: Vec<At>,
    exclusive: Vec<Option<At>>,
}

impl Called {
    fn in_order(order: &[&Access]) -> Self {
        let (mut all, mut exclusive) = (Vec::with_capacity(order.len()), Vec::new());
        for access in order {
            let latest = all.last().map_or(access.called, |last| access.called.max(*last));
            all.push(latest);
            let before = exclusive.last().copied().flatten();
            exclusive.push(if access.is_shared() { before } else { Some(latest) });
        }
        Self { all, exclusive }
    }

    /// By when all has been called that the access at this place follows.
    fn before(&self, order: &[&Access], number: usize) -> Option<At> {
        let before = number.checked_sub(1)?;
        match order[number].is_shared() {
            true => self.exclusive[before],
            false => Some(self.all[before]),
        }
    }
}

/// By when, at the earliest, the fence was raised above a token.
struct Raised {
    /// By accesses that took effect, in the order of their tokens.
    known: Vec<(FencingToken, At)>,
    /// By those without an answer, in the order of their tokens.
    doubtful: Vec<(FencingToken, At)>,
}

impl Raised {
    fn new<'a>(
        order: &[&Access],
        called: &Called,
        unknown: impl Iterator<Item = &'a Access>,
        raises: impl Fn(&Access) -> bool,
    ) -> Self {
        let known = order.iter().enumerate().filter(|(_, access)| raises(access));
        let known = known.map(|(number, access)| {
            let before = called.before(order, number);
            (access.token, access.called.max(before.unwrap_or(access.called)))
        });
        let mut doubtful: Vec<_> = unknown
            .filter(|access| raises(access))
            .map(|access| (access.token, access.called))
            .collect();
        doubtful.sort_by_key(|(token, _)| *token);
        Self { known: earliest(known.collect()), doubtful: earliest(doubtful) }
    }

    fn above(&self, token: FencingToken) -> impl Iterator<Item = At> {
        [&self.known, &self.doubtful].into_iter().filter_map(move |raised| {
            let newer = raised.partition_point(|(other, _)| *other <= token);
            raised.get(newer).map(|(_, at)| *at)
        })
    }
}

/// At each place the earliest instant from there on.
fn earliest(mut raised: Vec<(FencingToken, At)>) -> Vec<(FencingToken, At)> {
    let mut earliest: Option<At> = None;
    for (_, at) in raised.iter_mut().rev() {
        *at = earliest.map_or(*at, |earliest| earliest.min(*at));
        earliest = Some(*at);
    }
    raised
}
