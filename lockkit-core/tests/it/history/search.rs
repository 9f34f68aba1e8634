//! Small histories, good and bad, beside a linearizability checker of another kind: it searches
//! for an order of what happened (Wing and Gong, by todc-utils), where ours calculates one.

use std::cell::Cell;
use std::collections::HashMap;

use lockkit_core::Instant;
use lockkit_core::conformance::history::{AttemptId, Event, History, What};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{TestCaseError, TestRunner};
use todc_utils::{Action, Specification, WGLChecker};

use super::truth::{event, events, number, plans};

/// An operation as a sequential lock, or a sequential fenced value, sees it.
#[derive(Clone, Debug)]
enum Op {
    Acquire {
        token: u64,
        shared: bool,
    },
    End {
        token: u64,
        shared: bool,
    },
    Read {
        token: u64,
        shared: bool,
        version: u64,
    },
    Write {
        token: u64,
        seen: u64,
        wrote: u64,
    },
    Refused {
        token: u64,
        shared: bool,
    },
    /// A read of which nobody knows what it saw.
    Raise {
        token: u64,
        shared: bool,
    },
}

/// Who holds, and the last tokens.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Holders {
    exclusive: Option<u64>,
    shared: Vec<u64>,
    last_exclusive: u64,
    last_shared: u64,
}

struct Lock;

impl Specification for Lock {
    type State = Holders;
    type Operation = Op;

    fn init() -> Self::State {
        Holders::default()
    }

    fn apply(op: &Op, before: &Self::State) -> (bool, Self::State) {
        let mut after = before.clone();
        let right = match *op {
            Op::Acquire { token, shared: false } => {
                let right = before.exclusive.is_none()
                    && before.shared.is_empty()
                    && token > before.last_exclusive.max(before.last_shared);
                (after.exclusive, after.last_exclusive) = (Some(token), token);
                right
            }
            Op::Acquire { token, shared: true } => {
                after.shared.push(token);
                after.shared.sort_unstable();
                after.last_shared = token.max(before.last_shared);
                before.exclusive.is_none() && token > before.last_exclusive
            }
            Op::End { token, shared: false } => {
                after.exclusive = None;
                before.exclusive == Some(token)
            }
            Op::End { token, shared: true } => {
                let place = before.shared.iter().position(|other| *other == token);
                place.map(|place| after.shared.remove(place)).is_some()
            }
            _ => false,
        };
        (right, after)
    }
}

struct Resource;

impl Specification for Resource {
    /// The newest exclusive token, the newest shared one, and the version.
    type State = (u64, u64, u64);
    type Operation = Op;

    fn init() -> Self::State {
        (0, 0, 0)
    }

    fn apply(op: &Op, &(exclusive, shared, version): &Self::State) -> (bool, Self::State) {
        let fresh = |token, shares| match shares {
            true => token > exclusive,
            false => token >= exclusive && token > shared,
        };
        let raised = |token: u64, shares, version| match shares {
            true => (exclusive, token.max(shared), version),
            false => (token, shared, version),
        };
        match *op {
            Op::Read { token, shared, version: seen } => {
                (fresh(token, shared) && seen == version, raised(token, shared, version))
            }
            Op::Write { token, seen, wrote } => {
                (fresh(token, false) && seen == version, raised(token, false, wrote))
            }
            Op::Refused { token, shared: shares } => {
                (!fresh(token, shares), (exclusive, shared, version))
            }
            Op::Raise { token, shared } => (fresh(token, shared), raised(token, shared, version)),
            Op::Acquire { .. } | Op::End { .. } => (false, (exclusive, shared, version)),
        }
    }
}

/// An operation and when it was under way; without an answer it may happen at any time, or never.
#[derive(Clone, Debug)]
struct Timed {
    op: Op,
    called: Instant,
    answered: Option<Instant>,
    certain: bool,
}

