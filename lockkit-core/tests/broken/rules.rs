//! The rules of the small store, one decision each. A broken store has one rule changed.

use std::fmt;
use std::time::Duration;

use lockkit_core::{
    Family, FencingToken, Inspection, Instant, Kind, LockName, Permits, Request, RequestId, Result,
};

use super::entry::{Ask, Begins, Caller, Done, Ended, Entry, Held, Over, Past, Place, Turn};

#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// How the store writes a name down; two names that differ are written differently.
    pub(crate) stored_as: fn(&str) -> String,
    /// Under which family the store writes down a name of this one.
    pub(crate) family: fn(Family) -> Family,
    /// Notes the limit that a counted request says, where none is noted.
    pub(crate) notes_limit: fn(&mut Entry, Permits),
    /// Whether this limit is right for the request.
    pub(crate) checks_limit: fn(&Request, u32) -> Result<()>,
    /// The slot of the next counted grant.
    pub(crate) slot: fn(&Entry) -> u32,
    /// Changes the limit; whether waiters are told.
    pub(crate) resizes: fn(&mut Entry, u32) -> bool,
    /// What it keeps of a holder's label.
    pub(crate) label: fn(&Entry, &str) -> String,
    /// The token of the next grant, to this request.
    pub(crate) next_token: fn(&Entry, RequestId, Instant) -> u64,
    /// The token for a request with this floor, where the next one is known.
    pub(crate) with_floor: fn(u64, Option<FencingToken>) -> u64,
    /// Raises the grant that is meant, if it is live, and says whether it carries the token then.
    pub(crate) raises: fn(&mut Entry, &Caller, FencingToken) -> Option<bool>,
    /// The token after a renewal.
    pub(crate) renewed_token: fn(FencingToken) -> FencingToken,
    /// What else happens to the name when a grant begins, when one has ended like this, when an
    /// attempt is refused, and after a withdrawal.
    pub(crate) at_grant: fn(&mut Entry),
    pub(crate) at_end: fn(&mut Entry, Ended),
    pub(crate) at_refusal: fn(&mut Entry),
    pub(crate) at_withdrawal: fn(&mut Entry),
    /// What happens to a name that no request has held, waited for or asked for since so long.
    pub(crate) at_idleness: fn(&mut Entry, Duration),
    /// What it means for each other name that this was done to one; `None`: nothing.
    pub(crate) elsewhere: Option<fn(&mut Entry, &Done)>,
    /// Until when the store keeps a fresh grant that it does not hear of.
    pub(crate) granted_until: fn(&Entry, &Begins) -> Instant,
    /// Until when it does after a renewal.
    pub(crate) renewed_until: fn(&Held, &Past, &Begins) -> Instant,
    /// How long the store keeps a place in the queue that it does not hear of.
    pub(crate) place_lasts: fn(Duration) -> Duration,
    /// For how long a place in the queue can be kept at all.
    pub(crate) place_kept_for: Duration,
    /// Where a place of the queue stands once its request has asked again; `None`: it stands there,
    /// and the request has a second one.
    pub(crate) keeps_place: fn(&mut Vec<Place>, usize, Ask) -> Option<usize>,
    /// How many the queue takes.
    pub(crate) queue_takes: usize,
    /// Whether those who hold leave the name to a request of this kind.
    pub(crate) free: fn(&Entry, Kind) -> bool,
    /// Which place of the queue is next.
    pub(crate) next: fn(&Entry) -> Option<usize>,
    /// Whether a free name goes to the request that asks.
    pub(crate) turn: fn(&Entry, &Turn) -> bool,
    /// Whether this request, of the client with this number, has this grant already.
    pub(crate) replays: fn(&Held, u64, RequestId) -> bool,
    /// Whether a replay of the holder's request begins its ttl again.
    pub(crate) replay_extends: bool,
    /// The token of a request that has none of the grants there are.
    pub(crate) replayed: fn(&Entry, RequestId) -> Option<FencingToken>,
    /// Whether a grant ends the place that its request had in the queue.
    pub(crate) grant_ends_place: bool,
    /// Whether a request that does not wait gets a place in the queue.
    pub(crate) refusal_queues: bool,
    /// Whether a renewal by this caller is for this grant.
    pub(crate) renews: fn(&Held, &Caller) -> bool,
    /// Whether a renewal brings back a grant that has ended.
    pub(crate) renewal_creates: fn(&Entry) -> bool,
    /// Whether a release by this caller ends this grant.
    pub(crate) releases: fn(&Held, &Caller) -> bool,
    /// Whether a release with a rest by this caller is for this grant.
    pub(crate) rests: fn(&Held, &Caller) -> bool,
    /// Until when such a grant lasts; whether it was asked for again.
    pub(crate) rests_until: fn(&Held, Instant, bool) -> Instant,
    /// Whether it is over for its request then.
    pub(crate) rest_ends_request: bool,
    /// Whether it brings back a grant that has ended.
    pub(crate) rest_creates: bool,
    /// Whether the next in the queue is told by when the name is free.
    pub(crate) rest_wakes: bool,
    /// Whether a withdrawal by this client, of this request, ends this grant.
    pub(crate) withdraws: fn(&Held, u64, RequestId) -> bool,
    /// Whether it removes this place.
    pub(crate) withdraws_place: fn(&Place, u64, RequestId) -> bool,
    /// Takes a place out of the queue.
    pub(crate) leaves: fn(&mut Vec<Place>, usize),
    /// Whether a revocation of this token ends this grant.
    pub(crate) revokes: fn(&Held, FencingToken) -> bool,
    /// Whether a request that has ended in this way is remembered, so that a late copy of it is not
    /// taken for a new one.
    pub(crate) remembers: fn(Ended) -> bool,
    /// Whether it still is, at this instant, after so many ends.
    pub(crate) recalls: fn(&Over, Instant, usize) -> bool,
    /// Whether the next in the queue is told that the name is free.
    pub(crate) wakes: fn(&Entry) -> bool,
    /// Whether what has expired goes before an operator sees a name, or a list of them.
    pub(crate) inspection_expires: bool,
    pub(crate) list_expires: bool,
    /// What an operator sees of a name.
    pub(crate) inspects: fn(&mut Entry, Instant) -> Inspection,
    /// What an operator's list shows of all names, which are in order.
    pub(crate) page: fn(Vec<Inspection>, &str, Option<&LockName>, usize) -> Vec<Inspection>,
    /// Where waiters are told of nothing: how often each asks again.
    pub(crate) polled_every: Option<Duration>,
    /// What a restart of the server does to what it keeps of a name.
    pub(crate) restarts: fn(&mut Entry),
}

