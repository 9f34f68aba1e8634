//! What a holder has locked, how its token is written, and how it lets go.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockkit_core::kit::wall_micros;
use lockkit_core::{Error, FencingToken, Kind, LockName, Result};

use crate::error::failed;
use crate::files::{LockFiles, Opened, Seen, clear_turns};
use crate::machine::boot_time;
use crate::process::{self, Claim};
use crate::record::{Ahead, HolderRecord};
use crate::seat::Seat;
use crate::tokens::Known;
use crate::turns::Turn;

/// Both files of a name, locked; dropping it frees the name (C11).
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) kind: Kind,
    pub(crate) claim: Option<Claim>,
    /// What names one of those who hold together.
    pub(crate) seat: Option<Seat>,
    /// Locked until the token is on the disk, so that those who share the name write one after the other.
    pub(crate) door: Option<Opened>,
    /// The limit of the semaphore, to be noted with the token.
    pub(crate) limit: Option<u32>,
    pub(crate) twin: Opened,
    pub(crate) file: Opened,
    pub(crate) files: LockFiles,
    pub(crate) seen: [Seen; 2],
    pub(crate) words: Option<[u64; 2]>,
    /// Whether all that must outlive a crash of the machine is on the disk.
    pub(crate) is_synced: bool,
    pub(crate) pid: u32,
}

impl Held {
    /// Takes the turn of this waiter off the files, and one that its waiter did not use. A turn that is to come is left
    /// from an earlier run of the machine.
    pub(crate) fn end_turns(&self, mine: Turn, unused: Option<Turn>) {
        let now = Turn::latest(boot_time());
        let is_over = |turn| turn == mine || Some(turn) == unused || turn > now;
        clear_turns([&self.file, &self.twin], &self.seen, is_over);
    }

    /// The file that it holds by.
    pub(crate) fn path(&self) -> &Path {
        match &self.seat {
            Some(seat) if self.kind == Kind::Counted => seat.path(),
            _ => &self.files.file,
        }
    }

    /// Says that what had to be synced before the grant is.
    pub(crate) fn synced(&mut self) {
        self.is_synced = true;
        match self.kind {
            Kind::Shared => {
                self.write_free();
                self.door.take().iter().for_each(Opened::unlock);
            }
            Kind::Counted => self.leaves(),
            _ => {}
        }
    }

    /// Lets others take permits; its own is held by its seat.
    fn leaves(&mut self) {
        self.write_free();
        self.claim = None;
        self.twin.unlock();
        self.file.unlock();
        // Closed, which tells the waiters of all processes that they may try, and open again: its next close tells them
        // that this permit is free, also by a kill, since its number is higher than that of the seat.
        if let Some(again) = self.file.once_more() {
            self.file = again;
        }
    }

    /// The number of its permit.
    pub(crate) fn number(&self) -> Option<u32> {
        self.seat.as_ref().filter(|_| self.kind == Kind::Counted).map(Seat::number)
    }

    /// Says in both files that no request holds the name alone, and that what they tell is on the disk.
    fn write_free(&mut self) {
        let [file, twin] = self.words.take().unwrap_or_default();
        for (opened, word) in [(&self.file, file), (&self.twin, twin)] {
            if word != 0 {
                opened.write_free(word);
            }
        }
    }

    /// Writes the next token and its holder, and answers what must be synced before the grant, if anything.
    ///
    /// `boot` names this run of the machine, where the file system loses nothing as long as it lasts.
    pub(crate) fn write(
        &mut self,
        name: &LockName,
        base: u64,
        boot: Option<&str>,
        label: &str,
    ) -> Result<(FencingToken, Option<Sync>)> {
        let [file, twin] = &self.seen;
        if let Some(other) = file.content.name.as_ref().filter(|other| *other != name.as_str()) {
            return Err(misplaced(&self.file.path, name.as_str(), other));
        }
        let stamps = [self.file.stamp(boot), self.twin.stamp(boot)];
        let known = self.known(name, stamps)?;
        let floor = base.saturating_add(wall_micros());
        let next = known.next(floor).ok_or_else(|| {
            Error::rejected(
                format!(
                    "one more grant of {name:?}: its last token is {}",
                    known.last.unwrap_or(floor)
                ),
                "lower token_base, or use another name",
            )
        })?;
        let (token, until) = (next.token.as_u64(), next.until);
        let (kind, permits) = (self.kind, self.limit);
        let holder = |stamp: Option<u64>| HolderRecord {
            label: label.to_owned(),
            pid: std::process::id(),
            token,
            since: boot_time(),
            ahead: stamp.map(|stamp| Ahead { until, stamp }),
            kind,
            permits,
        };
        let [of_file, of_twin] = stamps.map(holder);
        if let Some(seat) = &mut self.seat {
            seat.write(name, &of_file)?;
        }
        let file_word = self.file.write(file, until, name.as_str(), &of_file)?;
        self.words = Some([file_word, 0]);
        let twin_word = self.twin.write(twin, until, name.as_str(), &of_twin)?;
        self.words = Some([file_word, twin_word]);
        process::remember_token(&self.files.file, token);
        self.is_synced = next.is_synced;
        Ok((next.token, (!next.is_synced).then(|| self.sync())))
    }

