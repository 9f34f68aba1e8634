//! What all clients of this process share: last tokens, held files, warnings.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

static PROCESS: Mutex<Option<Process>> = Mutex::new(None);

#[derive(Debug, Default)]
struct Process {
    /// The last token of each file: kept for ever, so that no deletion brings an older one back.
    last: HashMap<PathBuf, u64>,
    /// How many leases of this process hold a file together; [`ALONE`] where one holds it alone.
    held: HashMap<PathBuf, usize>,
    /// Whose `held` it is: a forked child holds nothing of its parent's.
    pid: u32,
    warned: HashSet<PathBuf>,
}

/// Instead of how many share a file.
const ALONE: usize = usize::MAX;

/// The mark that this process holds a file; dropping it takes the mark away.
#[derive(Debug)]
pub(crate) struct Claim(PathBuf);

impl Claim {
    /// `None` if another lease of this process holds `file`, be it one that an admin has deleted.
    pub(crate) fn new(file: &Path) -> Option<Self> {
        Self::mark(file, |known| if known.is_none() { Some(ALONE) } else { None })
    }

    /// `None` if another lease of this process holds `file` alone.
    pub(crate) fn beside_others(file: &Path) -> Option<Self> {
        Self::mark(file, |known| match known {
            Some(ALONE) => None,
            known => Some(known.unwrap_or(0) + 1),
        })
    }

    fn mark(file: &Path, mark: impl FnOnce(Option<usize>) -> Option<usize>) -> Option<Self> {
        with(|process| {
            let pid = std::process::id();
            if process.pid != pid {
                process.pid = pid;
                process.held.clear();
            }
            let count = mark(process.held.get(file).copied())?;
            process.held.insert(file.to_owned(), count);
            Some(Self(file.to_owned()))
        })
    }
}

/// Whether a lease of this process holds `file`.
pub(crate) fn is_held(file: &Path) -> bool {
    with(|process| process.pid == std::process::id() && process.held.contains_key(file))
}

impl Drop for Claim {
    fn drop(&mut self) {
        with(|process| match process.held.get_mut(&self.0) {
            Some(count) if *count != ALONE && *count > 1 => *count -= 1,
            _ => drop(process.held.remove(&self.0)),
        });
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
