//! Mistakes of a store: each changes one of its rules.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lockkit_core::FencingToken;

use super::entry::{Ask, Ended, Entry};
use super::flaw::Flaw;
use super::rules::Rules;

const CORRECT: Rules = Rules::CORRECT;
/// Grants a request again that has lost its grant, which a store may.
const GRANTS_AGAIN: Rules =
    Rules { remembers: |ended| matches!(ended, Ended::Released | Ended::Withdrawn), ..CORRECT };

/// No store of the suite's cases lives as long.
pub(crate) const FOR_EVER: Duration = Duration::from_secs(365 * 24 * 3600);

pub(crate) const LAST_IN_FIRST_OUT: Rules =
    Rules { next: |entry| entry.queue.len().checked_sub(1), ..CORRECT };

/// Leaves only the newest grant.
pub(crate) fn overwrite(entry: &mut Entry) {
    entry.held.drain(..entry.held.len() - 1);
}

fn forget(entry: &mut Entry, forgets: bool) {
    if forgets {
        entry.last_token = 0;
    }
}

const fn in_seconds(ttl: Duration) -> Duration {
    Duration::from_secs(ttl.as_secs())
}

fn in_16_bits(ttl: Duration) -> Duration {
    Duration::from_millis(u64::try_from(ttl.as_millis() % (1 << 16)).unwrap_or_default())
}

