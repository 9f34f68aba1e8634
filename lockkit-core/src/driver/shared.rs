//! What the drivers of one [`Locks`](crate::Locks) share, and what a caller wants of one.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::parking::Parking;
use super::reaper::Reaper;
use super::rests::Rests;
use super::room::Count;
use super::round_trips::RoundTrips;
use super::timing::Timing;
use crate::request::RequestIds;
use crate::{Applied, Clock, Error, Instant, Kind, LockName, LockProvider, Permits, Result};

/// What every driver of one `Locks` shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn LockProvider>,
    pub(crate) clock: Clock,
    pub(crate) closing: Closing,
    pub(crate) active: Arc<Count>,
    pub(crate) reaper: Reaper,
    /// Leases that have no task yet.
    pub(crate) parking: Arc<Parking>,
    /// Attempts that have none yet.
    pub(crate) attempts: Arc<Parking>,
    pub(crate) round_trips: Arc<RoundTrips>,
    pub(crate) ids: Arc<dyn RequestIds>,
    /// Whether a difference between a wished and a granted ttl was logged.
    pub(crate) ttl_adjusted: AtomicBool,
    /// The limits of semaphores that were logged, since they are not the callers'.
    pub(crate) limits_told: Mutex<HashSet<(LockName, u32)>>,
}

/// How many other limits are remembered at most, so that names that are used once do not add up.
const LIMITS_TOLD: usize = 256;

impl Shared {
    /// Logs, once for each limit, that a semaphore has another one than its caller says.
    pub(crate) fn tell_limit(&self, name: &LockName, (limit, wished): (u32, u32)) {
        let mut told = self.limits_told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= LIMITS_TOLD {
            told.clear();
        }
        if told.insert((name.clone(), limit)) {
            tracing::warn!(
                target: "lockkit", event = "limit_differs", name = %name, wished, limit,
                "the semaphore has another limit than this client says: the one in the store applies",
            );
        }
    }

    /// A grant came: how long that took says something of the store where it was not waited for.
    pub(crate) fn measured(&self, wait: Wait, sent: Instant) {
        if wait == Wait::No {
            self.round_trips.note(sent, self.clock.now());
        }
    }

    /// Refuses a wait that ends before the store can answer.
    pub(crate) fn has_time_for(&self, wait: Wait) -> Result<()> {
        let Wait::AtMost(limit) = wait else { return Ok(()) };
        let least = self.round_trips.shortest(self.clock.now());
        if limit >= least {
            return Ok(());
        }
        let cause =
            format!("a limit of {limit:?} is below the {least:?} that the store's answers take");
        Err(Error::unavailable(Applied::No, cause))
    }
}

/// The level-triggered signal that the locks are being closed.
#[derive(Debug, Default)]
pub(crate) struct Closing {
    set: AtomicBool,
    changed: Notify,
}

impl Closing {
    /// Sets it; whether it was unset.
    pub(crate) fn set(&self) -> bool {
        let first = !self.set.swap(true, Ordering::SeqCst);
        self.changed.notify_waiters();
        first
    }

    pub(crate) fn is_set(&self) -> bool {
        self.set.load(Ordering::SeqCst)
    }

    pub(crate) async fn closed(&self) {
        let changed = self.changed.notified();
        if !self.is_set() {
            changed.await;
        }
    }
}

/// How long a caller waits for a name that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Not at all: one call on the store.
    No,
    /// Until it is granted.
    Unlimited,
    /// Until it is granted or this has passed.
    AtMost(Duration),
}

/// What a caller wants, checked.
#[derive(Debug)]
pub(crate) struct Acquire {
    pub(crate) name: LockName,
    pub(crate) label: Arc<str>,
    pub(crate) kind: Kind,
    /// Of a counted lock.
    pub(crate) permits: Option<Permits>,
    pub(crate) timing: Timing,
    /// The ttl that the caller wants, before it was fitted to the store.
    pub(crate) wished: Duration,
    pub(crate) wait: Wait,
    pub(crate) rests: Rests,
}
