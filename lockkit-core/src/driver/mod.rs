//! One task per attempt: it asks and waits, and then keeps the lease it was granted.

mod acquire;
mod attempt;
pub(crate) mod held;
mod keep_alive;
pub(crate) mod lease;
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

use crate::Grant;
use crate::guard::Guard;
use acquire::acquire;
use held::Held;
use keep_alive::keep;
use room::Counted;
use runtime::Runtime;
use shared::{Acquire, Answer, Shared};
use timing::call_limit;

/// The life of one attempt and of the lease it may lead to.
pub(crate) async fn drive(
    shared: Arc<Shared>,
    runtime: Runtime,
    wanted: Acquire,
    mut caller: oneshot::Sender<Answer>,
    _active: Counted,
) {
    let (request, grant, machine) = match acquire(&shared, &runtime, &wanted, &mut caller).await {
        Ok(granted) => granted,
        Err(answer) => {
            // A caller that has left needs no answer.
            drop(caller.send(answer));
            return;
        }
    };
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
    let hold = Arc::new(Held::new(
        wanted.name,
        token,
        lease.native(),
        machine,
        shared.clock.clone(),
        runtime.clone(),
    ));
    // The guard itself travels: if the caller leaves at any point, dropping it releases.
    drop(caller.send(Ok(Some(Guard::new(Arc::clone(&hold))))));
    let call_limit = call_limit(term.ttl.unwrap_or(wanted.timing.ttl));
    keep(&shared, &runtime, &hold, lease, call_limit).await;
}
