//! What all clients of this process share: last tokens, held files, warnings.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

#[derive(Debug, Default)]
struct Process {
    /// The last token of each file: kept for ever, so that no deletion brings an older one back.
    last: HashMap<PathBuf, u64>,
    held: HashSet<PathBuf>,
    /// Whose `held` it is: a forked child holds nothing of its parent's.
    pid: u32,
    warned: HashSet<PathBuf>,
}

/// The mark that this process holds a file; dropping it takes the mark away.
#[derive(Debug)]
pub(crate) struct Claim(PathBuf);

impl Claim {
    /// `None` if another lease of this process holds `file`, be it one that an admin has deleted.
    pub(crate) fn new(file: &Path) -> Option<Self> {
        with(|process| {
            let pid = std::process::id();
            if process.pid != pid {
                process.pid = pid;
                process.held.clear();
            }
            process.held.insert(file.to_owned()).then(|| Self(file.to_owned()))
        })
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        with(|process| process.held.remove(&self.0));
    }
}

/// The last token that this process has seen for `file`.
pub(crate) fn last_token(file: &Path) -> Option<u64> {
    with(|process| process.last.get(file).copied())
}

pub(crate) fn remember_token(file: &Path, token: u64) {
    with(|process| match process.last.get_mut(file) {
        Some(last) => *last = token.max(*last),
        None => drop(process.last.insert(file.to_owned(), token)),
    });
}

/// Whether this is the first warning about `directory`.
pub(crate) fn warns_first(directory: &Path) -> bool {
    with(|process| process.warned.insert(directory.to_owned()))
}

fn with<T>(work: impl FnOnce(&mut Process) -> T) -> T {
    let mut process: MutexGuard<'_, _> = PROCESS.lock().unwrap_or_else(PoisonError::into_inner);
    work(process.get_or_insert_default())
}