/// Searches for an order, with or without each operation that may not have happened.
fn has_order<S: Specification<Operation = Op>>(ops: &[Timed]) -> bool {
    let doubtful: Vec<usize> = (0..ops.len()).filter(|number| !ops[*number].certain).collect();
    (0..1_u32 << doubtful.len()).any(|chosen| {
        let happened = |number: usize| match doubtful.iter().position(|of| *of == number) {
            Some(bit) => chosen & (1 << bit) != 0,
            None => true,
        };
        let ops = ops.iter().enumerate().filter(|(number, _)| happened(*number));
        let mut actions = Vec::new();
        for (process, op) in ops {
            let never = Instant::from_origin(std::time::Duration::MAX);
            // At one instant, calls come first: touching is not overlapping.
            actions.push(((op.called, false), process, Action::Call(op.op.clone())));
            let answered = op.answered.unwrap_or(never);
            actions.push(((answered, true), process, Action::Response(op.op.clone())));
        }
        actions.sort_by_key(|(at, ..)| *at);
        let actions: Vec<_> =
            actions.into_iter().map(|(_, process, action)| (process, action)).collect();
        actions.is_empty()
            || WGLChecker::<S>::is_linearizable(todc_utils::History::from_actions(actions))
    })
}

#[derive(Default)]
struct Seen {
    asked: Option<Instant>,
    shared: bool,
    granted: Option<(u64, Instant)>,
    until: Option<Instant>,
    releases: Option<Instant>,
    access: Option<usize>,
}

/// The operations on the lock, and those on its resource.
fn operations(events: &[Event]) -> (Vec<Timed>, Vec<Timed>) {
    let mut seen: HashMap<AttemptId, Seen> = HashMap::new();
    let mut accesses: Vec<Timed> = Vec::new();
    for Event { at, attempt, what } in events {
        let at = *at;
        let seen = seen.entry(*attempt).or_default();
        let (token, shared) = (seen.granted.map_or(0, |(token, _)| token), seen.shared);
        let mut call = |op| {
            seen.access = Some(accesses.len());
            accesses.push(Timed { op, called: at, answered: None, certain: false });
        };
        match what {
            What::Asks(_) => seen.asked = Some(at),
            What::AsksShared(_) => (seen.asked, seen.shared) = (Some(at), true),
            What::Granted(token) => seen.granted = Some((token.as_u64(), at)),
            What::Believes => seen.until = seen.until.max(Some(at)),
            What::Releases => seen.releases = Some(at),
            What::Released => seen.until = seen.until.max(seen.releases),
            What::Reads => call(Op::Raise { token, shared }),
            What::Writes { seen, wrote } => call(Op::Write { token, seen: *seen, wrote: *wrote }),
            What::Read(_) | What::Wrote | What::Stale => {
                let access = &mut accesses[seen.access.take().expect("under way")];
                access.answered = Some(at);
                access.certain = true;
                match what {
                    What::Read(version) => {
                        access.op = Op::Read { token, shared, version: *version }
                    }
                    What::Stale => access.op = Op::Refused { token, shared },
                    _ => {}
                }
            }
            _ => {}
        }
    }
    let mut lock = Vec::new();
    for seen in seen.values() {
        let (Some(called), Some((token, answered))) = (seen.asked, seen.granted) else { continue };
        let answered = Some(answered);
        let shared = seen.shared;
        lock.push(Timed { op: Op::Acquire { token, shared }, called, answered, certain: true });
        // It ends at any time after its last belief.
        let called = seen.until.unwrap_or(called);
        lock.push(Timed { op: Op::End { token, shared }, called, answered: None, certain: true });
    }
    (lock, accesses)
}

fn ours(events: &[Event]) -> bool {
    let mut history = History::new();
    events.iter().for_each(|event| history.push(event.clone()));
    history.check().is_ok()
}

/// A change to one event, which may make a good history bad.
#[derive(Clone, Debug)]
struct Change {
    which: Index,
    later: i64,
    number: u64,
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = (any::<Index>(), -60_i64..60, 0..8_u64);
    let change = change.prop_map(|(which, later, number)| Change { which, later, number });
    proptest::collection::vec(change, 0..5)
}

