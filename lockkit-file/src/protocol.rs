//! The protocol: two files for each name, both locked by its holder, what tells of its token synced in one.
//!
//! The twin lies in a directory of its own, so that an admin who deletes the file under its holder
//! frees nothing: the next one locks a new file, finds the twin locked, and waits for the holder,
//! which is told that it has lost. Files are never renamed, replaced or removed by us.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockkit_core::kit::wall_micros;
use lockkit_core::{Error, FencingToken, Kind, LockName, Result};

use crate::error::failed;
use crate::files::{LockFiles, Opened, Seen, create_twins};
use crate::look;
use crate::machine::boot_time;
use crate::process::{self, Claim};
use crate::record::{Ahead, HolderRecord};
use crate::seat::{self, Seat};
use crate::tokens::Known;
use crate::turns::{ROOMS, Turn};

/// Both files of a name, open and not yet locked.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) files: LockFiles,
    /// Open once a shared request has come to it, and locked while an exclusive one waits in it.
    pub(crate) gate: Option<Opened>,
    /// Where in the gate it stands.
    pub(crate) passage: Passage,
    // Closed first, also by the kernel (lower number): who is woken by the file finds both free.
    pub(crate) twin: Opened,
    pub(crate) file: Opened,
    /// What both held when they were read last.
    pub(crate) seen: Option<[Seen; 2]>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Passage {
    Before,
    /// An exclusive request that keeps the gate shut.
    Within,
    /// A shared request that has its file locked.
    Passed,
}

/// How an attempt to lock both files went.
#[derive(Debug)]
pub(crate) enum Attempted {
    Taken(Held),
    /// Another process holds the file, or only its twin.
    Blocked(Candidate, Blocked),
    /// The files were replaced meanwhile: open them again.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    File,
    /// An operator looks at it for a moment, or the file was deleted under its holder.
    Twin,
    /// An exclusive request waits for those who share the name.
    Gate,
    /// Another request's token is being written.
    Door,
}

impl Blocked {
    /// Whether the request has its file locked meanwhile.
    pub(crate) const fn keeps_file(self) -> bool {
        matches!(self, Self::Twin | Self::Door)
    }
}

impl Candidate {
    pub(crate) fn open(files: LockFiles) -> Result<Self> {
        let twin = match Opened::open(&files.twin) {
            Err(_) if files.twin.parent().is_some_and(|twins| !twins.exists()) => {
                let directory = files.file.parent().unwrap_or(Path::new("/"));
                create_twins(directory)
                    .map_err(|error| failed("creating the twins of", directory, &error))?;
                Opened::open(&files.twin)?
            }
            opened => opened?,
        };
        let file = Opened::open(&files.file)?;
        Ok(Self { files, gate: None, passage: Passage::Before, twin, file, seen: None })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.files.file
    }

    /// The device and inode of its file.
    pub(crate) const fn file_id(&self) -> (u64, u64) {
        self.file.id()
    }

    /// Blocks until the file is locked; whether it is.
    pub(crate) fn lock(&self) -> bool {
        self.file.lock()
    }

    /// Whether the file is locked by a program that knows nothing of its twin.
    pub(crate) fn is_held_by_others(&self) -> bool {
        look::is_held(&self.files).is_ok_and(|is_held| !is_held) && !seat::is_any_taken(&self.files)
    }

    /// The turn of the waiter that came first, if one waits that a request of this kind does not hold with.
    pub(crate) fn next_turn(&self, kind: Kind) -> Option<Turn> {
        let turns = [&self.file, &self.twin].into_iter().flat_map(|file| file.line().turns());
        turns.filter(|turn| kind != Kind::Shared || !turn.is_shared()).min()
    }

    /// The holder as the files told when they were read last.
    pub(crate) fn holder(&self) -> Option<&HolderRecord> {
        self.seen.iter().flatten().find_map(|seen| seen.content.holder())
    }

    /// Asks for a turn, unless it has one or there is no room.
    fn ask_for_turn(&self, mine: Turn) {
        let Some(seen) = self.seen.as_ref().filter(|seen| !seen.iter().any(|seen| seen.has(mine)))
        else {
            return;
        };
        let mut rooms = (0..2 * ROOMS).map(|n| (mine.first_room() + n) % (2 * ROOMS));
        let files = [&self.file, &self.twin];
        rooms.any(|n| files[n % 2].take_room(&seen[n % 2], n / 2, mine));
    }

    /// Steps back for an earlier waiter, and asks for a turn.
    pub(crate) fn step_back(&mut self, mine: Turn) -> Result<()> {
        self.look()?;
        self.ask_for_turn(mine);
        Ok(())
    }

    /// Gives its turn back.
    pub(crate) fn leave(&mut self, mine: Turn) {
        if self.look().is_ok()
            && let Some(seen) = &self.seen
        {
            clear_turns([&self.file, &self.twin], seen, |turn| turn == mine);
        }
    }

