//! Mistakes of a store in its queues (C8, C10).

use std::time::Duration;

use super::entry::{Ask, Ended, Entry, Turn};
use super::flaw::Flaw;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;

const fn orders(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    rules: Rules,
) -> Flaw {
    Flaw::rule(name, mistake, caught_by, rules).breaks("C10")
}

pub(crate) fn unseen_queues() -> Vec<Flaw> {
    [BARGING, ORDER, PLACES].concat()
}

/// Whether the name has been free for longer than a waiter on a fast link needs to come.
fn lies_about(entry: &Entry, turn: &Turn) -> bool {
    let lies = |(_, at)| turn.now.saturating_since(at) >= Duration::from_millis(5);
    entry.past.freed.is_some_and(lies)
}

const BARGING: &[Flaw] = &[
    orders(
        "expiry-barges",
        "a name whose holder expired goes to the first request that asks",
        &["C10-03"],
        Rules {
            turn: |entry, turn| {
                entry.freed_by() == Some(Ended::Expired) || (CORRECT.turn)(entry, turn)
            },
            ..CORRECT
        },
    ),
    orders(
        "expiry-in-the-wrong-order",
        "a name whose holder expired goes to the newest waiter",
        &["C10-03"],
        Rules {
            next: |entry| match entry.freed_by() {
                Some(Ended::Expired) => entry.queue.len().checked_sub(1),
                _ => (CORRECT.next)(entry),
            },
            ..CORRECT
        },
    ),
    orders(
        "first-to-ask",
        "a free name goes to the first request that asks, though the head of the queue was told",
        &["FR-02"],
        Rules { turn: |_, _| true, ..CORRECT },
    ),
    orders(
        "slow-head-overtaken",
        "a free name that its next waiter has not fetched within 5 ms goes to any request that asks",
        &["FR-10"],
        Rules {
            turn: |entry, turn| lies_about(entry, turn) || (CORRECT.turn)(entry, turn),
            ..CORRECT
        },
    ),
    orders(
        "slow-head-overtaken-by-attempts",
        "a free name that its next waiter has not fetched within 5 ms goes to any attempt",
        &["FR-10"],
        Rules {
            turn: |entry, turn| {
                let barges = turn.ask == Ask::Now && lies_about(entry, turn);
                barges || (CORRECT.turn)(entry, turn)
            },
            ..CORRECT
        },
    ),
    orders(
        "slow-head-overtaken-by-newcomers",
        "a free name that its next waiter has not fetched within 5 ms goes to a newer waiter",
        &["FR-10"],
        Rules {
            turn: |entry, turn| {
                let barges = turn.ask == Ask::Queue && lies_about(entry, turn);
                barges || (CORRECT.turn)(entry, turn)
            },
            ..CORRECT
        },
    ),
    orders(
        "slow-head-overtaken-by-waiters",
        "a free name that its next waiter has not fetched within 5 ms goes to any other waiter that asks",
        &["FR-10"],
        Rules {
            turn: |entry, turn| {
                let barges = turn.place.is_some() && lies_about(entry, turn);
                barges || (CORRECT.turn)(entry, turn)
            },
            ..CORRECT
        },
    ),
    orders(
        "last-holder-barges",
        "the client that held the name last takes it again before those who wait",
        &["FR-04"],
        Rules {
            turn: |entry, turn| {
                let last = entry.past.last.is_some_and(|(client, _)| client == turn.client);
                last || (CORRECT.turn)(entry, turn)
            },
            ..CORRECT
        },
    ),
];

