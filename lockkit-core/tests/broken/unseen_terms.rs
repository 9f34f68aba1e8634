//! Mistakes of a store in how long a grant lasts (C5, C11).

use std::time::Duration;

use lockkit_core::{Inspection, Instant};

use super::entry::{Begins, Entry, Held, What};
use super::flaw::Flaw;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;

const MINUTE: Duration = Duration::from_secs(60);

const fn lasts(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    rules: Rules,
) -> Flaw {
    Flaw::rule(name, mistake, caught_by, rules).breaks("C5")
}

/// The same of a holder that keeps the name for too long.
const fn outlasts(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    rules: Rules,
) -> Flaw {
    Flaw::rule(name, mistake, caught_by, rules).breaks("C11")
}

pub(crate) fn unseen_terms() -> Vec<Flaw> {
    [GRANTS, RENEWALS, OTHERS].concat()
}

fn in_steps(ttl: Duration, millis: u64) -> Duration {
    let ttl = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(ttl - ttl % millis)
}

fn in_tenths(begins: &Begins) -> Instant {
    begins.for_ttl(in_steps(begins.ttl, 100))
}

const GRANTS: &[Flaw] = &[
    lasts(
        "ttl-in-tenths",
        "a ttl is rounded down to tenths of a second",
        &["C11-05"],
        Rules {
            granted_until: |_, begins| in_tenths(begins),
            renewed_until: |_, _, begins| in_tenths(begins),
            ..CORRECT
        },
    ),
    outlasts(
        "ttl-of-a-second-at-least",
        "a ttl of less than a second lasts a second",
        &["C6-04"],
        Rules {
            granted_until: |_, begins| begins.for_ttl(begins.ttl.max(Duration::from_secs(1))),
            renewed_until: |_, _, begins| begins.for_ttl(begins.ttl.max(Duration::from_secs(1))),
            ..CORRECT
        },
    ),
    lasts(
        "ttl-of-ten-minutes-at-most",
        "a ttl of more than ten minutes lasts ten minutes",
        &["C12-01"],
        Rules {
            granted_until: |_, begins| begins.for_ttl(begins.ttl.min(10 * MINUTE)),
            renewed_until: |_, _, begins| begins.for_ttl(begins.ttl.min(10 * MINUTE)),
            ..CORRECT
        },
    ),
    lasts(
        "ttl-of-the-first-grant",
        "a name has the ttl of its first grant for ever",
        &["SF-27"],
        Rules {
            granted_until: |entry, begins| begins.for_ttl(first_ttl(entry, begins)),
            ..CORRECT
        },
    ),
    lasts(
        "ttl-of-the-client",
        "all leases of a client have the ttl of its first request: one session",
        &["SF-27"],
        Rules {
            granted_until: |_, begins| begins.for_ttl(begins.client_ttl),
            renewed_until: |_, _, begins| begins.for_ttl(begins.client_ttl),
            ..CORRECT
        },
    ),
    lasts(
        "hand-off-counts-from-queueing",
        "the store counts the ttl of a waiter's grant from when the waiter came",
        &["C11-01"],
        Rules {
            granted_until: |_, begins| {
                let since = begins.place.map_or(begins.now, |(since, _)| since);
                since.saturating_add(begins.ttl)
            },
            ..CORRECT
        },
    ),
    lasts(
        "hand-off-ends-with-its-place",
        "a waiter's grant ends when its place in the queue would have",
        &["C1-01"],
        Rules {
            granted_until: |_, begins| {
                begins.place.map_or(begins.for_ttl(begins.ttl), |(_, expires)| expires)
            },
            ..CORRECT
        },
    ),
    lasts(
        "hand-off-takes-the-last-ttl",
        "a waiter's grant has the ttl of the holder before it",
        &["SF-02"],
        Rules {
            granted_until: |entry, begins| match (begins.place, entry.past.last) {
                (Some(_), Some((_, ttl))) => begins.for_ttl(ttl),
                _ => begins.for_ttl(begins.ttl),
            },
            ..CORRECT
        },
    ),
    outlasts(
        "hand-off-lasts-twice",
        "a waiter's grant lasts two ttls, unless it is renewed",
        &["SF-02"],
        Rules {
            granted_until: |_, begins| {
                begins.for_ttl(begins.ttl * if begins.place.is_some() { 2 } else { 1 })
            },
            ..CORRECT
        },
    ),
    lasts(
        "replay-extends-nothing",
        "a replay of the holder's request reports a fresh term, and extends nothing",
        &["C11-05"],
        Rules { replay_extends: false, ..CORRECT },
    ),
];

fn first_ttl(entry: &Entry, begins: &Begins) -> Duration {
    entry.past.first.as_ref().map_or(begins.ttl, |(ttl, _)| *ttl)
}

/// As a renewal should, while `works`.
fn renewed_while(works: bool, held: &Held, begins: &Begins) -> Instant {
    if works { begins.for_ttl(begins.ttl) } else { held.expires }
}