    /// Before anything is written, be it a grant or a turn: a newer layout is refused.
    pub(crate) fn look(&mut self) -> Result<()> {
        self.seen = Some([self.file.look()?, self.twin.look()?]);
        Ok(())
    }

    /// Unlocks what it may have locked. Closing does it too, but not while a child that was forked
    /// meanwhile, and is about to `exec`, has the files open.
    pub(crate) fn let_go(self) {
        self.gate.iter().for_each(Opened::unlock);
        self.twin.file.unlock().ok();
        self.file.file.unlock().ok();
    }

    /// Tries to lock both; where another holds, a waiter asks for its turn.
    pub(crate) fn attempt(mut self, kind: Kind, waits: Option<Turn>) -> Result<Attempted> {
        if kind == Kind::Shared {
            return self.beside_others(waits);
        }
        let file_locked = self.file.try_lock()?;
        let locked = file_locked && self.twin.try_lock()?;
        // Looked at after locking: what was replaced before is noticed here, later by the lease.
        if !self.file.is_in_place()? || !self.twin.is_in_place()? {
            return Ok(Attempted::Stale);
        }
        self.look()?;
        if !file_locked {
            return Ok(self.blocked(Blocked::File, waits));
        }
        let claim = if locked { Claim::new(&self.files.file) } else { None };
        let Some(claim) = claim else { return Ok(self.blocked(Blocked::Twin, waits)) };
        Ok(self.taken(kind, claim, None, None))
    }

    pub(crate) fn taken(
        self,
        kind: Kind,
        claim: Claim,
        seat: Option<Seat>,
        door: Option<Opened>,
    ) -> Attempted {
        self.gate.iter().for_each(Opened::unlock);
        let Self { files, twin, file, seen, .. } = self;
        let Some(seen) = seen else { return Attempted::Stale };
        Attempted::Taken(Held {
            kind,
            claim: Some(claim),
            seat,
            door,
            twin,
            file,
            files,
            seen,
            words: None,
            is_synced: false,
            pid: std::process::id(),
        })
    }

    pub(crate) fn blocked(self, by: Blocked, waits: Option<Turn>) -> Attempted {
        waits.into_iter().for_each(|mine| self.ask_for_turn(mine));
        Attempted::Blocked(self, by)
    }
}

fn clear_turns(files: [&Opened; 2], seen: &[Seen; 2], is_over: impl Fn(Turn) -> bool) {
    files.into_iter().zip(seen).for_each(|(file, seen)| file.clear_turns(seen, &is_over));
}

/// Both files of a name, locked; dropping it frees the name (C11).
#[derive(Debug)]
pub(crate) struct Held {
    kind: Kind,
    claim: Option<Claim>,
    /// What names one of those who hold together.
    seat: Option<Seat>,
    /// Locked until the token is on the disk, so that those who share the name write one after the other.
    door: Option<Opened>,
    twin: Opened,
    file: Opened,
    files: LockFiles,
    seen: [Seen; 2],
    words: Option<[u64; 2]>,
    /// Whether all that must outlive a crash of the machine is on the disk.
    is_synced: bool,
    pid: u32,
}

impl Held {
    /// Takes the turn of this waiter off the files, and one that its waiter did not use. A turn that is to come is left
    /// from an earlier run of the machine.
    pub(crate) fn end_turns(&self, mine: Turn, unused: Option<Turn>) {
        let now = Turn::latest(boot_time());
        let is_over = |turn| turn == mine || Some(turn) == unused || turn > now;
        clear_turns([&self.file, &self.twin], &self.seen, is_over);
    }

    pub(crate) const fn files(&self) -> &LockFiles {
        &self.files
    }

    /// Says that what had to be synced before the grant is.
    pub(crate) fn synced(&mut self) {
        self.is_synced = true;
        if self.kind != Kind::Exclusive {
            self.write_free();
            self.door.take().iter().for_each(Opened::unlock);
        }
    }

    /// Says in both files that nobody holds alone, and that what they tell is on the disk.
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
        let kind = self.kind;
        let holder = |stamp: Option<u64>| HolderRecord {
            label: label.to_owned(),
            pid: std::process::id(),
            token,
            since: boot_time(),
            ahead: stamp.map(|stamp| Ahead { until, stamp }),
            kind,
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
    fn sync(&self) -> Sync {
        // Its entry in there must last too; a holder before this one has seen to that, unless it died.
        let directory =
            if self.seen[0].content.is_on_disk() { None } else { self.files.file.parent() };
        let (file, path) = (Arc::clone(&self.file.file), self.files.file.clone());
        Sync { file, directory: directory.map(Path::to_owned), path }
    }

    /// Whether both files are where the next one will look for them.
    pub(crate) fn is_in_place(&self) -> Result<bool> {
        Ok(self.file.is_in_place()? && self.twin.is_in_place()?)
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
    let LockFiles { file, twin } = files;
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
