//! The one seam through which lockkit spawns.

#![allow(clippy::disallowed_methods)] // here, and only here, tasks are spawned

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::runtime::{Handle, Id};
use tokio::task::AbortHandle;

use crate::{Error, Result};

/// The tokio runtime that a driver lives in.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    handle: Handle,
    /// What decides when tasks run; `None`: the runtime alone.
    pub(crate) host: Option<Arc<dyn TaskHost>>,
}

/// A task of a driver.
pub(crate) type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Decides when the tasks of a runtime run: a simulated process that can be frozen does.
pub(crate) trait TaskHost: Debug + Send + Sync {
    fn host(&self, task: Task) -> Task;
}

impl Runtime {
    /// The runtime that was given, or else the one that the caller runs in.
    pub(crate) fn of_caller(given: Option<&Self>) -> Result<Self> {
        if let Some(given) = given {
            return Ok(given.clone());
        }
        Handle::try_current().map(Self::from).map_err(|_| Error::NoRuntime)
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> AbortHandle {
        match &self.host {
            Some(host) => self.handle.spawn(host.host(Box::pin(task))).abort_handle(),
            None => self.handle.spawn(task).abort_handle(),
        }
    }

    /// Polls `future` in this runtime's context where its caller is in none, so that timers work
    /// under any executor.
    pub(crate) fn enter<F: Future + Unpin>(&self, future: F) -> Entered<F> {
        Entered { runtime: self.handle.clone(), always: false, future }
    }

    /// Polls `future` in this runtime's context, whatever its caller's is.
    pub(crate) fn inside<F: Future + Unpin>(&self, future: F) -> Entered<F> {
        Entered { runtime: self.handle.clone(), always: true, future }
    }

    pub(crate) fn id(&self) -> Id {
        self.handle.id()
    }
}

impl From<Handle> for Runtime {
    fn from(handle: Handle) -> Self {
        Self { handle, host: None }
    }
}

pub(crate) struct Entered<F> {
    runtime: Handle,
    /// Or else only where the caller is in none.
    always: bool,
    future: F,
}

impl<F: Future + Unpin> Future for Entered<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let Self { runtime, always, future } = &mut *self;
        let _entered = (*always || Handle::try_current().is_err()).then(|| runtime.enter());
        Pin::new(future).poll(cx)
    }
}
