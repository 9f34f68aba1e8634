//! A semaphore of a run.
//!
//! Each slot is a resource of its own. In the history a permit is an exclusive grant of its slot: no two hold one slot
//! at once, and its tokens grow.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::resource::Resource;
use super::world::World;
use crate::{FencingToken, Guard, Kind, LockName, LockProvider, Permits, Result};

/// The greatest limit that an operator sets.
const MOST: u32 = 4;

/// A semaphore that all workers of a run take permits of.
#[derive(Debug)]
pub(super) struct SimulatedSemaphore {
    pub(super) name: LockName,
    /// The limit that programs say, and the greatest that there ever is.
    pub(super) wished: u32,
    most: u32,
    slots: Vec<(LockName, Arc<Resource>)>,
    store: Arc<dyn LockProvider>,
    tokens: Mutex<HashSet<FencingToken>>,
}

impl SimulatedSemaphore {
    /// `None`: the store has no semaphores.
    pub(super) fn new(world: &World, store: &Arc<dyn LockProvider>) -> Option<Self> {
        if !store.guarantees().kinds.contains(&Kind::Counted) {
            return None;
        }
        let (wished, is_resized) = world.draw(|random| (1 + random.below(3), random.often(500)));
        let most = if is_resized { MOST } else { wished };
        let slot = |slot| LockName::new(format!("slot {slot}")).map(|name| (name, Arc::default()));
        Some(Self {
            name: LockName::semaphore("pool").ok()?,
            wished,
            most,
            slots: (0..most).map(slot).collect::<Result<_>>().ok()?,
            store: Arc::clone(store),
            tokens: Mutex::default(),
        })
    }

    /// An operator sets another limit, where the run has limits that change.
    pub(super) async fn resize(&self, world: &World) {
        if self.most == self.wished || !world.draw(|random| random.often(100)) {
            return;
        }
        let limit = world.draw(|random| 1 + random.below(MOST));
        let permits = Permits::new(limit);
        if let (Some(operator), Ok(permits)) = (self.store.operator(), permits) {
            world.fault("semaphore resized");
            drop(operator.resize(&self.name, permits).await);
        }
    }

    /// The slot of a grant, which has its token alone.
    pub(super) fn slot(&self, world: &World, guard: &Guard) -> Option<&(LockName, Arc<Resource>)> {
        let (token, slot) = (guard.token(), guard.slot());
        if !self.tokens.lock().unwrap_or_else(PoisonError::into_inner).insert(token) {
            world.wrong(&format!("two permits have the token {token}"));
        }
        let known = slot.and_then(|slot| self.slots.get(usize::try_from(slot).ok()?));
        if known.is_none() {
            world.wrong(&format!("a permit of {} has the slot {slot:?}", self.most));
        }
        known
    }
}