/// Moves the event, and all of its attempt that would come before it, and changes its number.
fn apply(events: &mut [Event], change: &Change) {
    if events.is_empty() {
        return;
    }
    let which = change.which.index(events.len());
    let moved = &mut events[which];
    let nanos = |at: Instant| i64::try_from(at.since_origin().as_nanos()).expect("small");
    let at = u64::try_from((nanos(moved.at) + change.later).max(0)).expect("not negative");
    moved.at = event(at, moved.attempt, What::Lost).at;
    moved.what = match &moved.what {
        What::Granted(token) if change.number < 4 => {
            number((token.as_u64() + change.number).saturating_sub(2).max(1)).pipe(What::Granted)
        }
        What::Read(version) if change.number < 4 => What::Read(version ^ change.number),
        What::Writes { seen, wrote } if change.number < 4 => {
            What::Writes { seen: seen ^ change.number, wrote: *wrote }
        }
        What::Wrote if change.number == 7 => What::Stale,
        What::Stale if change.number == 7 => What::Stale,
        what => what.clone(),
    };
    let (attempt, at) = (moved.attempt, moved.at);
    for (place, event) in events.iter_mut().enumerate() {
        if event.attempt == attempt {
            event.at = if place < which { event.at.min(at) } else { event.at.max(at) };
        }
    }
}

trait Pipe: Sized {
    fn pipe<T>(self, into: impl FnOnce(Self) -> T) -> T {
        into(self)
    }
}

impl<T> Pipe for T {}

/// Compares the two verdicts on many histories, of which some are right and some are not.
fn agree(most: usize, histories: impl Fn(&mut Vec<Event>) -> Option<(bool, bool)>) {
    let config = ProptestConfig { cases: 10_000, failure_persistence: None, ..Default::default() };
    let (right, wrong) = (Cell::new(0), Cell::new(0));
    let run = TestRunner::new(config).run(&(plans(most, 12), changes()), |(plans, changes)| {
        let mut all = events(&plans, "n");
        all.retain(|event| !matches!(event.what, What::Releases | What::Released | What::Lost));
        changes.iter().for_each(|change| apply(&mut all, change));
        let Some((ours, theirs)) = histories(&mut all) else {
            return Err(TestCaseError::reject("too much to search"));
        };
        prop_assert_eq!(ours, theirs, "ours and theirs, on {:#?}", all);
        let count = if ours { &right } else { &wrong };
        count.set(count.get() + 1);
        Ok(())
    });
    run.unwrap_or_else(|error| panic!("{error}"));
    let (right, wrong) = (right.get(), wrong.get());
    println!("{right} right and {wrong} wrong histories");
    assert!(right > 1_000 && wrong > 1_000, "{right} right and {wrong} wrong histories");
}

#[test]
fn both_checkers_agree_on_who_believed_when() {
    agree(5, |events| {
        let of_the_lock = |what: &What| {
            matches!(
                what,
                What::Asks(_)
                    | What::AsksShared(_)
                    | What::Granted(_)
                    | What::Believes
                    | What::Unknown
            )
        };
        events.retain(|event| of_the_lock(&event.what));
        let (lock, _) = operations(events);
        Some((ours(events), has_order::<Lock>(&lock)))
    });
}

#[test]
fn both_checkers_agree_on_the_fenced_resource() {
    agree(4, |events| {
        *events = accesses_alone(std::mem::take(events));
        let (lock, accesses) = operations(events);
        let doubtful = accesses.iter().filter(|access| !access.certain).count();
        if accesses.len() > 10 || doubtful > 4 {
            return None;
        }
        let (ours, theirs) =
            (ours(events), has_order::<Lock>(&lock) && has_order::<Resource>(&accesses));
        // An access without an answer has the benefit of the doubt: it may explain a refusal even
        // where what was seen leaves it no place.
        let refused = accesses.iter().any(|access| matches!(access.op, Op::Refused { .. }));
        Some((ours, theirs || ours && doubtful > 0 && refused))
    });
}

/// The grants without anything that is to be judged of them, and the accesses.
fn accesses_alone(events: Vec<Event>) -> Vec<Event> {
    let mut rest = Vec::new();
    let mut alone = Vec::new();
    let mut asked = HashMap::new();
    for seen in events {
        match seen.what {
            What::Asks(_) | What::AsksShared(_) => drop(asked.insert(seen.attempt, seen.what)),
            What::Granted(_) => {
                alone.extend(asked.remove(&seen.attempt).map(|asks| event(0, seen.attempt, asks)));
                alone.push(Event { at: Instant::from_origin(FAR), ..seen });
            }
            What::Reads | What::Read(_) | What::Writes { .. } | What::Wrote | What::Stale => {
                rest.push(seen);
            }
            _ => {}
        }
    }
    // Asked before all, and answered after all: they may have come in any order.
    alone.extend(rest);
    alone
}

const FAR: std::time::Duration = std::time::Duration::from_secs(3600);
