//! Mistakes of a store in its semaphores.

use lockkit_core::Kind::Counted;
use lockkit_core::{Family, LockName};

use super::entry::{Ended, Entry};
use super::flaw::Flaw;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;

pub(crate) fn counted_flaws() -> Vec<Flaw> {
    [LIMIT, SLOTS, ENDS, OPERATORS].concat()
}

/// Whether the name is a semaphore's.
fn is_semaphore(entry: &Entry) -> bool {
    entry.name.family() == Family::Semaphore
}

const LIMIT: &[Flaw] = &[
    Flaw::rule(
        "a-permit-too-many",
        "holders are counted without the one that asks: less or equal, where less is meant",
        &["SE-01", "SE-02"],
        Rules { free: |entry, kind| kind.admits_within(entry.limit + 1, entry.kinds()), ..CORRECT },
    ),
    Flaw::rule(
        "a-permit-too-few",
        "the last permit is never given",
        &["SE-01"],
        Rules { free: |entry, kind| kind.admits_within(entry.limit - 1, entry.kinds()), ..CORRECT },
    ),
    Flaw::rule(
        "limit-of-the-last-caller",
        "each request notes its own limit: it drifts while two versions of a program run",
        &["SE-02"],
        Rules { notes_limit: |entry, permits| entry.limit = permits.wished(), ..CORRECT },
    ),
    Flaw::rule(
        "limit-of-the-greatest-caller",
        "a request that says a greater limit raises it",
        &["SE-02"],
        Rules {
            notes_limit: |entry, permits| entry.limit = entry.limit.max(permits.wished()),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "limit-forgotten-when-free",
        "the limit goes with the last holder, and the next caller notes another one",
        &["SE-02"],
        Rules {
            at_end: |entry, _| {
                if entry.held.is_empty() {
                    entry.limit = 0;
                }
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "exact-limit-ignored",
        "a caller that takes exactly one limit is granted under another one",
        &["SE-02"],
        Rules { checks_limit: |_, _| Ok(()), ..CORRECT },
    ),
    Flaw::rule(
        "one-family",
        "a semaphore has the key of the lock of the same name",
        &["SE-03"],
        Rules { family: |_| Family::Lock, ..CORRECT },
    ),
    Flaw::rule(
        "a-permit-for-each-sending",
        "a request that is sent again is counted again",
        &["SE-04"],
        Rules { replays: |held, _, id| held.id == id && held.kind != Counted, ..CORRECT },
    ),
    Flaw::rule(
        "a-permit-for-each-client",
        "a client's second request is given the permit of its first",
        &["SE-01"],
        Rules {
            replays: |held, client, id| {
                held.id == id || (held.kind == Counted && held.client == client)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "permits-barged",
        "a permit that is freed goes to the first that asks, and waiters are passed",
        &["SE-08"],
        Rules {
            turn: |entry, turn| turn.kind == Counted || (CORRECT.turn)(entry, turn),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "last-come-first",
        "the newest waiter of a semaphore is next",
        &["SE-08"],
        Rules {
            next: |entry| match is_semaphore(entry) {
                true => entry.queue.len().checked_sub(1),
                false => (CORRECT.next)(entry),
            },
            ..CORRECT
        },
    ),
];

const SLOTS: &[Flaw] = &[
    Flaw::rule(
        "slot-is-the-count",
        "the slot is how many hold: two holders have one slot, once another slot was freed",
        &["SE-01"],
        Rules { slot: |entry| u32::try_from(entry.held.len()).unwrap_or(0), ..CORRECT },
    ),
    Flaw::rule("one-slot", "all permits have slot 0", &["SE-01"], Rules { slot: |_| 0, ..CORRECT }),
    Flaw::rule(
        "slots-never-used-again",
        "each grant has a slot of its own: no fence of a slot ever refuses a stale holder",
        &["SE-01"],
        Rules { slot: |entry| u32::try_from(entry.last_token - 1).unwrap_or(0), ..CORRECT },
    ),
    Flaw::rule(
        "permits-share-a-token",
        "permits that are held together have one token, as shared grants may",
        &["SE-05"],
        Rules {
            next_token: |entry, _, _| {
                entry.last_token + u64::from(!is_semaphore(entry) || entry.held.is_empty())
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "token-above-the-living",
        "the next token is one more than the greatest of those who hold: those who left are forgotten",
        &["SE-05"],
        Rules {
            next_token: |entry, id, now| match is_semaphore(entry) {
                true => 1 + entry.held.iter().map(|held| held.token.as_u64()).max().unwrap_or(0),
                false => (CORRECT.next_token)(entry, id, now),
            },
            ..CORRECT
        },
    ),
];

const ENDS: &[Flaw] = &[
    Flaw::rule(
        "one-release-ends-all-permits",
        "the first holder of a permit to release frees all",
        &["SE-01", "SE-06"],
        Rules {
            releases: |held, caller| held.kind == Counted || (CORRECT.releases)(held, caller),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "a-permit-freed-by-each-withdrawal",
        "a withdrawal gives a permit back, whether its request had one or not",
        &["SE-06", "SE-07"],
        Rules {
            at_withdrawal: |entry| {
                if is_semaphore(entry) && !entry.held.is_empty() {
                    drop(entry.held.remove(0));
                }
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "a-permit-lost-by-each-refusal",
        "a permit is taken before it is known that none is free, and not given back",
        &["SE-07"],
        Rules { at_refusal: |entry| entry.limit = entry.limit.saturating_sub(1).max(1), ..CORRECT },
    ),
    Flaw::rule(
        "a-permit-lost-at-a-crash",
        "a permit whose holder is no longer heard of is never given again",
        &["SE-09"],
        Rules {
            at_end: |entry, ended| {
                if ended == Ended::Expired && is_semaphore(entry) {
                    entry.limit -= 1;
                }
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "one-expiry-ends-all-permits",
        "one ttl for all permits, and the first that passes ends them all",
        &["SE-09"],
        Rules {
            at_end: |entry, ended| {
                if ended == Ended::Expired && is_semaphore(entry) {
                    entry.held.clear();
                }
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "one-renewal-keeps-all-permits",
        "a renewal is for the first permit there is: a crashed holder is never missed",
        &["SE-09"],
        Rules {
            renews: |held, caller| held.kind == Counted || (CORRECT.renews)(held, caller),
            ..CORRECT
        },
    ),
];

const OPERATORS: &[Flaw] = &[
    Flaw::rule(
        "limit-not-shown",
        "operators are not told the limit",
        &["SE-10"],
        Rules { inspects: |entry, now| entry.inspect(now).with_permits(None), ..CORRECT },
    ),
    Flaw::rule(
        "slots-not-shown",
        "operators see holders without their slots",
        &["SE-10"],
        Rules {
            inspects: |entry, now| {
                let mut seen = entry.inspect(now);
                seen.holders.iter_mut().for_each(|holder| holder.slot = None);
                seen
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "semaphores-listed-as-locks",
        "a list names a semaphore as the lock of its text",
        &["SE-10"],
        Rules {
            page: |mut names, prefix, after, limit| {
                for seen in &mut names {
                    seen.name = LockName::new(seen.name.as_str()).expect("a name");
                }
                (CORRECT.page)(names, prefix, after, limit)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "revocation-ends-all-permits",
        "a revocation ends all who hold permits",
        &["SE-10"],
        Rules { revokes: |held, token| held.kind == Counted || held.token == token, ..CORRECT },
    ),
    Flaw::rule(
        "resize-evicts",
        "a smaller limit ends the grants above it",
        &["SE-11"],
        Rules {
            resizes: |entry, limit| {
                entry.held.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
                (CORRECT.resizes)(entry, limit)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "resize-not-told",
        "a greater limit grants no waiter before it asks again by itself",
        &["SE-11"],
        Rules {
            resizes: |entry, limit| {
                entry.limit = limit;
                false
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "resize-only-grows",
        "a smaller limit is ignored",
        &["SE-11"],
        Rules {
            resizes: |entry, limit| {
                entry.limit = entry.limit.max(limit);
                true
            },
            ..CORRECT
        },
    ),
];
