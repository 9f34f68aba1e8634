//! The task of an attempt that waits, and what a grant is held by.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::oneshot;

use super::acquire::{Open, acquire};
use super::held::Held;
use super::keep_alive::Keeping;
use super::kept::Kept;
use super::lease::Machine;
use super::room::Counted;
use super::runtime::Runtime;
use super::shared::{Acquire, Shared};
use crate::guard::{Answer, Guard};
use crate::{Grant, Request};

/// The life of an attempt that waits, and of the lease that it may lead to.
pub(super) async fn drive(
    shared: Arc<Shared>,
    runtime: Runtime,
    open: Open,
    mut caller: oneshot::Sender<Answer>,
) {
    let Open { wanted, begun, active } = open;
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
pub(super) fn held(
    shared: &Arc<Shared>,
    runtime: Runtime,
    wanted: &Acquire,
    request: &Request,
    grant: Grant,
    machine: Machine,
    active: Counted,
) -> (Arc<Held>, Kept) {
    let Grant { token, term, lease, slot } = grant;
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
    if let Some(limits) = request.other_limit() {
        shared.tell_limit(&wanted.name, limits);
    }
    let (name, clock, native) = (wanted.name.clone(), shared.clock.clone(), lease.native());
    let hold = Held::new(name, (token, wanted.kind, slot), native, machine, clock, runtime);
    let resting = wanted.rests.of_grant(|| shared.clock.now());
    (Arc::new(hold), Kept { lease, shared: Arc::clone(shared), resting, active })
}
