//! A process that can be frozen and killed.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::runtime::Handle;

use super::random::Random;
use crate::driver::runtime::{Runtime, Task, TaskHost};
use crate::locks::Builder;
use crate::quorum::surroundings::Surroundings;
use crate::request::RequestIds;
use crate::{RequestId, Result};

/// A simulated process: the driver's tasks and the program's own run only while it does.
///
/// Frozen, it is a process that the machine has paused: none of its code runs, while the clock that
/// it will read goes on, and what comes for it waits. Killed, it never runs again, and nothing of
/// it is cleaned up in the store.
#[derive(Clone, Debug, Default)]
pub(crate) struct Process(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    life: Life,
    /// The tasks that were about to run when they could not.
    stopped: Vec<Waker>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Life {
    #[default]
    Running,
    Frozen,
    Killed,
}

impl Process {
    pub(crate) fn freeze(&self) {
        let mut state = self.state();
        if state.life == Life::Running {
            state.life = Life::Frozen;
        }
    }

    pub(crate) fn thaw(&self) {
        let stopped = {
            let mut state = self.state();
            if state.life == Life::Frozen {
                state.life = Life::Running;
            }
            std::mem::take(&mut state.stopped)
        };
        stopped.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn kill(&self) {
        let stopped = {
            let mut state = self.state();
            state.life = Life::Killed;
            std::mem::take(&mut state.stopped)
        };
        stopped.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn is_running(&self) -> bool {
        self.state().life == Life::Running
    }

    pub(crate) fn is_killed(&self) -> bool {
        self.state().life == Life::Killed
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Builder {
    /// Tasks that run only while `process` does, and request ids from a seed.
    pub(crate) fn simulated(mut self, process: Process, seed: u64) -> Self {
        let mut runtime = Runtime::from(Handle::current());
        runtime.host = Some(Arc::new(process));
        self.ids = Arc::new(SeededIds(Mutex::new(Random::new(seed))));
        self.runtime = Some(runtime);
        self
    }
}

/// What a quorum's tasks, ids and tokens come from in such a process.
pub(super) fn surroundings(process: Process, seed: u64, ahead: Duration) -> Surroundings {
    let mut runtime = Runtime::from(Handle::current());
    runtime.host = Some(Arc::new(process));
    let ids = Arc::new(SeededIds(Mutex::new(Random::new(seed))));
    Surroundings { runtime: Some(runtime), ids, ahead: Some(ahead) }
}

impl TaskHost for Process {
    fn host(&self, task: Task) -> Task {
        Box::pin(Hosted { process: self.clone(), work: Some(task) })
    }
}

/// Request ids that are the same from the same seed.
#[derive(Debug)]
struct SeededIds(Mutex<Random>);

impl RequestIds for SeededIds {
    fn next(&self) -> Result<RequestId> {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(RequestId::from_bytes(random.id().to_be_bytes()))
    }
}

/// A task that runs only while its process does.
struct Hosted {
    process: Process,
    work: Option<Task>,
}

impl Future for Hosted {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let life = {
            let mut state = self.process.state();
            if state.life == Life::Frozen {
                state.stopped.push(cx.waker().clone());
            }
            state.life
        };
        match (life, &mut self.work) {
            (Life::Frozen, _) => Poll::Pending,
            (Life::Running, Some(work)) => work.as_mut().poll(cx),
            (Life::Killed, _) | (_, None) => {
                self.work = None;
                Poll::Ready(())
            }
        }
    }
}
