//! One task per attempt that waits, which then keeps the lease it was granted. An attempt that the store answers
//! within a moment needs none, and its lease gets one when it has been held for a moment.

mod acquire;
mod attempt;
mod drive;
pub(crate) mod held;
mod keep_alive;
mod kept;
pub(crate) mod lease;
mod moment;
pub(crate) mod parking;
mod patience;
pub(crate) mod reaper;
pub(crate) mod rest;
pub(crate) mod rests;
pub(crate) mod room;
pub(crate) mod round_trips;
pub(crate) mod runtime;
pub(crate) mod shared;
pub(crate) mod store;
pub(crate) mod timing;

use std::sync::Arc;

use tokio::sync::oneshot;

use crate::guard::{Answer, Guard};
use crate::{Error, LossReason};
use acquire::{First, Open, begin};
use drive::{drive, held};
use lease::State;
use moment::{Came, may_stay, stay};
use runtime::Runtime;
use shared::{Acquire, Shared};

/// One attempt: without a task where the store answers within a moment, and in one of its own where it does not.
pub(crate) async fn attempt(shared: &Arc<Shared>, runtime: Runtime, wanted: Acquire) -> Answer {
    // A caller whose acquires are all granted at once gives way to other tasks now and then.
    tokio::task::coop::consume_budget().await;
    let active = shared.active.enter();
    if shared.closing.is_set() {
        // A close that saw no attempt under way does not wait for this one.
        return Err(Error::Closed);
    }
    let first = begin(shared, &runtime, &wanted).await?;
    let (first, wanted, active) = match first {
        First::Open(begun) if may_stay(shared, &runtime, &wanted, &begun) => {
            let open = Open { wanted, begun, active };
            match stay(shared, &runtime, open).await {
                Came::First(first, wanted, active) => (first, wanted, active),
                Came::Answered(answer) => return answer,
            }
        }
        first => (first, wanted, active),
    };
    let begun = match first {
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
    let open = Open { wanted, begun, active };
    runtime.spawn(drive(Arc::clone(shared), runtime.clone(), open, caller));
    // Without an answer the runtime has ended, and the driver with it.
    answer.await.unwrap_or(Err(Error::NoRuntime))
}
