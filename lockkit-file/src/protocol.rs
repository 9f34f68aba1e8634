//! The protocol: two files for each name, both locked by its holder, the token synced in one.
//!
//! The twin lies in a directory of its own, so that an admin who deletes the file under its holder
//! frees nothing: the next one locks a new file, finds the twin locked, and waits for the holder,
//! which is told that it has lost. Files are never renamed, replaced or removed by us.

use std::fs::{File, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lockkit_core::{Clock, Error, FencingToken, LockName, Result};

use crate::error::failed;
use crate::files::{LockFiles, Opened, create_twins, open_to_read, read};
use crate::process::{self, Claim};
use crate::record::{self, Content, HolderRecord, Turn};

/// Both files of a name, open and not yet locked.
#[derive(Debug)]
pub(crate) struct Candidate {
    place: LockFiles,
    // Closed first, also by the kernel (lower number): who is woken by the file finds both free.
    twin: Opened,
    file: Opened,
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
}

impl Candidate {
    pub(crate) fn open(place: LockFiles) -> Result<Self> {
        let twin = match Opened::open(&place.twin) {
            Err(_) if place.twin.parent().is_some_and(|twins| !twins.exists()) => {
                let directory = place.file.parent().unwrap_or(Path::new("/"));
                create_twins(directory)
                    .map_err(|error| failed("creating the twins of", directory, &error))?;
                Opened::open(&place.twin)?
            }
            opened => opened?,
        };
        let file = Opened::open(&place.file)?;
        Ok(Self { place, twin, file })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.place.file
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
        is_held(&self.place).is_ok_and(|is_held| !is_held)
    }

    /// Whose turn is next, if anybody waits.
    pub(crate) fn turn(&self) -> Option<Turn> {
        self.file.turn()
    }

    /// Asks for the next turn, unless it is that of a waiter that came earlier.
    pub(crate) fn ask_for_turn(&self, mine: Turn) {
        if self.turn().is_none_or(|next| mine < next) {
            self.file.set_turn(Some(mine));
        }
    }

    /// Unlocks what it may have locked. Closing does it too, but not while a child that was forked
    /// meanwhile, and is about to `exec`, has the files open.
    pub(crate) fn let_go(self) {
        self.twin.file.unlock().ok();
        self.file.file.unlock().ok();
    }

    pub(crate) fn attempt(self) -> Result<Attempted> {
        let file_locked = self.file.try_lock()?;
        let locked = file_locked && self.twin.try_lock()?;
        // Looked at after locking: what was replaced before is noticed here, later by the lease.
        if !self.file.is_in_place()? || !self.twin.is_in_place()? {
            return Ok(Attempted::Stale);
        }
        // Before anything is written, be it a grant or a turn.
        self.file.check_layout()?;
        self.twin.check_layout()?;
        if !file_locked {
            return Ok(Attempted::Blocked(self, Blocked::File));
        }
        let claim = if locked { Claim::new(&self.place.file) } else { None };
        Ok(match claim {
            Some(claim) => {
                let Self { place, twin, file } = self;
                let pid = std::process::id();
                Attempted::Taken(Held { claim: Some(claim), twin, file, place, words: None, pid })
            }
            None => Attempted::Blocked(self, Blocked::Twin),
        })
    }
}

/// Both files of a name, locked; dropping it frees the name (C11).
#[derive(Debug)]
pub(crate) struct Held {
    claim: Option<Claim>,
    twin: Opened,
    file: Opened,
    place: LockFiles,
    words: Option<[u64; 2]>,
    pid: u32,
}

impl Held {
    /// Takes the turn of this waiter off the file, or that of one who did not use it.
    pub(crate) fn end_turn(&self, turn: Turn) {
        if self.file.turn() == Some(turn) {
            self.file.set_turn(None);
        }
    }

    pub(crate) const fn place(&self) -> &LockFiles {
        &self.place
    }

    /// Writes the next token and its holder, and answers what must be synced before the grant.
    ///
    /// The token is the last one + 1 or the wall clock in microseconds above `base`, whichever is
    /// more: so it grows by the files, and also without them while the clock is not set back.
    pub(crate) fn write(
        &mut self,
        name: &LockName,
        base: u64,
        label: &str,
    ) -> Result<(FencingToken, Sync)> {
        let old = [self.file.read()?, self.twin.read()?];
        let contents = [Content::parse(&old[0]), Content::parse(&old[1])];
        if let Some(other) = contents[0].name.as_ref().filter(|other| *other != name.as_str()) {
            return Err(misplaced(&self.file.path, name.as_str(), other));
        }
        let damaged = contents.iter().any(Content::is_damaged);
        let known = contents.iter().filter_map(Content::last).max();
        let last = known.max(process::last_token(&self.place.file));
        if damaged && last.is_none() {
            return Err(unreadable(&self.place, name.as_str()));
        }
        if damaged {
            tracing::warn!(
                target: "lockkit", event = "token_restored", name = %name,
                file = %self.place.file.display(), token = last,
                "a file of this lock is damaged: its token comes from the other copy",
            );
        }
        let next = last.unwrap_or(0).saturating_add(1).max(base.saturating_add(wall_micros()));
        let token = FencingToken::new(next).map_err(|_| {
            Error::rejected(
                format!("one more grant of {name:?}: its last token is {}", last.unwrap_or(next)),
                "lower token_base, or use another name",
            )
        })?;
        let holder = HolderRecord {
            label: label.to_owned(),
            pid: std::process::id(),
            token: next,
            since: boot_time(),
        };
        let file = self.file.write(&old[0], next, name.as_str(), &holder)?;
        self.words = Some([file, 0]);
        let twin = self.twin.write(&old[1], next, name.as_str(), &holder)?;
        self.words = Some([file, twin]);
        process::remember_token(&self.place.file, next);
        // The twin need not reach the disk: it is for a file that was deleted, not for a crash.
        let directory = if self.file.created { self.place.file.parent() } else { None };
        let (file, path) = (Arc::clone(&self.file.file), self.place.file.clone());
        Ok((token, Sync { file, directory: directory.map(Path::to_owned), path }))
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
pub(crate) fn unreadable(place: &LockFiles, name: &str) -> Error {
    let LockFiles { file, twin } = place;
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
        if let Some([file, twin]) = self.words {
            for (opened, word) in [(&self.file, file), (&self.twin, twin)] {
                if word != 0 {
                    opened.file.write_all_at(record::FREE.as_bytes(), word).ok();
                }
            }
        }
        self.claim = None;
        // Unlocked although closing does it: a sync under way or a forked child may keep the
        // files open. The close that follows is the event that waiters wait for.
        self.twin.file.unlock().ok();
        self.file.file.unlock().ok();
    }
}

/// What must reach the disk before a grant.
#[derive(Debug)]
pub(crate) struct Sync {
    file: Arc<File>,
    /// That of a new file: its entry there must last too.
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

/// What can be read of both files; those that are not there are empty.
pub(crate) fn contents(place: &LockFiles) -> io::Result<[Content; 2]> {
    let content = |path: &Path| match open_to_read(path).and_then(|file| read(&file)) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Content::default()),
        bytes => bytes.map(|bytes| Content::parse(&bytes)),
    };
    Ok([content(&place.file)?, content(&place.twin)?])
}

/// Refuses files of a newer layout; those that cannot be read say nothing.
pub(crate) fn check_layout(place: &LockFiles) -> Result<()> {
    [&place.file, &place.twin].into_iter().try_for_each(|path| {
        let bytes = open_to_read(path).and_then(|file| read(&file)).unwrap_or_default();
        record::check_layout(path, &bytes)
    })
}

/// The holder that the files name, whether or not it still holds.
pub(crate) fn last_holder(place: &LockFiles) -> Option<HolderRecord> {
    let read = |path: &Path| Content::parse(&read(&open_to_read(path).ok()?).ok()?).holder;
    read(&place.file).or_else(|| read(&place.twin))
}

/// The name written in a file, for a stem that does not tell it.
pub(crate) fn written_name(place: &LockFiles) -> Option<String> {
    Content::parse(&read(&open_to_read(&place.file).ok()?).ok()?).name
}

/// Whether the name is held: asks the twin, so that no attempt on the file itself ever fails for it.
pub(crate) fn is_held(place: &LockFiles) -> io::Result<bool> {
    let opened = match open_to_read(&place.twin) {
        Err(error) if error.kind() == ErrorKind::NotFound => open_to_read(&place.file),
        opened => opened,
    };
    match opened {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
        Ok(file) => match file.try_lock_shared() {
            Ok(()) => file.unlock().map(|()| false),
            Err(TryLockError::WouldBlock) => Ok(true),
            Err(TryLockError::Error(error)) => Err(error),
        },
    }
}

/// The time since boot: one clock for all processes of the machine.
pub(crate) fn boot_time() -> std::time::Duration {
    Clock::system().now().since_origin()
}

#[allow(clippy::disallowed_methods)] // a token starts from the wall clock; no deadline does
pub(crate) fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
