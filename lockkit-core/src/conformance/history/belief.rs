//! Who believed when, and under which token.

use super::at::At;
use super::attempt::{Attempt, Granted};
use super::verdict::{Summary, Violation};
use crate::{Kind, LockName};

/// Judges the grants of all names.
///
/// Grants of one name that exclude each other follow each other in the order of their tokens. Each was
/// made between its call and its answer, and after those before it had ended that it excludes, which was
/// after their last beliefs. Such instants exist if and only if no answer came before an earlier call or
/// belief. Of shared grants among themselves nothing is asked, but that an exclusive one shares no token
/// with them.
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
    // The latest end of an exclusive grant so far, and of a shared one.
    let (mut last_exclusive, mut last_shared): (Option<Last<'_>>, Option<Last<'_>>) = (None, None);
    let mut newest = None;
    for &(attempt, granted) in grants {
        let is_shared = attempt.kind == Kind::Shared;
        if newest.is_some_and(|(token, shares)| token == granted.token && !(shares && is_shared)) {
            let token = granted.token;
            return Some(Violation::DuplicateToken { name: name.clone(), token });
        }
        newest = Some((granted.token, is_shared));
        let excluded = match is_shared {
            true => last_exclusive,
            false => later(last_exclusive, last_shared),
        };
        if let Some((end, (before, earlier))) = excluded {
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
        let own = Some((end, (attempt, granted)));
        match is_shared {
            true => last_shared = later(last_shared, own),
            // What comes after it comes after all that it came after, too.
            false => last_exclusive = later(excluded, own),
        }
    }
    None
}

/// The end of a grant, and the grant.
type Last<'a> = (At, (&'a Attempt, Granted));

/// The later end of the two; the first of two that are equal.
fn later<'a>(one: Option<Last<'a>>, other: Option<Last<'a>>) -> Option<Last<'a>> {
    match (one, other) {
        (Some((end, _)), Some((latest, _))) if latest <= end => one,
        (one, other) => other.or(one),
    }
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
