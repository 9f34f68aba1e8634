//! One request's life in this provider.
//!
//! ```text
//! queued --no request of this process is before it--> first
//! queued (by a call that does not wait), first --both files locked--> granting --synced--> granted
//! granting --the call is dropped, or fails--> queued or first
//!   any of them --withdrawn, released, lost, closed--> ended
//! ```

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use lockkit_core::{FencingToken, LockName, LossReason, RequestId, Result};
use tokio::sync::Notify;

use crate::held::Held;

/// What the attempts and leases of one request share (C2).
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) name: LockName,
    pub(crate) id: RequestId,
    phase: Mutex<Phase>,
    is_first: AtomicBool,
    /// Of the permit, once it was granted.
    number: OnceLock<u32>,
    /// Told of every change of where it stands.
    pub(crate) changed: Notify,
}

#[derive(Debug)]
enum Phase {
    Asking,
    /// Locked, and its token on the way to the disk.
    Granting(Held),
    Granted {
        held: Held,
        token: FencingToken,
    },
    Ended(LossReason),
}

/// Where a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It waits behind others of this process, or does not wait.
    Queued,
    /// It may ask the kernel.
    First,
    Granting,
    Granted(FencingToken),
    Ended(LossReason),
}

impl Slot {
    pub(crate) fn new(name: LockName, id: RequestId) -> Self {
        let (phase, is_first) = (Mutex::new(Phase::Asking), AtomicBool::new(false));
        Self { name, id, phase, is_first, number: OnceLock::new(), changed: Notify::new() }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn standing(&self) -> Standing {
        match &*self.phase() {
            Phase::Asking if self.is_first.load(Ordering::SeqCst) => Standing::First,
            Phase::Asking => Standing::Queued,
            Phase::Granting(_) => Standing::Granting,
            Phase::Granted { token, .. } => Standing::Granted(*token),
            Phase::Ended(reason) => Standing::Ended(*reason),
        }
    }

    /// The number of the permit that it was granted.
    pub(crate) fn number(&self) -> Option<u32> {
        self.number.get().copied()
    }

    /// No request of this process is before it any more.
    pub(crate) fn comes_first(&self) {
        if !self.is_first.swap(true, Ordering::SeqCst) {
            self.changed.notify_waiters();
        }
    }

    /// Keeps `held` for the request while its token is synced; `None` if it was withdrawn.
    ///
    /// Dropped before it is [`granted`](Granting::granted), the answer frees the name.
    pub(crate) fn granting(&self, held: Held) -> Option<Granting<'_>> {
        let mut phase = self.phase();
        match *phase {
            Phase::Asking => {
                *phase = Phase::Granting(held);
                Some(Granting(self))
            }
            _ => None,
        }
    }

    /// Ends it for `reason`, unless it has ended, and frees what it held; whether it held.
    pub(crate) fn end(&self, reason: LossReason) -> bool {
        let mut phase = self.phase();
        if matches!(*phase, Phase::Ended(_)) {
            return false;
        }
        let before = std::mem::replace(&mut *phase, Phase::Ended(reason));
        let held = matches!(before, Phase::Granted { .. });
        // Freed before anybody can see that it has ended.
        drop(before);
        drop(phase);
        self.changed.notify_waiters();
        held
    }

    /// Checks that the files are still in place; if they were not, the grant has ended (C7).
    ///
    /// What is left of the files stays locked until the holder looks: while it cannot be told,
    /// no other request is granted.
    pub(crate) fn check(&self) -> Result<Standing> {
        let removed = match &*self.phase() {
            Phase::Granted { held, .. } if !held.is_in_place()? => Some(held.path().to_owned()),
            _ => None,
        };
        if let Some(file) = removed
            && self.end(LossReason::Removed)
        {
            tracing::warn!(
                target: "lockkit", event = "file_removed", name = %self.name, file = %file.display(),
                "a held lock's file was removed or replaced, so its holder has lost it; end the \
                 holder's process instead, or revoke the grant, to free a name",
            );
        }
        Ok(self.standing())
    }
}

/// A grant on its way to the disk.
pub(crate) struct Granting<'a>(&'a Slot);

impl Granting<'_> {
    /// The grant is on the disk; `false` if it was withdrawn meanwhile.
    pub(crate) fn granted(self, token: FencingToken) -> bool {
        let mut phase = self.0.phase();
        let before = std::mem::replace(&mut *phase, Phase::Asking);
        let (after, granted) = match before {
            Phase::Granting(mut held) => {
                held.synced();
                if let Some(number) = held.number() {
                    self.0.number.get_or_init(|| number);
                }
                (Phase::Granted { held, token }, true)
            }
            other => (other, false),
        };
        *phase = after;
        granted
    }
}

impl Drop for Granting<'_> {
    fn drop(&mut self) {
        let mut phase = self.0.phase();
        if matches!(*phase, Phase::Granting(_)) {
            *phase = Phase::Asking;
        }
        drop(phase);
        // A replay of the request may wait for this outcome.
        self.0.changed.notify_waiters();
    }
}
