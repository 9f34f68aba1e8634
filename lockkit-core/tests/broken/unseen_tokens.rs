//! Mistakes of a store in its tokens (C4).

use std::time::Duration;

use super::entry::Ended;
use super::flaw::Flaw;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;

const fn counted(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    rules: Rules,
) -> Flaw {
    Flaw::rule(name, mistake, caught_by, rules).breaks("C4")
}

pub(crate) const UNSEEN_TOKENS: &[Flaw] = &[
    counted(
        "token-forgotten-when-idle",
        "the counter goes with a name that no request used for a minute",
        &["C4-04"],
        Rules {
            at_idleness: |entry, idle| {
                if idle > Duration::from_secs(60) {
                    entry.last_token = 0;
                }
            },
            ..CORRECT
        },
    ),
    counted(
        "token-in-16-bits",
        "a token is kept in 16 bits, and starts again after 65,535 grants",
        &["C4-05"],
        Rules { next_token: |entry, _, _| entry.last_token % 0xffff + 1, ..CORRECT },
    ),
    counted(
        "token-resets-on-withdrawal",
        "the counter goes with the entry when a withdrawal leaves it empty",
        &["PW-01"],
        Rules {
            at_withdrawal: |entry| {
                if entry.held.is_empty() && entry.queue.is_empty() {
                    entry.last_token = 0;
                }
            },
            ..CORRECT
        },
    ),
    counted(
        "token-resets-on-revocation",
        "the counter goes with the entry when an operator ends the grant",
        &["C16-03"],
        Rules {
            at_end: |entry, ended| {
                if ended == Ended::Revoked {
                    entry.last_token = 0;
                }
            },
            ..CORRECT
        },
    ),
    counted(
        "token-kept-after-revocation",
        "who comes after a revocation has the token that was revoked",
        &["C16-03"],
        Rules {
            next_token: |entry, _, _| match entry.freed_by() {
                Some(Ended::Revoked) => entry.last_token,
                _ => entry.last_token + 1,
            },
            ..CORRECT
        },
    ),
    counted(
        "token-kept-after-withdrawal",
        "who comes after a grant that was withdrawn has its token",
        &["C8-04"],
        Rules {
            next_token: |entry, _, _| match entry.freed_by() {
                Some(Ended::Withdrawn) => entry.last_token,
                _ => entry.last_token + 1,
            },
            ..CORRECT
        },
    ),
    counted(
        "token-in-milliseconds",
        "the token is the store's time in milliseconds: two grants of one share it",
        &["SF-14"],
        Rules {
            next_token: |_, _, now| {
                u64::try_from(now.since_origin().as_millis()).map_or(1, |millis| millis + 1)
            },
            ..CORRECT
        },
    ),
    counted(
        "token-of-the-first-grant",
        "a request that comes again after its expiry gets the token that it had",
        &["C6-04"],
        Rules {
            at_grant: |entry| {
                let held = entry.held.last_mut();
                let old = held.and_then(|held| Some((entry.past.granted.get(&held.id)?, held)));
                if let Some((token, held)) = old {
                    (held.token, held.carries) = (*token, *token);
                }
            },
            ..CORRECT
        },
    ),
];
