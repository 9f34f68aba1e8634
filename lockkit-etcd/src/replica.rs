//! A replica of one name's queue, in which all waiters of the provider find their places.
//!
//! ```text
//! closed --a watch of the name is asked for--> asked --it stands--> unread
//! unread --the directory is read, once for all--> in step --puts and deletions--> in step
//! any    --the stream ends--> closed
//! ```
//!
//! A waiter is first when the replica, which holds its key, has nothing before it that does not admit it. No read
//! confirms this. The stream tells changes in the order of their revisions: where the waiter's own key went before
//! the last one of those before it, that was told before. Nothing new can come before a create revision, and a
//! stream that lags only delays. A key that goes later is a hold that ends, as every holder's. What a stream that
//! ended did not tell is unknown: no waiter is first before the directory was read, by a reading that began after
//! the next watch stood.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use etcd_client::{Event, EventType};
use lockkit_core::{Holder, Kind};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use crate::protocol::{Contender, Directory, kinds};

#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) at: Directory,
    state: Mutex<State>,
    /// Of the waiter that reads the directory.
    pub(crate) reading: tokio::sync::Mutex<()>,
    was_used: AtomicBool,
}

#[derive(Debug, Default)]
struct State {
    phase: Phase,
    /// How many streams have ended: a reading counts only if it began on this one.
    stream: u64,
    /// In the order of their create revisions.
    queue: BTreeMap<(i64, Vec<u8>), Contender>,
    created: HashMap<Vec<u8>, i64>,
    /// What was told before the directory was read.
    told: Vec<Change>,
    /// The revision of the reading: it holds what is told of those up to it.
    read: i64,
    /// The newest revision that was read or told.
    known: i64,
    /// Of the waiters of this provider, by the create revisions of their keys.
    places: HashMap<i64, Arc<Notify>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Closed,
    Asked,
    Unread,
    InStep,
}

/// What happened to a key: what contends there now, if anything does.
#[derive(Clone, Debug)]
struct Change {
    key: Vec<u8>,
    now: i64,
    contender: Option<Contender>,
}

/// A waiter's place in a queue.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) replica: Arc<Replica>,
    key: Vec<u8>,
    created: i64,
    changed: Arc<Notify>,
}

/// What is known of a place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing before it keeps it from holding, as of this revision.
    First { known: i64 },
    /// Behind this holder.
    Behind { holder: Holder },
    /// Its key is gone.
    Gone,
    /// The directory is to be read, on the stream with this number.
    Unread { stream: u64 },
    /// It will be told.
    Unknown,
}

impl Replica {
    pub(crate) fn new(at: Directory) -> Self {
        let (state, reading) = (Mutex::default(), tokio::sync::Mutex::default());
        Self { at, state, reading, was_used: AtomicBool::new(true) }
    }

    /// Notes whether there are waiters now; whether there were none since this was last asked.
    pub(crate) fn is_unused(&self, is_used: bool) -> bool {
        !self.was_used.swap(is_used, Ordering::SeqCst) && !is_used
    }

    /// The place of the key that `created` made.
    pub(crate) fn place(self: &Arc<Self>, key: &[u8], created: i64) -> Place {
        self.was_used.store(true, Ordering::SeqCst);
        let changed = Arc::clone(self.state().places.entry(created).or_default());
        Place { replica: Arc::clone(self), key: key.to_vec(), created, changed }
    }

    /// Whether a watch is to be asked for; it then counts as asked for.
    pub(crate) fn asks(&self) -> bool {
        let mut state = self.state();
        let is_closed = state.phase == Phase::Closed;
        if is_closed {
            state.phase = Phase::Asked;
        }
        is_closed
    }

    /// The watch stands: what is read from now on, and what it tells, is all.
    pub(crate) fn stands(&self) {
        let mut state = self.state();
        if state.phase == Phase::Asked {
            state.phase = Phase::Unread;
            state.tell_all();
        }
    }

    /// The stream has ended.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        let (stream, places) = (state.stream + 1, std::mem::take(&mut state.places));
        *state = State { stream, places, ..State::default() };
        state.tell_all();
    }

    /// Takes in what lay below the name at the revision `now`, by a reading that began on this stream.
    pub(crate) fn take_in(&self, stream: u64, queue: Vec<Contender>, now: i64) {
        let mut state = self.state();
        if (state.phase, state.stream) != (Phase::Unread, stream) {
            return;
        }
        (state.phase, state.read, state.known) = (Phase::InStep, now, now);
        queue.into_iter().for_each(|contender| state.insert(contender));
        std::mem::take(&mut state.told).into_iter().for_each(|change| state.change(change));
        state.tell_all();
    }

    /// Takes in what the watch tells.
    pub(crate) fn tell(&self, events: &[Event]) {
        let changes = events.iter().filter_map(|event| {
            let kv = event.kv()?;
            let contender = self.at.contender(kv).filter(|_| event.event_type() == EventType::Put);
            Some(Change { key: kv.key().to_vec(), now: kv.mod_revision(), contender })
        });
        self.follow(changes);
    }

    fn follow(&self, changes: impl IntoIterator<Item = Change>) {
        let mut state = self.state();
        for change in changes {
            match state.phase {
                Phase::InStep => state.change(change),
                Phase::Unread => state.told.push(change),
                Phase::Closed | Phase::Asked => {}
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn change(&mut self, Change { key, now, contender }: Change) {
        if now <= self.read {
            return;
        }
        self.known = self.known.max(now);
        if let Some(created) = self.created.remove(&key) {
            self.queue.remove(&(created, key));
            self.tell(created);
            self.tell_front();
        }
        if let Some(contender) = contender {
            let created = contender.created;
            self.insert(contender);
            self.tell(created);
        }
    }

    /// Tells those that may hold since another has left: the first, or the shared ones at the front.
    fn tell_front(&self) {
        let first = self.queue.values().take(1);
        let shared = self.queue.values().take_while(|contender| contender.kind == Kind::Shared);
        first.chain(shared.skip(1)).for_each(|contender| self.tell(contender.created));
    }

    fn insert(&mut self, contender: Contender) {
        self.created.insert(contender.key.clone(), contender.created);
        self.queue.insert((contender.created, contender.key.clone()), contender);
    }

    fn tell(&self, created: i64) {
        if let Some(changed) = self.places.get(&created) {
            changed.notify_waiters();
        }
    }

    fn tell_all(&self) {
        self.places.values().for_each(|changed| changed.notify_waiters());
    }
}

impl Place {
    /// Completes at the next change of the standing after this call.
    pub(crate) fn changed(&self) -> Notified<'_> {
        self.changed.notified()
    }

    pub(crate) fn standing(&self, kind: Kind) -> Standing {
        let state = self.replica.state();
        match state.phase {
            Phase::Closed | Phase::Asked => return Standing::Unknown,
            Phase::Unread => return Standing::Unread { stream: state.stream },
            Phase::InStep if state.known < self.created => return Standing::Unknown,
            Phase::InStep => {}
        }
        if state.created.get(&self.key) != Some(&self.created) {
            return Standing::Gone;
        }
        let before = state.queue.range(..(self.created, Vec::new())).map(|(_, other)| other);
        match before.clone().next().filter(|_| !kind.admits(kinds(before))) {
            Some(first) => {
                Standing::Behind { holder: Holder::new(&*first.label).with_kind(first.kind) }
            }
            None => Standing::First { known: state.known },
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.replica.state();
        // The replica's, and this one.
        if Arc::strong_count(&self.changed) <= 2 {
            state.places.remove(&self.created);
        }
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
