//! A client that hands a name on to its own next waiter, of which the store learns nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockkit_core::{FencingToken, LockName};
use tokio::sync::oneshot;

/// What is waited for, and what tells the waiter.
type Waiting = (LockName, oneshot::Sender<FencingToken>);

/// The waiters of a client, which a holder of the same client may hand its name on to.
#[derive(Clone, Debug, Default)]
pub(crate) struct HandedOn(Arc<Mutex<Vec<Waiting>>>);

impl HandedOn {
    /// Completes with the token of the holder that hands this name on.
    pub(crate) fn waits(&self, name: &LockName) -> oneshot::Receiver<FencingToken> {
        let (hand_on, handed_on) = oneshot::channel();
        self.waiters().push((name.clone(), hand_on));
        handed_on
    }

    /// Hands this name on to the first that waits for it.
    pub(crate) fn hand_on(&self, name: &LockName, token: FencingToken) {
        let mut waiters = self.waiters();
        waiters.retain(|(_, waiter)| !waiter.is_closed());
        if let Some(at) = waiters.iter().position(|(waits_for, _)| waits_for == name) {
            waiters.remove(at).1.send(token).ok();
        }
    }

    fn waiters(&self) -> MutexGuard<'_, Vec<Waiting>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
