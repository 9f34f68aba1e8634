//! A holder, and the waiter that comes after it: when each of them believed.

use std::time::Instant;

use crate::common::queued;
use lockkit_core::{Guard, Lock, LossReason};
use tokio::task::JoinHandle;

/// What becomes of a holder and of the waiter behind it.
pub(crate) struct Succession {
    /// The waiter's grant, and when it was granted.
    pub(crate) next: JoinHandle<(Guard, Instant)>,
    /// When the holder was told of its loss, and of which.
    pub(crate) lost: JoinHandle<(LossReason, Instant)>,
}

/// Watches this holder, and has this lock wait behind it; it is in the queue by now.
pub(crate) async fn after(holder: &Guard, next: &Lock) -> Succession {
    let acquire = next.acquire();
    let waiting = tokio::spawn(async move { (acquire.await.unwrap(), Instant::now()) });
    queued(next, 1).await;
    let watch = holder.watch();
    let lost = tokio::spawn(async move { (watch.lost().await, Instant::now()) });
    Succession { next: waiting, lost }
}
