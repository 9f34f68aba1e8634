//! The one seam through which lockkit spawns.

#![allow(clippy::disallowed_methods)] // here, and only here, tasks are spawned

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::runtime::Handle;
use tokio::task::AbortHandle;

#[cfg(feature = "conformance")]
use crate::conformance::simulation::Process;
use crate::{Error, Result};

/// The tokio runtime that a driver lives in.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    handle: Handle,
    /// The simulated process that all tasks belong to.
    #[cfg(feature = "conformance")]
    process: Option<Process>,
}

impl Runtime {
    /// The runtime that was given, or else the one that the caller runs in.
    pub(crate) fn of_caller(given: Option<&Self>) -> Result<Self> {
        if let Some(given) = given {
            return Ok(given.clone());
        }
        Handle::try_current().map(Self::from).map_err(|_| Error::NoRuntime)
    }

    /// The tasks of a simulated process, which run only while it does.
    #[cfg(feature = "conformance")]
    pub(crate) fn simulated(handle: Handle, process: Process) -> Self {
        Self { handle, process: Some(process) }
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        #[cfg(feature = "conformance")]
        if let Some(process) = &self.process {
            return self.handle.spawn(process.runs(task)).abort_handle();
        }
        self.handle.spawn(task).abort_handle()
    }

    /// Polls `future` in this runtime's context where its caller is in none, so that timers work
    /// under any executor.
    pub(crate) fn enter<F: Future + Unpin>(&self, future: F) -> Entered<F> {
        Entered { runtime: self.handle.clone(), future }
    }
}

impl From<Handle> for Runtime {
    fn from(handle: Handle) -> Self {
        Self {
            handle,
            #[cfg(feature = "conformance")]
            process: None,
        }
    }
}

pub(crate) struct Entered<F> {
    runtime: Handle,
    future: F,
}

impl<F: Future + Unpin> Future for Entered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { runtime, future } = &mut *self;
        let _entered = Handle::try_current().is_err().then(|| runtime.enter());
        Pin::new(future).poll(cx)
    }
}
