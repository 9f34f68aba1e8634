//! A holder's key, kept in sight by the watch of all deletions.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::watch::Watch;

/// One incarnation of a key, kept in sight.
#[derive(Debug)]
pub(crate) struct Sight {
    watch: Arc<Watch>,
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

impl Sight {
    pub(crate) fn new(watch: &Arc<Watch>, key: &[u8], created: i64, state: KeyState) -> Self {
        let (watch, key, changed) = (Arc::clone(watch), key.to_vec(), Notify::new());
        Self { watch, key, created, state: Mutex::new(state), changed }
    }

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
    pub(crate) fn deleted(&self, revision: i64) {
        if self.created < revision {
            self.tell(KeyState::Gone);
        }
    }

    pub(crate) fn tell(&self, news: KeyState) {
        *self.state() = news;
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        self.watch.out_of_sight(&self.key);
    }
}
