//! A store, as all locks on it share it.

use std::future::Future;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use super::reaper::limited;
use super::runtime::Runtime;
use super::shared::Shared;
use super::timing::{DEFAULT_TTL, call_limit};
use crate::{Error, Guarantees, Instant, Operator, Result};

#[derive(Debug)]
pub(crate) struct Store {
    pub(crate) shared: Arc<Shared>,
    pub(crate) guarantees: Guarantees,
    pub(crate) runtime: Option<Runtime>,
    pub(crate) ttl: Duration,
    pub(crate) watching: Arc<AtomicBool>,
    /// The runtime that the last attempt came from.
    pub(crate) last_used: Mutex<Option<Runtime>>,
}

impl Store {
    pub(crate) fn operator(&self) -> Result<&dyn Operator> {
        self.shared.provider.operator().ok_or_else(|| {
            Error::rejected(
                "looking into this store, or revoking in it",
                "its provider offers no operator: use the store's own tools",
            )
        })
    }

    /// The runtime for an attempt.
    pub(crate) fn use_runtime(&self) -> Result<Runtime> {
        let runtime = Runtime::of_caller(self.runtime.as_ref())?;
        *self.last_used() = Some(runtime.clone());
        Ok(runtime)
    }

    /// The runtime to close in: outside one, that of the last attempt.
    pub(crate) fn closing_runtime(&self) -> Result<Runtime> {
        Runtime::of_caller(self.runtime.as_ref())
            .or_else(|_| self.last_used().clone().ok_or(Error::NoRuntime))
    }

    fn last_used(&self) -> MutexGuard<'_, Option<Runtime>> {
        self.last_used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) async fn limited<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let runtime = Runtime::of_caller(self.runtime.as_ref())?;
        let limit = call_limit(DEFAULT_TTL);
        runtime.enter(Box::pin(limited(&self.shared.clock, limit, call))).await
    }

    /// Completes at `at`, under any executor.
    pub(crate) async fn sleep_until(&self, at: Instant) -> Result<()> {
        let runtime = Runtime::of_caller(self.runtime.as_ref())?;
        runtime.enter(Box::pin(self.shared.clock.sleep_until(at))).await;
        Ok(())
    }

    /// Timers stand still while the machine is suspended: one task notices the jump of the clock
    /// and wakes the tasks that sleep by it.
    pub(crate) fn watch_for_suspend(&self, runtime: &Runtime) {
        const EVERY: Duration = Duration::from_secs(1);
        if !self.shared.clock.outruns_timers() || self.watching.swap(true, Ordering::AcqRel) {
            return;
        }
        let shared: Weak<Shared> = Arc::downgrade(&self.shared);
        let watching = Watching(Arc::clone(&self.watching));
        runtime.spawn(async move {
            let _watching = watching;
            loop {
                let before = shared.upgrade().map(|shared| shared.clock.now());
                tokio::time::sleep(EVERY).await;
                let Some((shared, before)) = shared.upgrade().zip(before) else { return };
                if shared.closing.is_set() {
                    return;
                }
                if shared.clock.now().saturating_since(before) > EVERY + EVERY / 2 {
                    shared.clock.wake_sleepers();
                }
            }
        });
    }
}

/// Says that the watcher runs, until its runtime drops it.
struct Watching(Arc<AtomicBool>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}
