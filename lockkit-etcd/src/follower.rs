//! The task that follows the watch's stream.

use std::sync::{Arc, Weak};
use std::time::Duration;

use lockkit_core::kit::{Alive, Backoff};

use crate::endpoints::Endpoints;
use crate::watch::Watch;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// The task that follows the stream, and opens the next one when it ends.
pub(crate) struct Follower {
    pub(crate) watch: Weak<Watch>,
    pub(crate) alive: Alive,
}

impl Follower {
    pub(crate) async fn run(mut self, endpoints: Arc<Endpoints>) {
        let (mut backoff, mut in_vain) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), 0);
        while let Some(watch) = self.watch.upgrade().filter(|_| !self.alive.is_stopped()) {
            if watch.follow(&mut self.alive, &endpoints).await {
                backoff.reset();
                in_vain = 0;
            } else {
                in_vain += 1;
            }
            watch.down(in_vain >= endpoints.count());
            drop(watch);
            tokio::select! {
                () = backoff.pause() => {}
                () = self.alive.stopped() => return,
            }
        }
    }
}

impl Drop for Follower {
    /// Before `alive` is dropped: the callers that have a key in sight open a stream in a runtime that
    /// lives, and what that one tells must stay.
    fn drop(&mut self) {
        if let Some(watch) = self.watch.upgrade() {
            watch.forget();
        }
    }
}