const RENEWALS: &[Flaw] = &[
    lasts(
        "renewal-by-the-last-asker",
        "a renewal extends by the ttl of whichever request asked last",
        &["C11-05"],
        Rules {
            renewed_until: |_, past, begins| {
                let newest = past.newest.as_ref().map_or(begins.ttl, |(ttl, _)| *ttl);
                begins.for_ttl(newest)
            },
            ..CORRECT
        },
    ),
    lasts(
        "renewal-in-whole-seconds",
        "a renewal's ttl is rounded down to whole seconds, a grant's is not",
        &["C11-01"],
        Rules {
            renewed_until: |_, _, begins| begins.for_ttl(in_steps(begins.ttl, 1000)),
            ..CORRECT
        },
    ),
    lasts(
        "renewal-lowers-the-deadline",
        "a renewal that comes late sets the deadline that it was sent for, older than the one there is",
        &["C5-04"],
        Rules { renewed_until: |_, _, begins| begins.sent.saturating_add(begins.ttl), ..CORRECT },
    ),
    lasts(
        "renewals-end-after-a-minute",
        "a grant of more than a minute ago is renewed in words only",
        &["C8-03"],
        Rules {
            renewed_until: |held, _, begins| {
                let held_for = begins.now.saturating_since(held.since);
                renewed_while(held_for <= MINUTE, held, begins)
            },
            ..CORRECT
        },
    ),
    lasts(
        "grants-end-after-an-hour",
        "no grant lasts longer than an hour, however often it is renewed",
        &["C5-02"],
        Rules {
            renewed_until: |held, _, begins| {
                begins.for_ttl(begins.ttl).min(held.since.saturating_add(60 * MINUTE))
            },
            ..CORRECT
        },
    ),
    lasts(
        "renewals-in-8-bits",
        "after 255 renewals no other extends the grant",
        &["C8-03"],
        Rules {
            renewed_until: |held, _, begins| renewed_while(held.renewals < 255, held, begins),
            ..CORRECT
        },
    ),
    lasts(
        "renewal-too-soon",
        "a renewal within a tenth of a ttl of the one before is answered, and extends nothing",
        &["C5-01"],
        Rules {
            renewed_until: |held, _, begins| {
                let since = begins.now.saturating_since(held.renewed);
                renewed_while(since >= begins.ttl / 10, held, begins)
            },
            ..CORRECT
        },
    ),
    lasts(
        "renewal-too-late",
        "a renewal in the last tenth of its ttl is told that the grant has ended",
        &["C11-06"],
        Rules {
            renews: |held, caller| {
                (CORRECT.renews)(held, caller)
                    && caller.now.saturating_add(held.ttl / 10) < held.expires
            },
            ..CORRECT
        },
    ),
    outlasts(
        "renewals-add-up",
        "each renewal adds a ttl to what is left",
        &["C11-01"],
        Rules {
            renewed_until: |held, _, begins| held.expires.saturating_add(begins.ttl),
            ..CORRECT
        },
    ),
];

const OTHERS: &[Flaw] = &[
    outlasts(
        "renewal-keeps-all-names",
        "a renewal of one name extends all that its client holds: one session",
        &["C11-05"],
        Rules {
            elsewhere: Some(|entry, done| {
                let renewed = done.what == What::Renewed;
                let meant = |held: &&mut Held| renewed && held.client == done.client;
                for held in entry.held.iter_mut().filter(meant) {
                    held.expires = held.expires.max(done.now.saturating_add(done.ttl));
                }
            }),
            ..CORRECT
        },
    ),
    outlasts(
        "attempt-keeps-all-names",
        "whatever a client asks for keeps all that it holds: the store saw it alive",
        &["C11-05"],
        Rules {
            elsewhere: Some(|entry, done| {
                let asked = matches!(done.what, What::Granted | What::Refused);
                let meant = |held: &&mut Held| asked && held.client == done.client;
                for held in entry.held.iter_mut().filter(meant) {
                    held.expires = held.expires.max(done.now.saturating_add(held.ttl));
                }
            }),
            ..CORRECT
        },
    ),
    outlasts(
        "inspection-renews",
        "an inspection extends the grant that it shows: an idle time, not a ttl",
        &["C16-07"],
        Rules { inspects: touched, ..CORRECT },
    ),
    outlasts(
        "refusal-renews",
        "an attempt that is refused extends the grant that it met",
        &["C11-05"],
        Rules {
            at_refusal: |entry| {
                let used = entry.past.used;
                for held in &mut entry.held {
                    held.expires = held.expires.max(used.saturating_add(held.ttl));
                }
            },
            ..CORRECT
        },
    ),
];

fn touched(entry: &mut Entry, now: Instant) -> Inspection {
    for held in &mut entry.held {
        held.expires = now.saturating_add(held.ttl);
    }
    entry.inspect(now)
}
