//! Mistakes of a client in what it makes of its link (C5, C9, C12).

use super::flaw::Flaw;
use super::habits::{Call, Habits};

const CORRECT: Habits = Habits::CORRECT;

pub(crate) const UNSEEN_LINKS: &[Flaw] = &[
    counts(
        "attempt-term-at-receipt",
        "the term of a name that was tried counts from the answer",
        &["PF-10-link", "C5-07"],
        |call| call == Call::Attempt,
    ),
    counts(
        "wait-term-at-receipt",
        "the term of a free name that a waiter found counts from the answer",
        &["C5-03"],
        |call| call == Call::Wait,
    ),
    counts(
        "hand-off-term-at-receipt",
        "the term of a name that was handed over counts from the answer",
        &["C5-03"],
        |call| call == Call::HandOff,
    ),
    counts(
        "renewal-term-at-its-receipt",
        "the term of a renewal counts from the answer, that of a grant does not",
        &["PF-10-link"],
        |call| call == Call::Renewal,
    ),
    Flaw::habit(
        "hand-off-term-from-its-queueing",
        "over a link, the term of a waiter's grant counts from when the waiter came",
        &["C5-03"],
        Habits { term_from_queueing: true, ..CORRECT },
    )
    .breaks("C5"),
    Flaw::habit(
        "hand-off-term-from-itself",
        "a client hands a name on to its own waiter, whose term counts from then and not from what the store \
         has acknowledged",
        &["C5-05"],
        Habits { hands_on_itself: true, ..CORRECT },
    )
    .breaks("C5"),
    Flaw::habit(
        "wake-ups-over-the-first-connection",
        "when the connection for wake-ups has ended, none is listened to over the next",
        &["C8-07"],
        Habits { listens_again: false, ..CORRECT },
    )
    .breaks("C8"),
    leaks(
        "connection-leaked-per-attempt",
        "each name that is taken leaves a connection open",
        &["C9-04"],
        |call| call != Call::Renewal,
    ),
    leaks(
        "connection-leaked-per-wait",
        "each wait that is granted leaves a connection open",
        &["C9-04"],
        |call| call == Call::HandOff,
    ),
    leaks(
        "connection-leaked-per-renewal",
        "each renewal leaves a connection open",
        &["C9-04"],
        |call| call == Call::Renewal,
    ),
    Flaw::habit(
        "connection-left-by-close",
        "a client that is closed leaves its connection open",
        &["C9-05"],
        Habits { closes_its_connection: false, ..CORRECT },
    )
    .breaks("C9"),
    Flaw::habit(
        "pings-after-close",
        "a client that is closed goes on asking the store whether it is there",
        &["C9-05"],
        Habits { pings_after_close: true, ..CORRECT },
    )
    .breaks("C9"),
];

const fn counts(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    term_from_receipt: fn(Call) -> bool,
) -> Flaw {
    Flaw::habit(name, mistake, caught_by, Habits { term_from_receipt, ..CORRECT }).breaks("C5")
}

const fn leaks(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    leaks_connection: fn(Call) -> bool,
) -> Flaw {
    Flaw::habit(name, mistake, caught_by, Habits { leaks_connection, ..CORRECT }).breaks("C9")
}
