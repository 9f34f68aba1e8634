//! Mistakes that only a link brings to light: in what a client makes of calls without an answer,
//! and in what a store makes of messages that come late.

use lockkit_core::Applied;

use super::entry::{Ask, Ended};
use super::flaw::Flaw;
use super::habits::Habits;
use super::rules::Rules;

const CORRECT: Habits = Habits::CORRECT;

pub(crate) const LINK_FLAWS: &[Flaw] = &[
    Flaw::habit(
        "no-call-limit",
        "a call waits for its answer for as long as the connection lasts",
        &["C12-02", "C15-01"],
        Habits { limits_calls: false, ..CORRECT },
    ),
    Flaw::habit(
        "stuck-connection-kept",
        "a connection that left a call unanswered is used for the next one",
        &["C12-03"],
        Habits { leaves_stuck_connections: false, ..CORRECT },
    ),
    Flaw::habit(
        "one-round-trip-at-a-time",
        "one mutex around the connection: each call waits for the answer to the one before",
        &["C12-02"],
        Habits { one_call_at_a_time: true, ..CORRECT },
    ),
    Flaw::habit(
        "no-for-maybe",
        "a call whose connection broke says that it had no effect",
        &["AT-05-refused", "C15-01", "AT-06-link"],
        Habits { unanswered_is: Applied::No, ..CORRECT },
    ),
    Flaw::habit(
        "silence-is-success",
        "a release or a withdrawal that got no answer is called done",
        &["C15-01", "C15-02", "SF-02", "C12-02"],
        Habits { silence_is_success: true, ..CORRECT },
    ),
    Flaw::habit(
        "retries-under-a-new-id",
        "an attempt that got no answer is made again under a new id",
        &["AT-05", "C6-02", "AT-08-link"],
        Habits { retries_under_a_new_id: true, ..CORRECT },
    ),
    Flaw::habit(
        "queues-after-withdrawal",
        "a waiter keeps its place by asking for one, and comes back behind its own withdrawal",
        &["AT-07-waiting"],
        Habits { asks_from_its_place: false, ..CORRECT },
    )
    .with_rules(Rules { remembers: |_| false, ..Rules::CORRECT }),
    Flaw::habit(
        "place-lost-by-asking-again",
        "a waiter that asks again, as after a reset, comes after all others",
        &["FR-06"],
        Habits { asks_from_its_place: false, ..CORRECT },
    )
    .with_rules(Rules {
        keeps_place: |queue, place, ask| {
            let moved = queue.remove(place);
            let at = if ask == Ask::Queue { queue.len() } else { place };
            queue.insert(at, moved);
            Some(at)
        },
        ..Rules::CORRECT
    }),
    Flaw::habit(
        "reset-unheard",
        "a waiter listens on for a wake-up on a connection that is gone",
        &["LV-15", "AT-05-waiting"],
        Habits { hears_resets: false, ..CORRECT },
    ),
    Flaw::habit(
        "renewals-end-with-an-error",
        "after the first renewal that fails no other is sent",
        &["LV-05-link", "AT-05-renewal"],
        Habits { renews_after_an_error: false, ..CORRECT },
    ),
    Flaw::habit(
        "lease-ends-with-connection",
        "a lease is called lost once the connection is gone that it was granted over",
        &["LV-04"],
        Habits { lease_outlives_connection: false, ..CORRECT },
    ),
    Flaw::habit(
        "wait-ends-with-connection",
        "a waiter that is cut off is told to give up",
        &["LV-09-link", "AT-05-waiting"],
        Habits { waits_through_outages: false, ..CORRECT },
    ),
    Flaw::habit(
        "withdrawal-not-repeatable",
        "a withdrawal that was done, and whose answer was lost, is refused when it is repeated",
        &["AT-05-withdrawal"],
        Habits { withdraws_nothing: false, ..CORRECT },
    ),
    Flaw::habit(
        "attempts-joined",
        "an attempt that comes beside another on the name has no answer of its own",
        &["C1-03"],
        Habits { joins_attempts: true, ..CORRECT },
    ),
    Flaw::habit(
        "terms-at-receipt",
        "a term counts from the answer, which a slow link brought late",
        &["PF-10-link"],
        Habits { term_from_receipt: |_| true, ..CORRECT },
    ),
    Flaw::rule(
        "late-release-frees-next",
        "a release that comes late ends whatever grant there is",
        &["SF-02", "SF-02-release", "AT-05-release", "LV-03", "SB-05", "C6-03"],
        Rules { releases: |_, _| true, ..Rules::CORRECT },
    ),
    Flaw::rule(
        "late-renewal-extends-next",
        "a renewal that comes late extends whatever grant there is",
        &["SF-02", "SF-02-release"],
        Rules { renews: |_, _| true, ..Rules::CORRECT },
    ),
    Flaw::rule(
        "late-attempt-granted",
        "an attempt that comes after its withdrawal is granted: there is no tombstone",
        &["AT-07-link"],
        Rules { remembers: |ended| ended == Ended::Released, ..Rules::CORRECT },
    ),
    Flaw::rule(
        "attempt-granted-twice",
        "a second copy of an attempt is granted after the release of the first",
        &["AT-08-link"],
        Rules { remembers: |ended| ended != Ended::Released, ..Rules::CORRECT },
    ),
];
