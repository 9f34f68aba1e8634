//! What has no task of its own yet: leases that were granted to their caller's task, and attempts whose first call is
//! polled there. Most end before they need one.
//!
//! ```text
//! parked --the guard releases, the attempt ends--> over, without a task
//!        --its moment passes, the guard is dropped or wants a renewal--> kept, by a task of its own
//!        --its runtime ends--> lost
//! ```

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Id;

use super::runtime::Runtime;

/// The moment of a lease: nothing hears of its early end meanwhile.
pub(crate) const LEASES: Duration = Duration::from_millis(1);
/// The moment of an attempt: nothing asks on for a caller that does not poll it meanwhile.
pub(crate) const ATTEMPTS: Duration = Duration::from_millis(10);

/// What has no task yet.
pub(super) trait Park: Send + Sync {
    /// Gives it the task that keeps it.
    fn unpark(self: Arc<Self>);
}

/// What of one `Locks` has no task yet.
pub(crate) struct Parking {
    /// The moment: what is parked stays so for as long as this at least, and at most twice as long.
    stays: Duration,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Parked since the keeper looked last.
    young: Vec<Arc<dyn Park>>,
    /// Parked before.
    old: Vec<Arc<dyn Park>>,
    /// The runtime of the task that gives them tasks, while there is one.
    keeper: Option<Id>,
}

impl Parking {
    pub(crate) const fn new(stays: Duration) -> Self {
        let state = State { young: Vec::new(), old: Vec::new(), keeper: None };
        Self { stays, state: Mutex::new(state) }
    }

    /// Takes in what has no task, for a moment; in a runtime of its own it gets its task now.
    pub(super) fn park(self: &Arc<Self>, parked: Arc<dyn Park>, runtime: &Runtime) {
        let id = runtime.id();
        let is_first = {
            let mut state = self.state();
            if state.keeper.is_some_and(|keeper| keeper != id) {
                drop(state);
                return parked.unpark();
            }
            state.young.push(parked);
            state.keeper.replace(id).is_none()
        };
        if is_first {
            let keeper = Keeper(Arc::clone(self));
            runtime.spawn(async move {
                loop {
                    tokio::time::sleep(keeper.0.stays).await;
                    if !keeper.0.look() {
                        return;
                    }
                }
            });
        }
    }

    /// It has ended, or has a task.
    pub(super) fn leave(&self, parked: &dyn Park) {
        let mut state = self.state();
        let State { young, old, .. } = &mut *state;
        for them in [young, old] {
            // The newest ends first, as a rule.
            let is_it = |other: &Arc<dyn Park>| std::ptr::addr_eq(&raw const **other, parked);
            if let Some(place) = them.iter().rposition(is_it) {
                them.swap_remove(place);
                return;
            }
        }
    }

    /// Gives all that is parked its task now.
    pub(crate) fn unpark_all(&self) {
        let (young, old) = {
            let mut state = self.state();
            (std::mem::take(&mut state.young), std::mem::take(&mut state.old))
        };
        unpark_each(old.into_iter().chain(young));
    }

    /// Gives a task to what was there at the last look already; whether anything is left.
    fn look(&self) -> bool {
        let (old, is_left) = {
            let mut state = self.state();
            let young = std::mem::take(&mut state.young);
            (std::mem::replace(&mut state.old, young), !state.old.is_empty())
        };
        unpark_each(old.into_iter());
        is_left
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Gives each of them its task: a waker that panics takes no other's task away.
fn unpark_each(parked: impl Iterator<Item = Arc<dyn Park>>) {
    for parked in parked {
        // The panic's own message tells of it.
        drop(catch_unwind(AssertUnwindSafe(|| parked.unpark())));
    }
}

impl fmt::Debug for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parked = {
            let state = self.state();
            state.young.len() + state.old.len()
        };
        f.debug_struct("Parking").field("parked", &parked).finish_non_exhaustive()
    }
}

/// Gives all that is parked a task when dropped: its time is over, or its runtime ends, and then each task ends
/// at once and tells its guard.
struct Keeper(Arc<Parking>);

impl Drop for Keeper {
    fn drop(&mut self) {
        self.0.state().keeper = None;
        self.0.unpark_all();
    }
}