    /// What both files and this process tell of the last token.
    fn known(&self, name: &LockName, stamps: [Option<u64>; 2]) -> Result<Known> {
        let contents = self.seen.each_ref().map(|seen| &seen.content);
        let told =
            contents.iter().zip(stamps).filter_map(|(content, stamp)| content.last(stamp)).max();
        let last = told.max(process::last_token(&self.files.file));
        if contents.iter().any(|content| content.is_damaged()) {
            if last.is_none() {
                return Err(unreadable(&self.files, name.as_str()));
            }
            tracing::warn!(
                target: "lockkit", event = "token_restored", name = %name,
                file = %self.files.file.display(), token = last,
                "a file of this lock is damaged: its token comes from the other copy",
            );
        }
        let ahead = contents[0].ahead(stamps[0]).map(|ahead| ahead.until);
        let slot = contents.iter().filter_map(|content| content.slot()).max();
        Ok(Known { last, slot, ahead, may_be_ahead: stamps[0].is_some() })
    }

    /// The twin need not reach the disk: it is for a file that was deleted, not for a crash.
    pub(crate) fn sync(&self) -> Sync {
        // Its entry in there must last too; a holder before this one has seen to that, unless it died.
        let directory =
            if self.seen[0].content.is_on_disk() { None } else { self.files.file.parent() };
        let (file, path) = (Arc::clone(&self.file.file), self.files.file.clone());
        Sync { file, directory: directory.map(Path::to_owned), path }
    }

    /// Whether its files are where the next one will look for them.
    pub(crate) fn is_in_place(&self) -> Result<bool> {
        match &self.seat {
            Some(seat) if self.kind == Kind::Counted => seat.is_in_place(),
            _ => Ok(self.file.is_in_place()? && self.twin.is_in_place()?),
        }
    }
}

/// The refusal of a file that another name has written.
pub(crate) fn misplaced(path: &Path, name: &str, other: &str) -> Error {
    Error::rejected(
        format!("{} as the file of {name:?}: it belongs to {other:?}", path.display()),
        "remove the file: it was copied or renamed",
    )
}

/// The refusal of files of which neither has a whole token.
pub(crate) fn unreadable(files: &LockFiles, name: &str) -> Error {
    let LockFiles { file, twin, .. } = files;
    Error::rejected(
        format!(
            "a grant of {name:?}: no copy of its last token can be read, in {} or {}",
            file.display(),
            twin.display(),
        ),
        format!(
            "check that the clock is right, then remove both files: tokens go on from the wall \
             clock in microseconds, now {}; set token_base if the resource has seen greater ones",
            wall_micros(),
        ),
    )
}

impl Drop for Held {
    fn drop(&mut self) {
        // A forked child shares the lock: what it drops is its copy, and its parent still holds.
        if std::process::id() != self.pid {
            return;
        }
        // A write would wait for a sync that is under way, and the name with it: then the files are left as those of a
        // holder that was killed.
        if self.is_synced {
            self.write_free();
            self.seat.iter().for_each(Seat::write_free);
        }
        self.claim = None;
        // Unlocked although closing does it: a sync under way or a forked child may keep the
        // files open. The close that follows is the event that waiters wait for.
        self.seat.iter().for_each(Seat::unlock);
        self.door.iter().for_each(Opened::unlock);
        self.twin.file.unlock().ok();
        self.file.file.unlock().ok();
    }
}

/// What must reach the disk before a grant.
#[derive(Debug)]
pub(crate) struct Sync {
    file: Arc<File>,
    directory: Option<PathBuf>,
    path: PathBuf,
}

impl Sync {
    /// Blocks until it has: about 0.1 ms on a fast disk, tens of milliseconds on a slow one.
    pub(crate) fn run(&self) -> Result<()> {
        let synced = self.file.sync_data().and_then(|()| match &self.directory {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        });
        synced.map_err(|error| failed("syncing", &self.path, &error))
    }
}
