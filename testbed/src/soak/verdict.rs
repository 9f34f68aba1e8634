//! What is found in all that the clients of a soak saw.

use std::time::Duration;

use lockkit_core::conformance::history::{History, What};
use lockkit_core::{FencingToken, Instant, LockName};

use super::Happened;
use super::turns::Attempt;
use crate::in_time;

/// How long two believed after one fault, at most.
#[derive(Debug, Default)]
struct Both {
    grants: usize,
    longest: Duration,
}

/// Checks the history of all attempts, and prints what it has; gives how many were granted.
///
/// # Panics
/// Where a store that keeps its promises cannot have led to it.
pub(super) fn check(mut seen: Vec<Attempt>, happened: &[Happened]) -> usize {
    let allowed = allow(&mut seen, happened);
    let losses = seen.iter().flat_map(|attempt| &attempt.events);
    let losses = losses.filter(|event| event.what == What::Lost).count();
    let mut history = History::new();
    for event in seen.into_iter().flat_map(|attempt| attempt.events) {
        history.push(event);
    }
    let summary = history.check();
    let summary = summary.unwrap_or_else(|why| panic!("no such history of a lock: {why}"));
    for (fault, both) in happened.iter().zip(&allowed) {
        let (what, most) = (&fault.what, fault.declared);
        in_time!(
            fault.stopwatch,
            both.longest <= most,
            "{what}: two believed for {:?}, {most:?} are declared",
            both.longest
        );
    }
    let overlapping: usize = allowed.iter().map(|both| both.grants).sum();
    let longest = allowed.iter().map(|both| both.longest).max().unwrap_or_default();
    println!(
        "{} faults; {losses} holders lost, {overlapping} of them overlapped the next one as \
         declared, for {longest:?} at most; {summary:?}",
        happened.len(),
    );
    summary.grants
}

/// Takes back each belief that overlaps the next grant of its name to that grant, where a fault
/// declares that it may; gives what it took back, for each fault.
fn allow(seen: &mut [Attempt], happened: &[Happened]) -> Vec<Both> {
    let mut allowed: Vec<Both> = happened.iter().map(|_| Both::default()).collect();
    let mut grants: Vec<(LockName, FencingToken, Instant, usize)> = seen
        .iter()
        .enumerate()
        .filter_map(|(number, attempt)| {
            let (token, at) = attempt.granted?;
            Some((attempt.name.clone(), token, at, number))
        })
        .collect();
    grants.sort_unstable();
    for pair in grants.windows(2) {
        let [(name, _, from, number), (next, _, granted, _)] = pair else { continue };
        let attempt = &mut seen[*number];
        let Some(event) = attempt.believed.map(|event| &mut attempt.events[event]) else {
            continue;
        };
        if name != next || event.at <= *granted || granted < from {
            continue;
        }
        let is_of = |fault: &Happened| {
            (fault.may_end_any || fault.client == Some(attempt.client))
                && fault.began <= *granted
                && *granted <= fault.ended
        };
        if let Some(fault) = happened.iter().position(is_of) {
            let both = &mut allowed[fault];
            both.grants += 1;
            both.longest = both.longest.max(event.at.saturating_since(*granted));
            event.at = *granted;
        }
    }
    allowed
}
