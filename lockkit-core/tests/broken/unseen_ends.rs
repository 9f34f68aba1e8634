//! Mistakes of a store in which grants and requests a call ends or touches (C6, C7, C9), and in what
//! a late copy finds.

use std::time::Duration;

use super::entry::{Ended, Entry, Held, What};
use super::flaw::Flaw;
use super::rule_flaws::FOR_EVER;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;

const fn ends(
    name: &'static str,
    mistake: &'static str,
    caught_by: &'static [&'static str],
    rules: Rules,
) -> Flaw {
    Flaw::rule(name, mistake, caught_by, rules).breaks("C6")
}

pub(crate) fn unseen_ends() -> Vec<Flaw> {
    [OF_A_CLIENT, OF_A_QUEUE, OF_THE_PAST].concat()
}

const OF_A_CLIENT: &[Flaw] = &[
    ends(
        "release-by-client",
        "a release ends the client's grant of the name, whichever request it was for",
        &["C6-04"],
        Rules { releases: |held, caller| held.client == caller.client, ..CORRECT },
    ),
    ends(
        "renewal-by-client",
        "a renewal extends the client's grant of the name, whichever request it was for",
        &["C6-04"],
        Rules { renews: |held, caller| held.client == caller.client, ..CORRECT },
    ),
    ends(
        "withdrawal-by-client",
        "a withdrawal ends the client's grant of the name, whichever request it was for",
        &["PF-03"],
        Rules { withdraws: |held, client, _| held.client == client, ..CORRECT },
    ),
    ends(
        "withdrawal-of-all-waits",
        "a withdrawal removes every place that the client has in the name's queue",
        &["LV-12"],
        Rules { withdraws_place: |place, client, _| place.client == client, ..CORRECT },
    ),
    ends(
        "withdrawal-of-all-names",
        "a withdrawal removes the client from the queues of all names",
        &["C6-04"],
        Rules {
            elsewhere: Some(|entry, done| {
                if done.what == What::Withdrew {
                    entry.queue.retain(|place| place.client != done.client);
                }
            }),
            ..CORRECT
        },
    ),
    ends(
        "release-ends-waits",
        "a release removes its client from the queues of the other names",
        &["C16-06"],
        Rules {
            elsewhere: Some(|entry, done| {
                if done.what == What::Ended(Ended::Released) {
                    entry.queue.retain(|place| place.client != done.client);
                }
            }),
            ..CORRECT
        },
    ),
    ends(
        "grant-ends-waits",
        "a grant removes the other places that its client has in the queue",
        &["LV-12"],
        Rules {
            at_grant: |entry| {
                let client = entry.held.last().map(|held| held.client);
                entry.queue.retain(|place| Some(place.client) != client);
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "loss-told-to-all-names",
        "the loss of one name is told to every lease of its client",
        &["C6-05"],
        Rules {
            elsewhere: Some(|entry, done| {
                let lost = match done.what {
                    What::Ended(Ended::Released) => None,
                    What::Ended(ended) => Some(ended),
                    _ => None,
                };
                let Some(ended) = lost else { return };
                let meant = entry.held.iter().filter(|held| held.client == done.client);
                meant.for_each(|held| held.tell(ended));
            }),
            ..CORRECT
        },
    )
    .breaks("C7"),
];

const OF_A_QUEUE: &[Flaw] = &[
    ends(
        "revocation-of-all-names",
        "a revocation ends each grant with that token, whatever its name",
        &["C6-05"],
        Rules {
            elsewhere: Some(|entry, done| {
                let revokes = done.what == What::Revokes;
                let meant = |held: &&mut Held| revokes && Some(held.token) == done.token;
                entry.held.iter_mut().filter(meant).for_each(|held| held.expires = done.now);
            }),
            ..CORRECT
        },
    ),
    ends(
        "revocation-clears-queue",
        "a revocation removes the waiters of the name",
        &["C8-04"],
        Rules { at_end: |entry, ended| clear(entry, ended == Ended::Revoked), ..CORRECT },
    ),
    ends(
        "expiry-clears-queue",
        "the expiry of a grant removes the waiters of the name",
        &["SF-02"],
        Rules { at_end: |entry, ended| clear(entry, ended == Ended::Expired), ..CORRECT },
    ),
    ends(
        "removal-clears-queue",
        "the waiters of a name go when its entry is removed by hand",
        &[],
        Rules { at_end: |entry, ended| clear(entry, ended == Ended::Removed), ..CORRECT },
    ),
    ends(
        "renewal-undoes-revocation",
        "a renewal brings back a grant that an operator has revoked",
        &["C6-05"],
        Rules { renewal_creates: |entry| entry.freed_by() == Some(Ended::Revoked), ..CORRECT },
    ),
];

fn clear(entry: &mut Entry, clears: bool) {
    if clears {
        entry.queue.clear();
    }
}

const OF_THE_PAST: &[Flaw] = &[
    ends(
        "replay-from-a-cache",
        "a replay is given the answer that it had, also when its grant has expired since",
        &["C6-04"],
        Rules { replayed: |entry, id| entry.past.granted.get(&id).copied(), ..CORRECT },
    ),
    ends(
        "replay-from-a-cache-while-free",
        "a replay is given the answer that it had, when its grant has expired and no request holds",
        &["C6-04"],
        Rules {
            replayed: |entry, id| {
                let free = entry.held.is_empty() && entry.queue.is_empty();
                entry.past.granted.get(&id).copied().filter(|_| free)
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "tombstones-of-a-second",
        "an end is forgotten after a second, and a copy that comes later is granted",
        &["AT-07-old"],
        Rules {
            recalls: |over, now, _| now.saturating_since(over.at) < Duration::from_secs(1),
            ..CORRECT
        },
    )
    .breaks("C9"),
    Flaw::rule(
        "tombstones-of-sixteen",
        "the last sixteen ends of a name are remembered, and a copy from before them is granted",
        &["AT-07-old"],
        Rules { recalls: |over, _, ends| ends - over.number <= 16, ..CORRECT },
    )
    .breaks("C9"),
    Flaw::rule(
        "restart-forgets-ends",
        "a restart forgets which requests are over, and a copy that comes later is granted",
        &[],
        Rules { restarts: |entry| entry.over.clear(), ..CORRECT },
    )
    .breaks("C9"),
    Flaw::rule(
        "restart-forgets-ttls",
        "a restart keeps who holds, and not until when",
        &["LV-10"],
        Rules {
            restarts: |entry| {
                for held in &mut entry.held {
                    held.expires = held.expires.saturating_add(FOR_EVER);
                }
            },
            ..CORRECT
        },
    )
    .breaks("C11"),
];
