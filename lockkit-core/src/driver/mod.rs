//! One task per attempt: it asks and waits, and then keeps the lease it was granted.

pub(crate) mod acquire;
mod attempt;
pub(crate) mod held;
mod keep_alive;
pub(crate) mod lease;
pub(crate) mod reaper;
pub(crate) mod runtime;
pub(crate) mod timing;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};

use crate::guard::Guard;
use crate::request::RequestIds;
use crate::{Clock, Grant, LockName, LockProvider, Result};
use acquire::acquire;
use held::Held;
use keep_alive::keep;
use reaper::{Count, Counted, Reaper};
use runtime::Runtime;
use timing::{Timing, call_limit};

/// What every driver of one `Locks` shares.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) provider: Arc<dyn LockProvider>,
    pub(crate) clock: Clock,
    pub(crate) closing: Closing,
    pub(crate) active: Arc<Count>,
    pub(crate) reaper: Reaper,
    pub(crate) ids: Arc<dyn RequestIds>,
    /// Whether a difference between a wished and a granted ttl was logged.
    pub(crate) ttl_adjusted: AtomicBool,
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
    pub(crate) timing: Timing,
    /// The ttl that the caller wants, before it was fitted to the store.
    pub(crate) wished: Duration,
    pub(crate) wait: Wait,
}

pub(crate) type Answer = Result<Option<Guard>>;

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
        if !shared.ttl_adjusted.swap(true, Ordering::Relaxed) {
            tracing::info!(
                target: "lockkit", event = "ttl_adjusted", name = %wanted.name,
                wished = ?wanted.wished, ?granted, "the store grants another ttl than was wished",
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
