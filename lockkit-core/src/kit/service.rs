//! A task that serves all callers of a provider, in whichever runtime lives.

use std::future::Future;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::{Error, Result};

/// A task that serves all callers, started by the first caller that needs it.
///
/// ```text
/// idle --ensure--> running --the task ends, or its runtime does--> idle
///   any state --stop--> stopped, for good
/// ```
///
/// Callers come from any runtime, and a runtime may end while others live. So each caller that needs the
/// service calls [`ensure`](Self::ensure), and the task runs in the runtime of the first of them.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use lockkit_core::kit::Service;
///
/// let service = Service::default();
/// service.ensure(|mut alive| async move { alive.stopped().await })?;
/// assert!(service.is_running());
/// service.stop();
/// service.ended().await;
/// assert!(!service.is_running());
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct Service(watch::Sender<State>);

#[derive(Clone, Copy, Debug, Default)]
struct State {
    is_running: bool,
    is_stopped: bool,
}

/// Says that the task runs, until the task drops it or its runtime does.
#[derive(Debug)]
pub struct Alive {
    state: watch::Sender<State>,
    seen: watch::Receiver<State>,
}

impl Service {
    /// Starts `run` in the current runtime, unless the task runs or was stopped.
    ///
    /// The task holds the [`Alive`] for as long as it serves.
    ///
    /// # Errors
    /// `NoRuntime`: called outside a tokio runtime.
    pub fn ensure<F>(&self, run: impl FnOnce(Alive) -> F) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let starts = self.0.send_if_modified(|state| {
            let starts = !state.is_running && !state.is_stopped;
            state.is_running |= starts;
            starts
        });
        if starts {
            let alive = Alive { state: self.0.clone(), seen: self.0.subscribe() };
            #[allow(clippy::disallowed_methods)] // the service's one task: no lock lives in it
            runtime.spawn(run(alive));
        }
        Ok(())
    }

    /// Whether the task runs.
    pub fn is_running(&self) -> bool {
        self.0.borrow().is_running
    }

    /// Tells the task to end, and starts none any more.
    pub fn stop(&self) {
        self.0.send_modify(|state| state.is_stopped = true);
    }

    /// Completes when no task runs; level-triggered.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn ended(&self) {
        // The sender lives as long as this.
        self.0.subscribe().wait_for(|state| !state.is_running).await.ok();
    }

    /// Completes when no task runs but one may: the caller starts it again with [`ensure`](Self::ensure),
    /// in a runtime that lives. Never completes once stopped; level-triggered.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn lapsed(&self) {
        let has_lapsed = |state: &State| !state.is_running && !state.is_stopped;
        // The sender lives as long as this.
        self.0.subscribe().wait_for(has_lapsed).await.ok();
    }
}

impl Alive {
    /// Completes when the service is stopped; level-triggered.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn stopped(&mut self) {
        // This holds a sender.
        self.seen.wait_for(|state| state.is_stopped).await.ok();
    }

    /// Whether the service is stopped.
    pub fn is_stopped(&self) -> bool {
        self.seen.borrow().is_stopped
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.state.send_modify(|state| state.is_running = false);
    }
}

/// Pauses between attempts that fail: each is twice as long as the one before, up to a longest.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use std::time::Duration;
///
/// use lockkit_core::kit::Backoff;
///
/// let mut backoff = Backoff::new(Duration::from_millis(1), Duration::from_millis(3));
/// assert_eq!(backoff.next_pause(), Duration::from_millis(1));
/// assert_eq!(backoff.next_pause(), Duration::from_millis(2));
/// assert_eq!(backoff.next_pause(), Duration::from_millis(3));
/// backoff.reset();
/// backoff.pause().await;
/// # }
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses from `first` to `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest, next: first }
    }

    /// The next pause.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.longest);
        pause
    }

    /// Sleeps for the next pause, by the runtime's clock.
    ///
    /// # Cancel safety
    /// Cancel-safe: dropped midway, the pause counts as made.
    pub async fn pause(&mut self) {
        tokio::time::sleep(self.next_pause()).await;
    }

    /// The next pause is the first again: an attempt has succeeded.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_service_goes_on_in_another_runtime_when_its_own_has_ended() {
        let service = Arc::new(Service::default());
        let runtime = || tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let ensure = || service.ensure(|mut alive| async move { alive.stopped().await });
        assert!(matches!(ensure(), Err(Error::NoRuntime)) && !service.is_running());
        let first = runtime();
        first.block_on(async { ensure() }).expect("a runtime");
        assert!(service.is_running());
        drop(first);
        assert!(!service.is_running());
        let second = runtime();
        second.block_on(async {
            ensure().expect("a runtime");
            assert!(service.is_running());
            service.stop();
            service.ended().await;
            ensure().expect("a runtime");
            assert!(!service.is_running(), "a stopped service starts no task");
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_caller_that_waits_is_told_to_start_the_task_again_unless_it_was_stopped() {
        let service = Service::default();
        let lapsed = || tokio::time::timeout(Duration::from_secs(1), service.lapsed());
        lapsed().await.expect("not started yet");
        service.ensure(|mut alive| async move { alive.stopped().await }).expect("a runtime");
        lapsed().await.expect_err("it runs");
        service.stop();
        service.ended().await;
        lapsed().await.expect_err("stopped for good");
        let service = Service::default();
        service.ensure(|alive| async move { drop(alive) }).expect("a runtime");
        service.lapsed().await;
        assert!(!service.is_running());
    }

    #[tokio::test]
    async fn a_service_that_runs_is_not_started_twice() {
        let service = Service::default();
        for _ in 0..2 {
            let run = |mut alive: Alive| async move { alive.stopped().await };
            service.ensure(run).expect("a runtime");
        }
        assert_eq!(service.0.receiver_count(), 1);
    }
}
