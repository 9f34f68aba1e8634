//! The numbered files of those who hold a name together. Each has one locked, which names it, and which the kernel frees
//! when its process dies.
//!
//! They are taken one at a time, so the numbers in use are found by looking from 0 on; none is ever removed.

use std::fs::TryLockError;
use std::io::ErrorKind;
use std::path::Path;

use lockkit_core::{LockName, Result};

use crate::error::failed;
use crate::files::{LockFiles, Opened, open_to_read, read};
use crate::process::{self, Claim};
use crate::record::{Content, HolderRecord};

/// The number that no seat reaches.
const MOST: u32 = 100_000;

/// One of the files, locked.
#[derive(Debug)]
pub(crate) struct Seat {
    #[allow(dead_code)] // kept for its end
    claim: Claim,
    number: u32,
    opened: Opened,
    /// Where its record says that it holds.
    word: Option<u64>,
}

/// Whether a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Missing,
    Free,
    Taken,
}

/// How it went to take one.
#[derive(Debug)]
pub(crate) enum Taken {
    Seat(Seat),
    /// As many are held as may be.
    Full,
    /// An operator looks at it for a moment.
    Busy,
}

impl Seat {
    /// The free one with the smallest number, where fewer than `limit` are held. The caller sees to it that no other
    /// process takes one meanwhile.
    pub(crate) fn take(files: &LockFiles, limit: Option<u32>) -> Result<Taken> {
        let most = limit.unwrap_or(MOST);
        let mut free = None;
        for number in 0..most {
            if state(&files.seat(number))? != State::Taken {
                free = Some(number);
                break;
            }
        }
        let Some(number) = free else { return Ok(Taken::Full) };
        if limit.is_some() && is_full(files, most)? {
            return Ok(Taken::Full);
        }
        Self::lock(&files.seat(number), number)
    }

    fn lock(path: &Path, number: u32) -> Result<Taken> {
        let opened = Opened::open(path)?;
        if !opened.try_lock()? || !opened.is_in_place()? {
            return Ok(Taken::Busy);
        }
        let seat = |claim| Self { claim, number, opened, word: None };
        Ok(Claim::new(path).map_or(Taken::Busy, |claim| Taken::Seat(seat(claim))))
    }

    pub(crate) const fn number(&self) -> u32 {
        self.number
    }

    pub(crate) fn path(&self) -> &Path {
        &self.opened.path
    }

    pub(crate) fn is_in_place(&self) -> Result<bool> {
        self.opened.is_in_place()
    }

    /// Writes who holds it.
    pub(crate) fn write(&mut self, name: &LockName, holder: &HolderRecord) -> Result<()> {
        let seen = self.opened.look()?;
        let record = HolderRecord { ahead: None, ..holder.clone() };
        self.word = Some(self.opened.write(&seen, holder.token, name.as_str(), &record)?);
        Ok(())
    }

    pub(crate) fn write_free(&self) {
        self.word.iter().for_each(|word| self.opened.write_free(*word));
    }

    pub(crate) fn unlock(&self) {
        self.opened.unlock();
    }
}

/// Whether those that were granted under a greater limit leave no room, although there is one within this limit.
fn is_full(files: &LockFiles, limit: u32) -> Result<bool> {
    let beyond = taken_from(files, limit).try_fold(0, |sum, found| found.map(|_| sum + 1))?;
    if beyond == 0 {
        return Ok(false);
    }
    let mut within =
        taken_from(files, 0).take_while(|found| !matches!(found, Ok(n) if *n >= limit));
    let within = within.try_fold(0, |sum, found| found.map(|_| sum + 1))?;
    Ok(within + beyond >= limit)
}

/// Asks without writing, so that no holder is told that its file was closed.
fn state(path: &Path) -> Result<State> {
    if process::is_held(path) {
        return Ok(State::Taken);
    }
    let refused = |error| failed("looking at", path, &error);
    let file = match open_to_read(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(State::Missing),
        opened => opened.map_err(refused)?,
    };
    match file.try_lock_shared() {
        Ok(()) => file.unlock().map(|()| State::Free).map_err(refused),
        Err(TryLockError::WouldBlock) => Ok(State::Taken),
        Err(TryLockError::Error(error)) => Err(refused(error)),
    }
}

/// The numbers from this one on that are taken, in their order.
fn taken_from(files: &LockFiles, first: u32) -> impl Iterator<Item = Result<u32>> {
    let states = (first..MOST).map(|number| Ok((number, state(&files.seat(number))?)));
    states
        .take_while(|found: &Result<_>| !matches!(found, Ok((_, State::Missing))))
        .filter(|found| !matches!(found, Ok((_, State::Free))))
        .map(|found| found.map(|(number, _)| number))
}

/// Those who hold together, by their numbers; one that has not written its record yet has none.
pub(crate) fn holders(
    files: &LockFiles,
) -> impl Iterator<Item = Result<(u32, Option<HolderRecord>)>> {
    taken_from(files, 0).map(|number| {
        let number = number?;
        let bytes = open_to_read(&files.seat(number)).and_then(|file| read(&file));
        Ok((number, Content::parse(&bytes.unwrap_or_default()).holder().cloned()))
    })
}

/// The first of them.
pub(crate) fn first_holder(files: &LockFiles) -> Option<HolderRecord> {
    holders(files).find_map(|found| found.ok()?.1)
}

/// Whether one is held.
pub(crate) fn is_any_taken(files: &LockFiles) -> bool {
    taken_from(files, 0).next().is_some_and(|found| found.is_ok())
}
