//! What the servers refused to remove: asked for again until they do, or the session ends.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::Clock;
use tokio::sync::Notify;
use zookeeper_client::Client;

/// Before what was refused is asked for again: an operator gives the right back, not a machine.
pub(crate) const AGAIN: Duration = Duration::from_secs(1);

/// What is kept until a removal is done, such as the record of its request.
pub(crate) trait Kept: Send + Sync + 'static {
    /// It stays after all: the same removal is asked for again already.
    fn stays(self);
}

impl Kept for () {
    fn stays(self) {}
}

/// Asks once; whether it is done. It is dropped then, with all that it keeps.
type Asking = Arc<dyn Fn(Client) -> Pin<Box<dyn Future<Output = bool> + Send>> + Send + Sync>;

/// The removals of one session that were refused.
///
/// Its other locks keep the session alive, and with it what was left on it: a name would be held for as long.
#[derive(Default)]
pub(crate) struct Refused {
    /// By what is removed.
    removals: Mutex<HashMap<String, Asking>>,
    added: Notify,
}

impl Refused {
    /// Whether the removal of this is asked for again already.
    pub(crate) fn has(&self, key: &str) -> bool {
        self.removals().contains_key(key)
    }

    /// Keeps a removal that was refused.
    pub(crate) fn keep(&self, key: String, ask: Asking) {
        self.removals().insert(key, ask);
        self.added.notify_one();
    }

    /// Asks for all of them again and again.
    pub(crate) async fn repeat(&self, client: &Client, clock: &Clock) {
        loop {
            let asked: Vec<_> = self.copies();
            if asked.is_empty() {
                self.added.notified().await;
            }
            for (key, ask) in asked {
                if ask(client.clone()).await {
                    // Dropped with no lock held: what it keeps takes another one.
                    drop(self.taken(&key));
                }
            }
            clock.sleep(AGAIN).await;
        }
    }

    fn copies(&self) -> Vec<(String, Asking)> {
        self.removals().iter().map(|(key, ask)| (key.clone(), Arc::clone(ask))).collect()
    }

    fn taken(&self, key: &str) -> Option<Asking> {
        self.removals().remove(key)
    }

    fn removals(&self) -> MutexGuard<'_, HashMap<String, Asking>> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.removals().keys()).finish()
    }
}
