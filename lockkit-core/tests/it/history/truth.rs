//! Histories as a right store and a right fence lead to them.

use std::time::Duration;

use lockkit_core::conformance::history::{AttemptId, Event, What};
use lockkit_core::{FencingToken, Instant, LockName};
use proptest::collection::vec;
use proptest::prelude::*;

/// How one attempt goes: times are in ticks, each from the one before.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// How long before the grant it asked.
    asked_before: u64,
    /// How long the name was free before.
    free: u64,
    /// How many tokens were used up by nobody.
    skipped: u64,
    /// How long the answer took.
    answer: u64,
    /// How long it believes, if it is ever told.
    believes: Option<u64>,
    /// How much longer the store keeps the grant.
    kept: u64,
    end: End,
    accesses: Vec<Visit>,
    /// Whether it shares the name.
    shared: bool,
}

#[derive(Clone, Copy, Debug)]
enum End {
    Released,
    Lost,
    Silence,
    /// Its grant is never answered.
    Unknown,
}

/// One read or write: when it begins, takes effect, and is answered.
#[derive(Clone, Copy, Debug)]
struct Visit {
    after: u64,
    travels: u64,
    answered: Option<u64>,
    writes: bool,
}

pub(crate) fn plans(most: usize, ticks: u64) -> impl Strategy<Value = Vec<Plan>> {
    let visit = (0..ticks, 0..ticks, proptest::option::weighted(0.8, 0..ticks), any::<bool>());
    let visit = visit.prop_map(|(after, travels, answered, writes)| Visit {
        after,
        travels,
        answered,
        writes,
    });
    let end =
        prop_oneof![Just(End::Released), Just(End::Lost), Just(End::Silence), Just(End::Unknown)];
    let plan = (
        (0..ticks * 3, 0..ticks, 0..3_u64, 0..ticks),
        (proptest::option::weighted(0.8, 0..ticks), 0..ticks, end, vec(visit, 0..4), any::<bool>()),
    );
    let plan =
        plan.prop_map(
            |((asked_before, free, skipped, answer), (believes, kept, end, accesses, shared))| {
                Plan { asked_before, free, skipped, answer, believes, kept, end, accesses, shared }
            },
        );
    vec(plan, 1..=most)
}

/// What the clients of these plans see; each attempt is a process of its own.
pub(crate) fn events(plans: &[Plan], name: &str) -> Vec<Event> {
    let name = LockName::new(name).expect("a name");
    let mut all = Vec::new();
    let mut visits = Vec::new();
    // When the last exclusive grant ends, and the last shared one.
    let (mut exclusive_until, mut shared_until, mut token) = (1000, 1000, 0);
    for (process, plan) in plans.iter().enumerate() {
        let attempt = AttemptId { process: process as u64, number: 0 };
        let free_from = match plan.shared {
            true => exclusive_until,
            false => exclusive_until.max(shared_until),
        };
        let granted = free_from + plan.free;
        token += 1 + plan.skipped;
        let told = granted + plan.answer;
        let until = plan.believes.map(|ticks| told + ticks);
        // The store keeps the grant for as long as its holder believes.
        let end = until.unwrap_or(granted) + plan.kept;
        let last = if plan.shared { &mut shared_until } else { &mut exclusive_until };
        *last = end.max(*last);
        let asked = granted.saturating_sub(plan.asked_before);
        let asks = if plan.shared { What::AsksShared } else { What::Asks };
        all.push(event(asked, attempt, asks(name.clone())));
        if matches!(plan.end, End::Unknown) {
            all.push(event(told, attempt, What::Unknown));
            continue;
        }
        all.push(event(told, attempt, What::Granted(number(token))));
        if let Some(until) = until {
            all.push(event(until, attempt, What::Believes));
        }
        let mut at = told;
        for visit in &plan.accesses {
            let called = at + visit.after;
            let effect = called + visit.travels;
            let answered = visit.answered.map(|ticks| effect + ticks);
            let (number, token, writes) = (visits.len(), (token, plan.shared), visit.writes);
            visits.push((effect, number, attempt, token, called, answered, writes && !plan.shared));
            at = answered.unwrap_or(called);
        }
        match (plan.end, until) {
            (End::Released, Some(until)) => {
                all.push(event(until, attempt, What::Releases));
                all.push(event(until + plan.kept, attempt, What::Released));
            }
            (End::Lost, _) => all.push(event(until.unwrap_or(told), attempt, What::Lost)),
            _ => {}
        }
    }
    all.extend(at_the_fence(visits));
    all
}

type Called = (u64, usize, AttemptId, (u64, bool), u64, Option<u64>, bool);

/// Takes the visits in as a right fence does, in the order in which they take effect.
fn at_the_fence(mut visits: Vec<Called>) -> Vec<Event> {
    visits.sort_by_key(|visit| visit.0);
    let (mut exclusive, mut shared, mut version) = (0, 0, 0);
    let mut all = Vec::new();
    let mut seen_by = std::collections::HashMap::new();
    for (wrote, (_, number, attempt, token, called, answered, writes)) in (1..).zip(visits) {
        let (fresh, newest) = match token {
            (token, true) => (token > exclusive, (exclusive, shared.max(token))),
            (token, false) => (token >= exclusive && token > shared, (token, shared)),
        };
        if fresh {
            (exclusive, shared) = newest;
        }
        let seen = seen_by.get(&attempt).copied().filter(|seen| writes && *seen == version);
        let answer = match (seen, fresh) {
            (_, false) => What::Stale,
            (Some(_), true) => What::Wrote,
            (None, true) => What::Read(version),
        };
        let call = match seen {
            // A write that is refused may be based on anything.
            _ if writes && !fresh => What::Writes { seen: 0, wrote },
            Some(seen) => What::Writes { seen, wrote },
            None => What::Reads,
        };
        if fresh {
            version = if seen.is_some() { wrote } else { version };
            seen_by.insert(attempt, version);
        }
        all.push((2 * number, event(called, attempt, call)));
        all.extend(answered.map(|at| (2 * number + 1, event(at, attempt, answer))));
    }
    // An attempt's own events come in their order.
    all.sort_by_key(|(number, _)| *number);
    all.into_iter().map(|(_, event)| event).collect()
}

pub(crate) fn event(at: u64, attempt: AttemptId, what: What) -> Event {
    Event { at: Instant::from_origin(Duration::from_nanos(at)), attempt, what }
}

pub(crate) fn number(token: u64) -> FencingToken {
    FencingToken::new(token).expect("a token")
}