pub(crate) const RULE_FLAWS: &[Flaw] = &[
    Flaw::rule(
        "no-exclusion",
        "a grant overwrites the one before: SET without NX",
        &["AT-01"],
        Rules { free: |_, _| true, at_grant: overwrite, ..CORRECT },
    ),
    Flaw::apart(
        "lock-in-the-client",
        "the lock lives in one client's memory, and excludes nobody else's",
        &["AT-01"],
    ),
    Flaw::rule(
        "reentrant",
        "a second request of one client gets the grant of the first: Go's etcd Mutex",
        &["SF-23"],
        Rules { replays: |held, client, _| held.client == client, ..CORRECT },
    ),
    Flaw::rule(
        "replay-refused",
        "a replay of the holder's own id is told that another holds",
        &["AT-08"],
        Rules { replays: |_, _, _| false, ..CORRECT },
    ),
    // Names.
    Flaw::rule(
        "names-hashed",
        "names are hashed to a few bits, and the hash alone is compared",
        &["SF-25"],
        Rules {
            stored_as: |name| (name.bytes().map(usize::from).sum::<usize>() % 16).to_string(),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "names-sanitised",
        "every character that the store dislikes becomes the same one",
        &["SF-25"],
        Rules {
            stored_as: |name| name.replace(|c: char| !c.is_ascii_alphanumeric(), "_"),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "names-by-prefix",
        "`a` and `a/b` meet: a range or a path takes the one for the other",
        &["SF-25"],
        Rules {
            stored_as: |name| name.split('/').next().unwrap_or_default().to_owned(),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "names-case-folded",
        "upper and lower case meet on a case-blind file system",
        &["SF-25"],
        Rules { stored_as: str::to_lowercase, ..CORRECT },
    ),
    Flaw::rule(
        "names-trimmed",
        "white space around a name is dropped",
        &["SF-25"],
        Rules { stored_as: |name| name.trim().to_owned(), ..CORRECT },
    ),
    Flaw::rule(
        "names-end-at-nul",
        "a name ends at its first NUL byte: C strings",
        &["SF-25"],
        Rules {
            stored_as: |name| name.split('\0').next().unwrap_or_default().to_owned(),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "names-cut-off",
        "a long name is cut off at what the store can take: 255 bytes of a file name",
        &["SF-25"],
        Rules { stored_as: |name| name.chars().take(255).collect(), ..CORRECT },
    ),
    // Tokens.
    Flaw::rule(
        "token-constant",
        "every grant has the same token",
        &["SF-14"],
        Rules { next_token: |_, _, _| 7, ..CORRECT },
    ),
    Flaw::rule(
        "token-random",
        "tokens are unique but in no order: a random value as the fence",
        &["SF-14"],
        Rules {
            next_token: |entry, _, _| {
                entry.last_token.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(99) >> 2
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "token-wall-clock",
        "the token is the time in seconds: two grants of one second share it",
        &["SF-14"],
        Rules {
            next_token: |_, _, _| {
                SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |t| t.as_secs())
            },
            ..CORRECT
        },
    ),
    Flaw::rule(
        "token-resets-on-release",
        "the counter goes with the entry when it is released",
        &["SF-15"],
        Rules { at_end: |entry, ended| forget(entry, ended == Ended::Released), ..CORRECT },
    ),
    Flaw::rule(
        "token-resets-on-expiry",
        "the counter goes with the entry when it expires",
        &["SF-15"],
        Rules { at_end: |entry, ended| forget(entry, ended == Ended::Expired), ..CORRECT },
    ),
    Flaw::rule(
        "token-resets-on-restart",
        "the counter is in the server's memory, and starts again with it",
        &["SF-16"],
        Rules { restarts: |entry| entry.last_token = 0, ..CORRECT },
    ),
    Flaw::rule(
        "token-grows-on-renewal",
        "each renewal changes the token: the holder's own writes become stale",
        &["C4-03"],
        Rules {
            renewed_token: |token| FencingToken::new(token.as_u64() + 1).unwrap_or(token),
            ..CORRECT
        },
    ),
    // Expiry.
    Flaw::rule(
        "no-ttl",
        "an entry without ttl: a holder that crashed holds for ever",
        &["C11-01"],
        Rules {
            granted_until: |_, begins| begins.for_ttl(FOR_EVER),
            renewed_until: |_, _, begins| begins.for_ttl(FOR_EVER),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "expires-early",
        "the store keeps a grant for less than the ttl that it reports",
        &["SF-10", "EL-02"],
        Rules { granted_until: |_, begins| begins.for_ttl(begins.ttl / 2), ..CORRECT },
    ),
    Flaw::rule(
        "expires-late",
        "the store keeps a grant for three ttls",
        &["C11-01"],
        Rules {
            granted_until: |_, begins| begins.for_ttl(begins.ttl * 3),
            renewed_until: |_, _, begins| begins.for_ttl(begins.ttl * 3),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "expires-in-whole-seconds",
        "a ttl is rounded down to whole seconds: EXPIRE instead of PEXPIRE",
        &["SF-10"],
        Rules {
            granted_until: |_, begins| begins.for_ttl(in_seconds(begins.ttl)),
            renewed_until: |_, _, begins| begins.for_ttl(in_seconds(begins.ttl)),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "ttl-overflows",
        "a ttl is kept in 16 bits of milliseconds, and a long one wraps",
        &["C12-01"],
        Rules {
            granted_until: |_, begins| begins.for_ttl(in_16_bits(begins.ttl)),
            renewed_until: |_, _, begins| begins.for_ttl(in_16_bits(begins.ttl)),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "renewal-shortens",
        "a renewal adds less than the ttl that it reports",
        &["C11-01"],
        Rules { renewed_until: |_, _, begins| begins.for_ttl(begins.ttl / 2), ..CORRECT },
    ),
    Flaw::rule(
        "restart-loses-grants",
        "a restart forgets who holds: acknowledged before it was on disk",
        &["LV-09"],
        // Its holder is told by its next renewal, not by the end of a channel.
        Rules { restarts: |entry| std::mem::forget(std::mem::take(&mut entry.held)), ..CORRECT },
    ),
    // The own grant only.
    Flaw::rule(
        "release-unchecked",
        "a release ends whatever grant there is: a plain DEL",
        &["SF-01"],
        Rules { releases: |_, _| true, ..CORRECT },
    ),
    Flaw::rule(
        "release-by-the-request",
        "the release of a grant that has ended ends the one that its request was given since",
        &["C6-07", "C6-08"],
        Rules { releases: |held, caller| held.id == caller.id, ..GRANTS_AGAIN },
    ),
    Flaw::rule(
        "renewal-by-the-request",
        "a renewal of a grant that has ended extends the one that its request was given since",
        &["C6-07", "C6-08"],
        Rules { renews: |held, caller| held.id == caller.id, ..GRANTS_AGAIN },
    ),
    Flaw::rule(
        "renewal-unchecked",
        "a renewal extends whatever grant there is, and says that it is still ours",
        &["SF-04"],
        Rules { renews: |_, _| true, ..CORRECT },
    ),
    Flaw::rule(
        "renewal-creates",
        "a renewal brings back a grant that has ended: SET instead of PEXPIRE",
        &["SF-04"],
        Rules { renewal_creates: |_| true, ..CORRECT },
    ),
    Flaw::rule(
        "revocation-unchecked",
        "a revocation ends whatever grant there is, not the one with its token",
        &["C16-03"],
        Rules { revokes: |_, _| true, ..CORRECT },
    ),
    Flaw::rule(
        "withdrawal-unchecked",
        "a withdrawal ends whatever grant there is",
        &["AT-10"],
        Rules { withdraws: |_, _, _| true, ..CORRECT },
    ),
    // Residue.
    Flaw::rule(
        "withdrawal-leaves-grant",
        "a withdrawal that comes after the grant leaves it behind",
        &["AT-09"],
        Rules { withdraws: |_, _, _| false, ..CORRECT },
    ),
    Flaw::rule(
        "withdrawal-leaves-place",
        "a withdrawal leaves the place in the queue to its own expiry",
        &["AT-10"],
        Rules { withdraws_place: |_, _, _| false, ..CORRECT },
    ),
    Flaw::rule(
        "withdrawal-clears-queue",
        "who leaves the queue takes everybody along",
        &["LV-12"],
        Rules { withdraws_place: |_, _, _| true, ..CORRECT },
    ),
    Flaw::rule(
        "refusal-leaves-place",
        "an attempt that is refused leaves a place in the queue",
        &["C9-03"],
        Rules { refusal_queues: true, ..CORRECT },
    ),
    Flaw::rule(
        "grant-leaves-place",
        "a grant leaves the place that its request had in the queue",
        &["LV-12"],
        Rules { grant_ends_place: false, ..CORRECT },
    ),
    // The queue.
    Flaw::rule(
        "last-in-first-out",
        "the newest waiter is granted first",
        &["FR-01"],
        LAST_IN_FIRST_OUT,
    ),
    Flaw::rule(
        "attempts-barge",
        "an attempt that does not wait overtakes the queue",
        &["FR-02"],
        Rules {
            turn: |entry, turn| turn.ask == Ask::Now || (CORRECT.turn)(entry, turn),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "newcomers-barge",
        "a waiter that has just come overtakes the queue",
        &["FR-04"],
        Rules {
            turn: |entry, turn| turn.ask == Ask::Queue || (CORRECT.turn)(entry, turn),
            ..CORRECT
        },
    ),
    Flaw::rule(
        "dead-waiter-blocks",
        "a waiter that died in the queue keeps its place for ever",
        &["LV-17"],
        Rules { place_lasts: |_| FOR_EVER, ..CORRECT },
    ),
    Flaw::rule(
        "place-expires-early",
        "a place expires before its waiter keeps it alive",
        &["FR-01"],
        Rules { place_lasts: |ttl| ttl / 4, ..CORRECT },
    ),
    Flaw::rule(
        "wake-up-lost",
        "nobody is told that the name is free",
        &["LV-14"],
        Rules { wakes: |_| false, ..CORRECT },
    ),
];
