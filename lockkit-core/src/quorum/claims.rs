//! Which requests have rounds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::member::Member;
use super::place::Place;
use super::round::{Gone, Party, Round};
use crate::{FencingToken, Request, RequestId, Result};

/// The rounds of each request: at most one that is not over, and those that are not yet clean.
#[derive(Debug, Default)]
pub(super) struct Claims(Mutex<BTreeMap<RequestId, Vec<Arc<Round>>>>);

impl Claims {
    /// The round of this request that is not over, or a new one; `None`: the request waits, and this call does not.
    pub(super) fn join(
        self: &Arc<Self>,
        members: &Arc<[Arc<Member>]>,
        request: &Request,
        floor: FencingToken,
        waits: bool,
    ) -> Result<Option<Party>> {
        let mut claims = self.claims();
        let rounds = claims.entry(request.id()).or_default();
        if let Some(round) = rounds.iter().find(|round| round.look(|state| state.over().is_none()))
        {
            let is_held = round.look(|state| state.token().is_some());
            let joins = is_held || waits || !round.waits;
            return Ok(joins.then(|| round.party()));
        }
        let party = self.begin(members, request, floor, waits)?;
        rounds.push(Arc::clone(&party.0));
        Ok(Some(party))
    }

    /// A new round, which asks all members.
    fn begin(
        self: &Arc<Self>,
        members: &Arc<[Arc<Member>]>,
        request: &Request,
        floor: FencingToken,
        waits: bool,
    ) -> Result<Party> {
        let surroundings = &members[0].surroundings;
        let (runtime, id) = (surroundings.runtime()?, surroundings.id()?);
        let claims = Arc::downgrade(self);
        let gone = move |round: &Round| {
            if let Some(claims) = claims.upgrade() {
                claims.forget(round);
            }
        };
        let party = Round::open(members, request, (id, floor), waits, Gone(Box::new(gone)));
        for number in 0..members.len() {
            runtime.spawn(Place::new(Arc::clone(&party.0), number).sit());
        }
        Ok(party)
    }

    pub(super) fn rounds(&self, id: RequestId) -> Vec<Arc<Round>> {
        self.claims().get(&id).cloned().unwrap_or_default()
    }

    pub(super) fn all(&self) -> Vec<Arc<Round>> {
        self.claims().values().flatten().cloned().collect()
    }

    /// Forgets a round of which nothing is left.
    pub(super) fn forget(&self, round: &Round) {
        let mut claims = self.claims();
        let id = round.request.id();
        if let Some(rounds) = claims.get_mut(&id) {
            rounds.retain(|known| !std::ptr::eq(Arc::as_ptr(known), round));
            if rounds.is_empty() {
                claims.remove(&id);
            }
        }
    }

    fn claims(&self) -> MutexGuard<'_, BTreeMap<RequestId, Vec<Arc<Round>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
