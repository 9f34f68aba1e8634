//! One task per attempt that waits, which then keeps the lease it was granted. An attempt that the store answers
//! at once needs none, and its lease gets one when it has been held for a moment.

mod acquire;
mod attempt;
pub(crate) mod held;
mod keep_alive;
mod kept;
pub(crate) mod lease;
pub(crate) mod parking;
mod patience;
pub(crate) mod reaper;
pub(crate) mod room;
pub(crate) mod round_trips;
pub(crate) mod runtime;
pub(crate) mod shared;
pub(crate) mod store;
pub(crate) mod timing;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use crate::guard::{Answer, Guard};
use crate::{Error, Grant, LossReason, Request};
use acquire::{Begun, First, acquire, begin};
use held::Held;
use keep_alive::Keeping;
use kept::Kept;
use lease::{Machine, State};
use room::Counted;
use runtime::Runtime;
use shared::{Acquire, Shared};
use timing::call_limit;

/// One attempt: without a task where the store answers at once, and in one of its own where it does not.
pub(crate) async fn attempt(shared: &Arc<Shared>, runtime: Runtime, wanted: Acquire) -> Answer {
    // A caller whose acquires are all granted at once gives way to other tasks now and then.
    tokio::task::coop::consume_budget().await;
    let active = shared.active.enter();
    if shared.closing.is_set() {
        // A close that saw no attempt under way does not wait for this one.
        return Err(Error::Closed);
    }
    let begun = match begin(shared, &runtime, &wanted).await? {
        First::Held => return Ok(None),
        First::Granted(request, grant, machine) => {
            let (hold, kept) = held(shared, runtime, &wanted, &request, grant, machine, active);
            if shared.clock.goes_on() {
                hold.park(kept);
            } else {
                // Nothing would end the moment that it is parked for.
                hold.keep(kept);
            }
            return match hold.state() {
                // The runtime has ended, and the driver with it.
                State::Lost(LossReason::DriverStopped) => Err(Error::NoRuntime),
                _ => Ok(Some(Guard::new(hold))),
            };
        }
        First::Open(begun) => begun,
    };
    let (caller, answer) = oneshot::channel();
    let driver = drive(Arc::clone(shared), runtime.clone(), wanted, begun, caller, active);
    runtime.spawn(driver);
    // Without an answer the runtime has ended, and the driver with it.
    answer.await.unwrap_or(Err(Error::NoRuntime))
}

/// The life of an attempt that waits, and of the lease that it may lead to.
async fn drive(
    shared: Arc<Shared>,
    runtime: Runtime,
    wanted: Acquire,
    begun: Begun,
    mut caller: oneshot::Sender<Answer>,
    active: Counted,
) {
    // The call has been polled just now: whatever it gave way to goes first.
    tokio::task::yield_now().await;
    let granted = Box::pin(acquire(&shared, &runtime, &wanted, begun, &mut caller)).await;
    let (request, grant, machine) = match granted {
        Ok(granted) => granted,
        Err(answer) => {
            // A caller that has left needs no answer.
            drop(caller.send(answer));
            return;
        }
    };
    let (hold, kept) = held(&shared, runtime, &wanted, &request, grant, machine, active);
    drop((request, wanted, shared));
    let keeping = Keeping::new(Arc::clone(&hold), kept);
    // The guard itself travels: if the caller leaves at any point, dropping it releases.
    drop(caller.send(Ok(Some(Guard::new(hold)))));
    keeping.run().await;
}

/// What a grant is held by, and what keeps it.
fn held(
    shared: &Arc<Shared>,
    runtime: Runtime,
    wanted: &Acquire,
    request: &Request,
    grant: Grant,
    machine: Machine,
    active: Counted,
) -> (Arc<Held>, Kept) {
    let Grant { token, term, lease } = grant;
    tracing::debug!(
        target: "lockkit", event = "granted", name = %wanted.name, token = token.as_u64(),
        ttl = ?term.ttl, request = %request.id(),
    );
    if let Some(granted) = term.ttl.filter(|granted| *granted != wanted.wished) {
        if granted > wanted.wished {
            tracing::debug!(
                target: "lockkit", event = "ttl_adjusted", name = %wanted.name,
                wished = ?wanted.wished, ?granted, "the store grants a longer ttl than was wished",
            );
        } else if !shared.ttl_adjusted.swap(true, Ordering::Relaxed) {
            tracing::info!(
                target: "lockkit", event = "ttl_adjusted", name = %wanted.name,
                wished = ?wanted.wished, ?granted, "the store grants a shorter ttl than was wished",
            );
        }
    }
    let (name, clock, native) = (wanted.name.clone(), shared.clock.clone(), lease.native());
    let hold = Held::new(name, token, native, machine, clock, runtime);
    let call_limit = call_limit(term.ttl.unwrap_or(wanted.timing.ttl));
    (Arc::new(hold), Kept { lease, shared: Arc::clone(shared), call_limit, active })
}
