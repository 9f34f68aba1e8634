//! What is known of a session's life.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lockkit_core::Clock;
use lockkit_core::kit::Refused;
use tokio::sync::watch;
use zookeeper_client::Client;

use crate::proof::{Made, Proof};
use crate::usage::Users;

/// What is known of the session's life; read by all, written by its task and by acked writes.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) clock: Clock,
    pub(super) link: watch::Sender<Link>,
    /// Changes each time that servers have reopened it.
    pub(super) reopenings: watch::Sender<()>,
    pub(super) proof: watch::Sender<Proof>,
    /// Servers keep it for less than they said as it was made.
    pub(super) is_shortened: AtomicBool,
    /// It was over before the servers had ended it, as far as is known.
    pub(super) is_early: AtomicBool,
    /// `None` once it was closed.
    pub(super) client: Mutex<Option<Client>>,
    /// What the servers refused to remove; `None` once it has gone with the session.
    pub(super) refused: Mutex<Option<Arc<Refused<Client>>>>,
    pub(super) users: Arc<Users>,
}

/// Whether the session can be reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Link {
    Up,
    Down,
    /// The session has ended: nothing that was on it is left, or will be within its timeout.
    Over,
}

impl Life {
    pub(super) fn client(&self) -> MutexGuard<'_, Option<Client>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn refused(&self) -> MutexGuard<'_, Option<Arc<Refused<Client>>>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never returns a `watch::Ref`: two held at once with a writer queued between them deadlock.
    pub(super) async fn proven_once(&self, holds: impl Fn(&Proof) -> bool) {
        let mut proof = self.proof.subscribe();
        // The sender lives as long as this.
        let _ = proof.wait_for(holds).await;
    }

    /// A request is about to be sent.
    pub(super) fn make(&self) -> Made {
        let proof = self.proof.borrow();
        proof.make(self.clock.now())
    }

    pub(super) fn proven(&self, made: Made) {
        let now = self.clock.now();
        self.proof.send_if_modified(|proof| proof.acked(made, now));
    }

    pub(super) fn touched(&self, made: Made) {
        let now = self.clock.now();
        self.proof.send_if_modified(|proof| {
            proof.touched(made, now);
            false
        });
    }

    pub(super) fn set_link(&self, to: Link) {
        self.link.send_if_modified(|link| std::mem::replace(link, to) != to);
    }

    pub(super) fn proof(&self) -> Proof {
        *self.proof.borrow()
    }
}
