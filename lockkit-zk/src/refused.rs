//! What the servers refused to remove: asked for again until they do, or the session ends.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::Clock;
use tokio::sync::Notify;
use zookeeper_client::Client;

use crate::cleanup::{Removal, removed};
use crate::place::Forgets;

/// Before what was refused is asked for again: an operator gives the right back, not a machine.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);

/// The removals of one session that were refused.
///
/// Its other locks keep the session alive, and with it what was left on it: a name would be held for as long.
#[derive(Debug, Default)]
pub(crate) struct Refused {
    /// By what is removed, so that a call that asks again adds nothing.
    removals: Mutex<HashMap<String, (Removal, Option<Forgets>)>>,
    added: Notify,
}

impl Refused {
    /// Keeps a removal that was refused, and the record of its request until it is done.
    pub(crate) fn keep(&self, what: Removal, forgets: Option<Forgets>) {
        let mut removals = self.removals();
        let key = what.key();
        if removals.contains_key(&key) {
            if let Some(forgets) = forgets {
                forgets.cancel();
            }
            return;
        }
        removals.insert(key, (what, forgets));
        self.added.notify_one();
    }

    /// Asks for all of them again and again.
    pub(crate) async fn repeat(&self, client: &Client, clock: &Clock) {
        loop {
            let keys: Vec<_> = self.removals().keys().cloned().collect();
            if keys.is_empty() {
                self.added.notified().await;
            }
            for key in keys {
                let what = self.removals().get(&key).map(|(what, _)| what.clone());
                let Some(what) = what else { continue };
                if removed(client, &what).await.is_ok() {
                    // Dropped outside the map's lock: it takes another one.
                    drop(self.taken(&key));
                }
            }
            clock.sleep(AGAIN).await;
        }
    }

    fn taken(&self, key: &str) -> Option<(Removal, Option<Forgets>)> {
        self.removals().remove(key)
    }

    fn removals(&self) -> MutexGuard<'_, HashMap<String, (Removal, Option<Forgets>)>> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
