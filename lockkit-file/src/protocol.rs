//! The protocol: two files for each name, both locked by its holder, what tells of its token synced in one.
//!
//! The twin lies in a directory of its own, so that an admin who deletes the file under its holder
//! frees nothing: the next one locks a new file, finds the twin locked, and waits for the holder,
//! which is told that it has lost. Files are never renamed, replaced or removed by us.

use std::path::Path;

use lockkit_core::{Kind, Request, Result};

use crate::error::failed;
use crate::files::{LockFiles, Opened, Seen, clear_turns, create_twins};
use crate::held::Held;
use crate::look;
use crate::process::Claim;
use crate::record::HolderRecord;
use crate::seat::{self, Seat};
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
    /// The same, where the request has nothing locked.
    Busy,
    /// As many permits are held as may be.
    Full,
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
    pub(crate) fn attempt(mut self, request: &Request, waits: Option<Turn>) -> Result<Attempted> {
        match request.kind() {
            Kind::Shared => return self.beside_others(waits),
            Kind::Counted => return self.within_limit(request, waits),
            _ => {}
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
        Ok(self.taken(Kind::Exclusive, claim, None))
    }

    pub(crate) fn taken(self, kind: Kind, claim: Claim, seat: Option<Seat>) -> Attempted {
        self.gate.iter().for_each(Opened::unlock);
        let Self { files, twin, file, seen, .. } = self;
        let Some(seen) = seen else { return Attempted::Stale };
        Attempted::Taken(Held {
            kind,
            claim: Some(claim),
            seat,
            door: None,
            limit: None,
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