const ORDER: &[Flaw] = &[
    orders(
        "queue-in-lexical-order",
        "places are sorted as text: 10 comes before 9",
        &["FR-01"],
        Rules { next: |entry| least(entry, |at| entry.queue[at].number.to_string()), ..CORRECT },
    ),
    orders(
        "queue-by-deadline",
        "places are sorted by their deadlines: a short ttl comes first",
        &["FR-11"],
        Rules { next: |entry| least(entry, |at| entry.queue[at].expires), ..CORRECT },
    ),
    orders(
        "own-waiters-first",
        "the waiters of the client that held the name last come first",
        &["FR-01"],
        Rules {
            next: |entry| of_last_client(entry, true).or_else(|| (CORRECT.next)(entry)),
            ..CORRECT
        },
    ),
    orders(
        "clients-take-turns",
        "the waiters of the client that held the name last come after all others",
        &["AT-18"],
        Rules {
            next: |entry| of_last_client(entry, false).or_else(|| (CORRECT.next)(entry)),
            ..CORRECT
        },
    ),
    orders(
        "keep-alive-goes-to-the-tail",
        "a waiter that keeps its place alive comes after all others from then on",
        &["FR-11"],
        Rules {
            keeps_place: |queue, place, ask| {
                if ask == Ask::Again {
                    queue[place..].rotate_left(1);
                }
                Some(if ask == Ask::Again { queue.len() - 1 } else { place })
            },
            ..CORRECT
        },
    ),
    orders(
        "leaving-swaps-places",
        "the last waiter takes the place of one that leaves",
        &["FR-05"],
        Rules { leaves: |queue, place| drop(queue.swap_remove(place)), ..CORRECT },
    ),
    orders(
        "restart-turns-the-queue",
        "a restart reads the queue back in the opposite order",
        &[],
        Rules { restarts: |entry| entry.queue.reverse(), ..CORRECT },
    ),
];

/// The place with the least key.
fn least<K: Ord>(entry: &Entry, key: impl Fn(usize) -> K) -> Option<usize> {
    (0..entry.queue.len()).min_by_key(|at| key(*at))
}

/// The first place that is of the client that held the name last, or is not.
fn of_last_client(entry: &Entry, of_it: bool) -> Option<usize> {
    let (client, _) = entry.past.last?;
    entry.queue.iter().position(|place| (place.client == client) == of_it)
}

const PLACES: &[Flaw] = &[
    Flaw::rule(
        "replay-queues-twice",
        "a replay of a waiter's request has a second place in the queue",
        &["C2-01"],
        Rules { keeps_place: |_, place, ask| (ask == Ask::Again).then_some(place), ..CORRECT },
    )
    .breaks("C2"),
    Flaw::rule(
        "replay-goes-to-the-tail",
        "a replay of a waiter's request comes after all others",
        &["C2-01"],
        Rules {
            keeps_place: |queue, place, ask| {
                if ask == Ask::Queue {
                    queue[place..].rotate_left(1);
                }
                Some(if ask == Ask::Queue { queue.len() - 1 } else { place })
            },
            ..CORRECT
        },
    )
    .breaks("C2"),
    Flaw::rule(
        "queue-of-sixty-four",
        "the queue takes sixty-four waiters, and the next is told that its place is gone",
        &["C8-05"],
        Rules { queue_takes: 64, ..CORRECT },
    )
    .breaks("C8"),
    orders(
        "place-of-ten-minutes",
        "a waiter loses its place after ten minutes, and comes after all others",
        &["C8-03"],
        Rules { place_kept_for: Duration::from_secs(600), ..CORRECT },
    ),
    Flaw::rule(
        "waiters-ask-by-themselves",
        "a waiter is told of nothing and asks every 60 ms, although a word is declared",
        &["PF-02", "C8-04"],
        Rules { polled_every: Some(Duration::from_millis(60)), ..CORRECT },
    )
    .breaks("C8"),
    Flaw::rule(
        "revocation-wakes-no-waiter",
        "the next waiter is not told of a revocation, and finds out when it asks again",
        &["C8-04"],
        Rules { wakes: |entry| entry.freed_by() != Some(Ended::Revoked), ..CORRECT },
    )
    .breaks("C8"),
    Flaw::rule(
        "withdrawal-wakes-no-waiter",
        "the next waiter is not told that a grant was withdrawn, and finds out when it asks again",
        &["C8-04"],
        Rules { wakes: |entry| entry.freed_by() != Some(Ended::Withdrawn), ..CORRECT },
    )
    .breaks("C8"),
    Flaw::rule(
        "removal-wakes-no-waiter",
        "the next waiter is not told that an entry was removed by hand",
        &[],
        Rules { wakes: |entry| entry.freed_by() != Some(Ended::Removed), ..CORRECT },
    )
    .breaks("C8"),
];
