//! The rules of the small store, one decision each. A broken store has one rule changed.

use std::fmt;
use std::time::Duration;

use lockkit_core::{FencingToken, LossReason, RequestId};

use super::store::{Ask, Entry, Held, Place};

#[derive(Clone, Copy)]
pub(crate) struct Rules {
    /// How the store writes a name down; two names that differ are written differently.
    pub(crate) stored_as: fn(&str) -> String,
    /// The token after this one.
    pub(crate) next_token: fn(u64) -> u64,
    /// Whether the end of a grant for this reason wipes out the name's last token.
    pub(crate) forgets: fn(LossReason) -> bool,
    /// How long the store keeps a fresh grant of this ttl that it does not hear of.
    pub(crate) granted_for: fn(Duration) -> Duration,
    /// How long it does after a renewal.
    pub(crate) renewed_for: fn(Duration) -> Duration,
    /// The token after a renewal.
    pub(crate) renewed_token: fn(FencingToken) -> FencingToken,
    /// How long the store keeps a place in the queue that it does not hear of.
    pub(crate) place_lasts: fn(Duration) -> Duration,
    /// Whether the name can be granted.
    pub(crate) free: fn(&Entry) -> bool,
    /// Whether a free name goes to the request that stands here in the queue, if it stands there.
    pub(crate) turn: fn(&[Place], Option<usize>, Ask) -> bool,
    /// Whether this request, of the client with this number, has this grant already.
    pub(crate) replays: fn(&Held, u64, RequestId) -> bool,
    /// Whether a grant ends the place that its request had in the queue.
    pub(crate) grant_ends_place: bool,
    /// Whether a request that does not wait gets a place in the queue.
    pub(crate) refusal_queues: bool,
    /// Whether a renewal by this request, of this token, is for this grant.
    pub(crate) renews: fn(&Held, RequestId, FencingToken) -> bool,
    /// Whether a renewal brings back a grant that has ended.
    pub(crate) renewal_creates: bool,
    /// Whether a release by this request, of this token, ends this grant.
    pub(crate) releases: fn(&Held, RequestId, FencingToken) -> bool,
    /// Whether a withdrawal of this request ends this grant.
    pub(crate) withdraws: fn(&Held, RequestId) -> bool,
    /// Whether a withdrawal of this request removes this place.
    pub(crate) withdraws_place: fn(&Place, RequestId) -> bool,
    /// Whether a revocation of this token ends this grant.
    pub(crate) revokes: fn(&Held, FencingToken) -> bool,
    /// Whether a request that has ended in this way is remembered, so that a late copy of it is not
    /// taken for a new one: removed by its withdrawal, or released.
    pub(crate) remembers: fn(LossReason) -> bool,
    /// Wakes those who may take a name that has become free.
    pub(crate) wakes: fn(&[Place]),
    /// What a restart of the server does to what it keeps of a name.
    pub(crate) restarts: fn(&mut Entry),
}

impl Rules {
    /// The rules of a store that keeps the contract.
    pub(crate) const CORRECT: Self = Self {
        stored_as: str::to_owned,
        next_token: |last| last + 1,
        forgets: |_| false,
        granted_for: |ttl| ttl,
        renewed_for: |ttl| ttl,
        renewed_token: |token| token,
        place_lasts: |ttl| ttl,
        free: |entry| entry.held.is_none(),
        turn: |queue, place, _| queue.is_empty() || place == Some(0),
        replays: |held, _, id| held.id == id,
        grant_ends_place: true,
        refusal_queues: false,
        renews: |held, id, token| held.id == id && held.token == token,
        renewal_creates: false,
        releases: |held, id, token| held.id == id && held.token == token,
        withdraws: |held, id| held.id == id,
        withdraws_place: |place, id| place.id == id,
        revokes: |held, token| held.token == token,
        remembers: |_| true,
        wakes: |queue| queue.iter().take(1).for_each(Place::wake),
        restarts: |_| {},
    };
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rules")
    }
}
