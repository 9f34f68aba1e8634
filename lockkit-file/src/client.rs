//! The client: what all calls of a provider share. Each request has a slot, and each name that requests
//! of this process wait for a queue.
//!
//! Nothing of a request is ever on its way: a call on the kernel has ended when it returns. So a request
//! that is withdrawn is forgotten at once, and these slots are simpler than the kit's records.

use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use lockkit_core::{Error, FencingToken, Kind, LockName, LossReason, Request, RequestId, Result};
use tokio::runtime::Handle;

use crate::events::Events;
use crate::files::LockFiles;
use crate::slot::{Slot, Standing};
use crate::{machine, network};

/// The clients that live in this process.
static ALL: Mutex<Vec<Weak<Client>>> = Mutex::new(Vec::new());

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) directory: Arc<Path>,
    pub(crate) token_base: u64,
    /// What names this run of the machine, where the directory's file system loses nothing as long as it lasts.
    pub(crate) boot: Option<&'static str>,
    pub(crate) events: Events,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    slots: HashMap<RequestId, Users>,
    queues: HashMap<LockName, VecDeque<(RequestId, Kind)>>,
    closed: bool,
}

#[derive(Debug)]
struct Users {
    slot: Arc<Slot>,
    /// The attempts and leases of this request: with the last one it ends.
    count: usize,
}

impl Client {
    pub(crate) fn new(directory: Arc<Path>, token_base: u64) -> Arc<Self> {
        let (events, state) = (Events::new(), Mutex::default());
        let boot = if network::may_forget(&directory) { None } else { machine::boot() };
        let client = Arc::new(Self { directory, token_base, boot, events, state });
        let mut all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|known| known.strong_count() > 0);
        all.push(Arc::downgrade(&client));
        client
    }

    /// The clients of this process that have the same directory, this one too.
    pub(crate) fn neighbours(&self) -> Vec<Arc<Self>> {
        let all = ALL.lock().unwrap_or_else(PoisonError::into_inner);
        let clients = all.iter().filter_map(Weak::upgrade);
        clients.filter(|client| client.directory == self.directory).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more attempt of the request; a replay shares the slot of the others. One that waits stands in its name's
    /// queue; any other finds whether it may ask.
    pub(crate) fn enter(self: &Arc<Self>, request: &Request, waits: bool) -> Result<Entry> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let mut state = self.state();
        if state.closed {
            return Err(Error::Closed);
        }
        let entry = state.slots.entry(request.id()).or_insert_with(|| Users {
            slot: Arc::new(Slot::new(request.name().clone(), request.id())),
            count: 0,
        });
        entry.count += 1;
        let slot = Arc::clone(&entry.slot);
        if waits {
            state.line_up(&slot, request.kind());
        }
        let before = state.queues.get(request.name()).into_iter().flatten();
        let is_next = request.kind().admits(before.map(|(_, kind)| *kind));
        Ok(Entry { client: Arc::clone(self), slot, is_next })
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
    /// Puts the request at the end of its name's queue, unless it stands there.
    fn line_up(&mut self, slot: &Slot, kind: Kind) {
        let queue = self.queues.entry(slot.name.clone()).or_default();
        if queue.iter().all(|(id, _)| *id != slot.id) {
            queue.push_back((slot.id, kind));
        }
        self.tell_first(&slot.name);
    }

    /// Takes the request out of its queue; those that are first now are told, whatever the reason.
    fn leave_queue(&mut self, slot: &Slot) {
        let Some(queue) = self.queues.get_mut(&slot.name) else { return };
        queue.retain(|(id, _)| *id != slot.id);
        if queue.is_empty() {
            self.queues.remove(&slot.name);
        }
        self.tell_first(&slot.name);
    }

    /// Tells the requests that may ask the kernel, given the requests before them in this process.
    fn tell_first(&self, name: &LockName) {
        let Some(queue) = self.queues.get(name) else { return };
        for (n, (id, kind)) in queue.iter().enumerate() {
            if !kind.admits(queue.iter().take(n).map(|(_, kind)| *kind)) {
                return;
            }
            if let Some(entry) = self.slots.get(id) {
                entry.slot.comes_first();
            }
        }
    }
}

/// One attempt or lease of a request; when the last one is dropped, nothing is left of it.
#[derive(Debug)]
pub(crate) struct Entry {
    client: Arc<Client>,
    slot: Arc<Slot>,
    /// Whether no request of this process waited for the name when this one came.
    is_next: bool,
}

impl Entry {
    pub(crate) const fn slot(&self) -> &Arc<Slot> {
        &self.slot
    }

    pub(crate) const fn is_next(&self) -> bool {
        self.is_next
    }

    pub(crate) fn files(&self) -> LockFiles {
        LockFiles::of(&self.client.directory, &self.slot.name)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.client
    }

    /// Takes the request out of its queue. A replay may have queued up while the grant was made.
    pub(crate) fn leave_queue(&self) {
        self.client.state().leave_queue(&self.slot);
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut state = self.client.state();
        // After a withdrawal the id may stand for a new slot, or for none.
        match state.slots.get_mut(&self.slot.id) {
            Some(entry) if Arc::ptr_eq(&entry.slot, &self.slot) => {
                entry.count -= 1;
                if entry.count > 0 {
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
