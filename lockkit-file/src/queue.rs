//! The kernel's own queue for a file, beside clients that block in flock(2): who only tries never comes before them.
//!
//! A call that blocks cannot be taken back, so it runs on a thread of its own, one for each name, which the requests
//! of this process share. Where they all have left, it gives the lock back the moment it has it. It keeps no
//! runtime, and no process, from ending.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::Builder;

use lockkit_core::Result;
use tokio::sync::Notify;

use crate::files::is_at;
use crate::protocol::Candidate;

/// How many threads wait at once in a process; beyond that requests only try.
const MOST: usize = 64;
/// It calls the kernel and little else.
const STACK: usize = 128 * 1024;

static ALL: Mutex<Vec<Arc<Wait>>> = Mutex::new(Vec::new());

fn all() -> MutexGuard<'static, Vec<Arc<Wait>>> {
    ALL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A thread that waits for the lock of a file.
#[derive(Debug)]
struct Wait {
    path: PathBuf,
    /// Its device and inode.
    file: (u64, u64),
    state: Mutex<State>,
    over: Notify,
}

#[derive(Debug, Default)]
struct State {
    requests: usize,
    is_over: bool,
    locked: Option<Candidate>,
}

impl Wait {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread: waits for the file of this candidate.
    fn run(self: &Arc<Self>, candidate: Candidate) {
        let is_locked = candidate.lock();
        all().retain(|other| !Arc::ptr_eq(other, self));
        let mut state = self.state();
        state.is_over = true;
        if is_locked && state.requests > 0 {
            state.locked = Some(candidate);
        } else {
            candidate.let_go();
        }
        drop(state);
        self.over.notify_waiters();
    }
}

/// A request that waits in the kernel's queue.
#[derive(Debug)]
pub(crate) struct Queued(Arc<Wait>);

impl Queued {
    /// Waits for the file of this candidate from now on, or goes on with a wait of this process; `None`: too many
    /// threads wait.
    pub(crate) fn enter(candidate: Candidate) -> Option<Self> {
        let (path, file) = (candidate.path(), candidate.file_id());
        let mut all = all();
        if let Some(wait) = all.iter().find(|wait| wait.file == file && wait.path == path) {
            // It is not over: it would not be among them.
            wait.state().requests += 1;
            return Some(Self(Arc::clone(wait)));
        }
        if all.len() >= MOST {
            return None;
        }
        let state = Mutex::new(State { requests: 1, ..State::default() });
        let wait = Arc::new(Wait { path: path.to_owned(), file, state, over: Notify::new() });
        let waiting = Arc::clone(&wait);
        let thread = Builder::new().name("lockkit-flock".to_owned()).stack_size(STACK);
        thread.spawn(move || waiting.run(candidate)).ok()?;
        all.push(Arc::clone(&wait));
        Some(Self(wait))
    }

    /// Completes when the wait is over.
    pub(crate) async fn over(&self) {
        loop {
            let over = self.0.over.notified();
            if self.0.state().is_over {
                return;
            }
            over.await;
        }
    }

    /// Whether it waits for the file that lies there now.
    pub(crate) fn is_in_place(&self) -> Result<bool> {
        is_at(&self.0.path, self.0.file)
    }

    /// The files, of which the first is locked, for the first request that takes them.
    pub(crate) fn take(&self) -> Option<Candidate> {
        self.0.state().locked.take()
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.requests -= 1;
        if state.requests == 0
            && let Some(candidate) = state.locked.take()
        {
            candidate.let_go();
        }
    }
}
