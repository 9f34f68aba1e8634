//! A process that can be frozen and killed.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

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

    /// `task`, as a task of this process.
    pub(crate) fn runs<F: Future<Output = ()> + Send + 'static>(
        &self,
        task: F,
    ) -> impl Future<Output = ()> + Send + use<F> {
        Task { process: self.clone(), work: Some(Box::pin(task)) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Task {
    process: Process,
    work: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Future for Task {
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
