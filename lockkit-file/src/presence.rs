//! The requests of one provider: their slots, their queues, and what is left when they go.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockkit_core::{
    Error, FencingToken, Grant, Instant, LockName, LossReason, Request, RequestId, Result, Term,
};
use tokio::runtime::Handle;

use crate::events::Events;
use crate::files::Place;
use crate::lease::FileLease;
use crate::protocol::Held;
use crate::provider::ended;
use crate::slot::{Slot, Standing};

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) directory: Arc<Path>,
    token_base: u64,
    pub(crate) events: Events,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<RequestId, Entry>,
    queues: HashMap<LockName, VecDeque<RequestId>>,
    closed: bool,
}

#[derive(Debug)]
struct Entry {
    slot: Arc<Slot>,
    /// The attempts and leases of this request: with the last one it ends.
    users: usize,
}

impl Inner {
    pub(crate) fn new(directory: Arc<Path>, token_base: u64) -> Self {
        Self { directory, token_base, events: Events::new(), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more attempt of the request; a replay shares the slot of the others.
    pub(crate) fn enter(self: &Arc<Self>, request: &Request) -> Result<Presence> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        let entry = state.slots.entry(request.id()).or_insert_with(|| Entry {
            slot: Arc::new(Slot::new(request.name().clone(), request.id())),
            users: 0,
        });
        entry.users += 1;
        Ok(Presence { inner: Arc::clone(self), slot: Arc::clone(&entry.slot) })
    }

    /// Puts the request at the end of its name's queue, unless it has a place; whether it is first.
    pub(crate) fn line_up(&self, slot: &Slot) -> bool {
        let mut state = self.state();
        if state.slots.get(&slot.id).is_none_or(|entry| !std::ptr::eq(&*entry.slot, slot)) {
            return false;
        }
        let queue = state.queues.entry(slot.name.clone()).or_default();
        if !queue.contains(&slot.id) {
            queue.push_back(slot.id);
        }
        queue.front() == Some(&slot.id)
    }

    pub(crate) fn is_waited_for(&self, name: &LockName) -> bool {
        self.state().queues.contains_key(name)
    }

    pub(crate) fn forget(&self, id: RequestId) -> Option<Arc<Slot>> {
        let mut state = self.state();
        let slot = state.slots.remove(&id)?.slot;
        state.leave_queue(&slot);
        Some(slot)
    }

    /// Refuses what comes from now on, and ends what there is.
    pub(crate) fn close(&self) {
        let slots: Vec<_> = {
            let mut state = self.state();
            state.closed = true;
            state.queues.clear();
            state.slots.drain().map(|(_, entry)| entry.slot).collect()
        };
        for slot in slots {
            slot.end(LossReason::Closed);
        }
    }

    /// The slot of the grant of `name` with this token, if it is one of this provider's.
    pub(crate) fn holding(&self, name: &LockName, token: FencingToken) -> Option<Arc<Slot>> {
        let held = |slot: &Slot| slot.name == *name && slot.standing() == Standing::Granted(token);
        self.state().slots.values().map(|entry| &entry.slot).find(|slot| held(slot)).cloned()
    }
}

impl State {
    /// Takes the request out of its queue; a new head is told, whoever leaves for what reason.
    fn leave_queue(&mut self, slot: &Slot) {
        let Some(queue) = self.queues.get_mut(&slot.name) else { return };
        let was_first = queue.front() == Some(&slot.id);
        queue.retain(|id| *id != slot.id);
        match queue.front().copied() {
            None => drop(self.queues.remove(&slot.name)),
            Some(head) if was_first => {
                if let Some(entry) = self.slots.get(&head) {
                    entry.slot.changed.notify_waiters();
                }
            }
            Some(_) => {}
        }
    }
}

/// One attempt or lease of a request; when the last one is dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Presence {
    inner: Arc<Inner>,
    slot: Arc<Slot>,
}

impl Presence {
    pub(crate) const fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    pub(crate) fn place(&self) -> Place {
        Place::of(&self.inner.directory, &self.slot.name)
    }

    pub(crate) fn events(&self) -> &Events {
        &self.inner.events
    }

    /// Writes the next token, has it synced, and only then grants.
    ///
    /// Only the sync runs on a thread that may block. Dropped meanwhile, this frees the name at
    /// once: the files are unlocked although that thread still has them open.
    pub(crate) async fn sync(
        self,
        mut held: Held,
        request: &Request,
        sent: Instant,
    ) -> Result<Grant> {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let slot = Arc::clone(&self.slot);
        let (token, sync) = held.write(&slot.name, self.inner.token_base, request.label())?;
        let Some(granting) = slot.granting(held) else { return Err(ended(LossReason::Removed)) };
        match runtime.spawn_blocking(move || sync.run()).await {
            Ok(synced) => synced?,
            Err(_) => {
                // The runtime is ending: a caller that asks again at once must not keep it busy.
                tokio::task::yield_now().await;
                return Err(Error::NoRuntime);
            }
        }
        if !granting.granted(token) {
            return Err(ended(LossReason::Removed));
        }
        Ok(self.grant(token, request, Some(sent)))
    }

    pub(crate) fn grant(
        self,
        token: FencingToken,
        request: &Request,
        sent: Option<Instant>,
    ) -> Grant {
        // Also for a replay, which may have queued up while the grant was made.
        self.inner.state().leave_queue(&self.slot);
        let clock = request.clock().clone();
        let term = Term { sent: sent.unwrap_or_else(|| clock.now()), ttl: None };
        Grant::new(token, term, FileLease::new(self, clock))
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        // After a withdrawal the id may stand for a new slot, or for none.
        match state.slots.get_mut(&self.slot.id) {
            Some(entry) if Arc::ptr_eq(&entry.slot, &self.slot) => {
                entry.users -= 1;
                if entry.users > 0 {
                    return;
                }
                state.slots.remove(&self.slot.id);
                state.leave_queue(&self.slot);
            }
            Some(_) => return,
            None => {}
        }
        drop(state);
        self.slot.end(LossReason::Released);
    }
}
