//! Holders' keys, kept in sight by the watch of all deletions.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

/// How many deletions are kept for answers that come after them.
const KEPT: usize = 1024;

/// What the watch of all deletions has told.
#[derive(Debug, Default)]
pub(crate) struct Deletions(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    /// Every deletion after this revision is kept, or will be told; `None`: nothing is known.
    since: Option<i64>,
    kept: HashMap<Vec<u8>, i64>,
    order: VecDeque<(Vec<u8>, i64)>,
    sights: HashMap<Vec<u8>, Vec<Weak<Sight>>>,
}

/// One incarnation of a key, kept in sight.
#[derive(Debug)]
pub(crate) struct Sight {
    deletions: Arc<Deletions>,
    key: Vec<u8>,
    /// Its create revision: another incarnation of the same key is another one.
    created: i64,
    state: Mutex<KeyState>,
    changed: Notify,
}

/// What is known of a key in sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// Nothing new.
    There,
    /// It was deleted.
    Gone,
    /// It may have been deleted unseen: it must be read.
    Unsure,
}

impl Deletions {
    /// Keeps in sight the incarnation of `key` that `created` made and that was there at `known`.
    pub(crate) fn sight(self: &Arc<Self>, key: &[u8], created: i64, known: i64) -> Arc<Sight> {
        let mut all = self.known();
        let key_state = match all.kept.get(key) {
            Some(deleted) if *deleted > created => KeyState::Gone,
            _ if all.since.is_some_and(|since| since <= known) => KeyState::There,
            _ => KeyState::Unsure,
        };
        let sight = Arc::new(Sight {
            deletions: Arc::clone(self),
            key: key.to_vec(),
            created,
            state: Mutex::new(key_state),
            changed: Notify::new(),
        });
        if key_state == KeyState::There {
            all.sights.entry(key.to_vec()).or_default().push(Arc::downgrade(&sight));
        }
        sight
    }

    /// Whether what is read from now on can be kept in sight.
    pub(crate) fn are_known(&self) -> bool {
        self.known().since.is_some()
    }

    /// Whether a key is in sight, or nothing is known yet.
    pub(crate) fn are_wanted(&self) -> bool {
        let known = self.known();
        known.since.is_none() || !known.sights.is_empty()
    }

    /// The watch stands: all that is deleted after this revision will be told. Whether it did not stand before.
    pub(crate) fn begin(&self, now: i64) -> bool {
        let mut known = self.known();
        let is_new = known.since.is_none();
        known.since.get_or_insert(now);
        is_new
    }

    /// Takes in a deletion.
    pub(crate) fn tell(&self, key: &[u8], revision: i64) {
        let in_sight = self.known().deleted(key, revision);
        in_sight.into_iter().for_each(|sight| sight.deleted(revision));
    }

    /// Forgets all: each key in sight must be read.
    pub(crate) fn forget(&self) {
        let was = std::mem::take(&mut *self.known());
        for sight in was.sights.into_values().flatten().filter_map(|sight| sight.upgrade()) {
            sight.tell(KeyState::Unsure);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Notes a deletion. Returns the sights of that key, to be told once all this is unlocked.
    fn deleted(&mut self, key: &[u8], revision: i64) -> Vec<Arc<Sight>> {
        self.kept.insert(key.to_vec(), revision);
        self.order.push_back((key.to_vec(), revision));
        if self.order.len() > KEPT
            && let Some((oldest, at)) = self.order.pop_front()
        {
            if self.kept.get(&oldest) == Some(&at) {
                self.kept.remove(&oldest);
            }
            self.since = self.since.map(|since| since.max(at));
        }
        self.sights.get(key).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }
}

impl Sight {
    /// Completes when it is no longer known to be there; level-triggered.
    pub(crate) async fn news(&self) -> KeyState {
        loop {
            let changed = self.changed.notified();
            let state = *self.state();
            if state != KeyState::There {
                return state;
            }
            changed.await;
        }
    }

    /// Only this incarnation counts: a later one's end is another's.
    fn deleted(&self, revision: i64) {
        if self.created < revision {
            self.tell(KeyState::Gone);
        }
    }

    fn tell(&self, news: KeyState) {
        *self.state() = news;
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        let mut known = self.deletions.known();
        if let Some(sights) = known.sights.get_mut(&self.key) {
            sights.retain(|sight| sight.strong_count() > 0);
            if sights.is_empty() {
                known.sights.remove(&self.key);
            }
        }
    }
}
