//! Leases that were granted at once, in the first poll of their attempt: most end before they need a task.
//!
//! ```text
//! parked --the guard releases--> over, without a task
//!        --a millisecond passes, the guard is dropped or wants a renewal--> kept, by a task of its own
//!        --its runtime ends--> lost
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::runtime::Id;

use super::runtime::Runtime;

/// So long a lease stays without a task: nothing hears of its early end meanwhile.
const STAYS: Duration = Duration::from_millis(1);

/// A lease that has no task yet.
pub(super) trait Park: Send + Sync {
    /// Gives it the task that keeps it.
    fn unpark(self: Arc<Self>);
}

/// The leases of one `Locks` that have no task yet.
#[derive(Default)]
pub(crate) struct Parking(Mutex<State>);

#[derive(Default)]
struct State {
    parked: Vec<Arc<dyn Park>>,
    /// The runtime of the task that gives them tasks, while there is one.
    keeper: Option<Id>,
}

impl Parking {
    /// Takes in a lease without a task, for a moment; in a runtime of its own it gets its task now.
    pub(super) fn park(self: &Arc<Self>, hold: Arc<dyn Park>, runtime: &Runtime) {
        let id = runtime.id();
        let is_first = {
            let mut state = self.state();
            if state.keeper.is_some_and(|keeper| keeper != id) {
                drop(state);
                return hold.unpark();
            }
            state.parked.push(hold);
            state.keeper.replace(id).is_none()
        };
        if is_first {
            let keeper = Keeper(Arc::clone(self));
            runtime.spawn(async move {
                tokio::time::sleep(STAYS).await;
                drop(keeper);
            });
        }
    }

    /// The lease has ended, or has a task.
    pub(super) fn leave(&self, hold: &dyn Park) {
        let mut state = self.state();
        // The newest ends first, as a rule.
        if let Some(place) =
            state.parked.iter().rposition(|parked| std::ptr::addr_eq(&raw const **parked, hold))
        {
            state.parked.swap_remove(place);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Parking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Parking")
            .field("parked", &self.state().parked.len())
            .finish_non_exhaustive()
    }
}

/// Gives all that is parked a task when dropped: its time is over, or its runtime ends, and then each task ends
/// at once and tells its guard.
struct Keeper(Arc<Parking>);

impl Drop for Keeper {
    fn drop(&mut self) {
        let parked = {
            let mut state = self.0.state();
            state.keeper = None;
            std::mem::take(&mut state.parked)
        };
        parked.into_iter().for_each(Park::unpark);
    }
}
