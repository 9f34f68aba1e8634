//! Who believed when, and under which token.

use super::at::At;
use super::attempt::{Attempt, Granted};
use super::verdict::{Summary, Violation};
use crate::LockName;

/// Judges the grants of all names.
///
/// Grants of one name follow each other in the order of their tokens. Each was made between its
/// call and its answer, and after the one before had ended, which was after its last belief. Such
/// instants exist if and only if no answer came before an earlier call or belief.
pub(super) fn check(
    attempts: &[Attempt],
    names: &[LockName],
    summary: &mut Summary,
    violations: &mut Vec<Violation>,
) {
    let mut grants: Vec<(&Attempt, Granted)> =
        attempts.iter().filter_map(|attempt| Some((attempt, attempt.granted?))).collect();
    summary.grants = grants.len();
    // Stable, so that it uses the runs that the processes' logs are made of.
    grants.sort_by_key(|(attempt, granted)| (attempt.name, granted.token));
    for grants in grants.chunk_by(|(one, _), (next, _)| one.name == next.name) {
        let Some((first, _)) = grants.first() else { continue };
        if let Some(violation) = check_name(&names[first.name], grants, summary) {
            violations.push(violation);
        }
    }
}

fn check_name(
    name: &LockName,
    grants: &[(&Attempt, Granted)],
    summary: &mut Summary,
) -> Option<Violation> {
    let mut last: Option<(At, (&Attempt, Granted))> = None;
    let mut token = None;
    for &(attempt, granted) in grants {
        if token == Some(granted.token) {
            let token = granted.token;
            return Some(Violation::DuplicateToken { name: name.clone(), token });
        }
        token = Some(granted.token);
        if let Some((end, (before, earlier))) = last {
            if granted.from < end {
                return Some(contradiction(name, (before, earlier), (attempt, granted), end));
            }
            if let Some(until) = earlier.until {
                let gap = granted.from.saturating_since(until);
                summary.smallest_gap =
                    Some(summary.smallest_gap.map_or(gap, |least| least.min(gap)));
            }
        }
        let end = granted.until.map_or(attempt.asked, |until| until.max(attempt.asked));
        if last.is_none_or(|(latest, _)| end > latest) {
            last = Some((end, (attempt, granted)));
        }
    }
    None
}

/// The later grant was answered before `end`: the earlier one's call, or the last of its belief.
fn contradiction(
    name: &LockName,
    (before, earlier): (&Attempt, Granted),
    (after, later): (&Attempt, Granted),
    end: At,
) -> Violation {
    let name = name.clone();
    let believed = earlier.until.filter(|until| *until == end);
    // If it had ended before the other began, then only the order of the tokens is wrong.
    let at_once = believed.is_some() && earlier.from <= later.until.unwrap_or(later.from);
    match at_once {
        true => Violation::Overlap {
            name,
            first: (before.id, earlier.token),
            second: (after.id, later.token),
            by: end
                .min(later.until.unwrap_or(end).max(later.from))
                .saturating_since(later.from.max(earlier.from)),
        },
        false => Violation::TokenAgainstTime {
            name,
            first: (after.id, later.token),
            second: (before.id, earlier.token),
        },
    }
}