impl Rules {
    /// The rules of a store that keeps the contract.
    pub(crate) const CORRECT: Self = Self {
        stored_as: str::to_owned,
        family: |family| family,
        notes_limit: |entry, permits| {
            if entry.limit == 0 {
                entry.limit = permits.wished();
            }
        },
        checks_limit: Request::check_permits,
        slot: Entry::free_slot,
        resizes: |entry, limit| {
            entry.limit = limit;
            true
        },
        label: |_, label| label.to_owned(),
        next_token: |entry, _, _| entry.last_token + 1,
        with_floor: |next, floor| next.max(floor.map_or(0, FencingToken::as_u64)),
        raises: raise,
        renewed_token: |token| token,
        at_grant: |_| {},
        at_end: |_, _| {},
        at_refusal: |_| {},
        at_withdrawal: |_| {},
        at_idleness: |_, _| {},
        elsewhere: None,
        granted_until: |_, begins| begins.for_ttl(begins.ttl),
        renewed_until: |_, _, begins| begins.for_ttl(begins.ttl),
        place_lasts: |ttl| ttl,
        place_kept_for: Duration::MAX,
        keeps_place: |_, place, _| Some(place),
        queue_takes: usize::MAX,
        free: |entry, kind| kind.admits_within(entry.limit, entry.kinds()),
        next: |entry| (!entry.queue.is_empty()).then_some(0),
        turn: |_, turn| turn.next == turn.place,
        replays: |held, _, id| held.id == id,
        replay_extends: true,
        replayed: |_, _| None,
        grant_ends_place: true,
        refusal_queues: false,
        renews: |held, caller| held.id == caller.id && held.token == caller.token,
        renewal_creates: |_| false,
        releases: |held, caller| held.id == caller.id && held.token == caller.token,
        rests: |held, caller| {
            held.token == caller.token && held.rests_for.unwrap_or(held.id) == caller.id
        },
        rests_until: |held, until, again| if again { until.min(held.expires) } else { until },
        rest_ends_request: true,
        rest_creates: false,
        rest_wakes: true,
        withdraws: |held, _, id| held.id == id,
        withdraws_place: |place, _, id| place.id == id,
        leaves: |queue, place| drop(queue.remove(place)),
        revokes: |held, token| held.carries == token,
        remembers: |_| true,
        recalls: |_, _, _| true,
        wakes: |_| true,
        inspection_expires: true,
        list_expires: true,
        inspects: |entry, now| entry.inspect(now),
        page,
        polled_every: None,
        restarts: |_| {},
    };
}

/// Raises a grant that is live and carries no greater token.
pub(crate) fn raise(entry: &mut Entry, caller: &Caller, to: FencingToken) -> Option<bool> {
    let meant = |held: &&mut Held| held.id == caller.id && held.token == caller.token;
    let held = entry.held.iter_mut().find(meant)?;
    let raises = held.carries <= to;
    if raises {
        held.carries = to;
        entry.last_token = entry.last_token.max(to.as_u64());
    }
    Some(raises)
}

/// What is held or waited for, by prefix, from after a name, up to a limit.
fn page(
    names: Vec<Inspection>,
    prefix: &str,
    after: Option<&LockName>,
    limit: usize,
) -> Vec<Inspection> {
    names
        .into_iter()
        .filter(|seen| seen.name.as_str().starts_with(prefix))
        .filter(|seen| after.is_none_or(|after| seen.name > *after))
        .filter(in_use)
        .take(limit)
        .collect()
}

/// Whether a name is held or waited for.
pub(crate) fn in_use(seen: &Inspection) -> bool {
    !seen.holders.is_empty() || seen.waiters != Some(0)
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rules")
    }
}
