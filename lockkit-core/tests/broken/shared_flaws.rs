//! Mistakes of a store in its shared locks.

use lockkit_core::Kind::{Exclusive, Shared};

use super::entry::{Ended, Entry};
use super::flaw::Flaw;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;

/// What is right, but unusual: those who hold together have one token.
pub(crate) const ONE_TOKEN: Flaw = Flaw::rule(
    "one-token-for-all-who-share",
    "a shared grant beside another has the token of that one",
    &[],
    Rules {
        next_token: |entry, _, _| entry.last_token + u64::from(entry.held.is_empty()),
        ..CORRECT
    },
);

/// The cases that judge shared locks.
pub(crate) const CASES: &[&str] =
    &["C1-04", "C1-05", "C2-03", "C4-07", "C6-06", "C9-07", "C10-04", "C11-07", "C16-13"];

/// Whether all who hold share.
fn is_shared(entry: &Entry) -> bool {
    entry.held.iter().all(|held| held.kind == Shared)
}

pub(crate) fn shared_flaws() -> Vec<Flaw> {
    [EXCLUSION, ORDER, ENDS, OPERATORS].concat()
}

const EXCLUSION: &[Flaw] = &[
    Flaw::rule(
        "shared-alone",
        "a shared grant keeps out other shared ones: it is an exclusive one by another name",
        &["C1-04"],
        Rules { free: |entry, _| entry.held.is_empty(), ..CORRECT },
    ),
    Flaw::rule(
        "shared-beside-exclusive",
        "a shared request does not look who holds: readers are only counted",
        &["C1-05"],
        Rules { free: |entry, kind| kind == Shared || entry.held.is_empty(), ..CORRECT },
    ),
    Flaw::rule(
        "exclusive-beside-shared",
        "an exclusive request looks only for another exclusive one",
        &["C1-04"],
        Rules { free: |entry, _| is_shared(entry), ..CORRECT },
    ),
    Flaw::rule(
        "sharers-reentrant",
        "a second shared request of one client is given the grant of the first",
        &["C1-04"],
        Rules {
            replays: |held, client, id| {
                held.id == id || (held.kind == Shared && held.client == client)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "sharers-overwrite",
        "a shared grant replaces the one before: a key for the kind, not for each grant",
        &["C2-03"],
        Rules { at_grant: super::rule_flaws::overwrite, ..CORRECT },
    ),
    Flaw::rule(
        "sharers-uncounted",
        "shared grants do not move the counter, and the next exclusive one has their token",
        &["C4-07"],
        Rules {
            at_grant: |entry| {
                let is_shared = entry.held.last().is_some_and(|held| held.kind == Shared);
                entry.last_token -= u64::from(is_shared);
            },
            ..CORRECT
        },
    ),
];

const ORDER: &[Flaw] = &[
    Flaw::rule(
        "readers-pass-writers",
        "a shared request passes an exclusive one that waits: writers starve",
        &["C10-04"],
        Rules {
            turn: |entry, turn| {
                (turn.kind == Shared && is_shared(entry)) || (CORRECT.turn)(entry, turn)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "writers-pass-readers",
        "an exclusive request goes before the shared ones that wait: readers starve",
        &["C10-04"],
        Rules {
            next: |entry| {
                let writer = entry.queue.iter().position(|place| place.kind == Exclusive);
                writer.or_else(|| (CORRECT.next)(entry))
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "readers-one-by-one",
        "only the first of the shared waiters is woken, the next by the end of its grant",
        &["C1-05", "C9-07"],
        Rules { wakes: |entry| entry.held.is_empty(), ..CORRECT },
    ),
];

const ENDS: &[Flaw] = &[
    Flaw::rule(
        "one-release-ends-all-shared",
        "the first of those who share to release frees the name: a plain DEL",
        &["C1-04", "C6-06"],
        Rules {
            releases: |held, caller| held.kind == Shared || (CORRECT.releases)(held, caller),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "one-withdrawal-ends-all-shared",
        "a withdrawal ends all shared grants of its client",
        &["C6-06"],
        Rules {
            withdraws: |held, client, id| {
                held.id == id || (held.kind == Shared && held.client == client)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "one-expiry-ends-all-shared",
        "one ttl for all who share, and the first that passes ends them all",
        &["C11-07"],
        Rules {
            at_end: |entry, ended| {
                if ended == Ended::Expired {
                    entry.held.clear();
                }
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "one-renewal-keeps-all-shared",
        "one ttl for all who share, and each renewal extends it: a crashed reader is never missed",
        &["C11-07"],
        Rules {
            renews: |held, caller| held.kind == Shared || (CORRECT.renews)(held, caller),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "shared-not-renewed",
        "only exclusive grants can be renewed",
        &["C11-07"],
        Rules {
            renews: |held, caller| held.kind == Exclusive && (CORRECT.renews)(held, caller),
            ..CORRECT
        },
    ),
];

const OPERATORS: &[Flaw] = &[
    Flaw::rule(
        "one-sharer-shown",
        "operators see one of those who share",
        &["C16-13"],
        Rules {
            inspects: |entry, now| {
                let mut seen = entry.inspect(now);
                seen.holders.truncate(1);
                seen
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "revocation-ends-all-shared",
        "a revocation ends all who share",
        &["C16-13"],
        Rules { revokes: |held, token| held.kind == Shared || held.token == token, ..CORRECT },
    ),
];
