//! The protocol: two files for each name, both locked by its holder, the token synced in one.
//!
//! The twin lies in a directory of its own, so that an admin who deletes the file under its holder
//! frees nothing: the next one locks a new file, finds the twin locked, and waits for the holder,
//! which is told that it has lost. Files are never renamed, replaced or removed by us.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use lockkit_core::{Clock, Error, FencingToken, LockName, Result};
use rustix::fs::OFlags;

use crate::error::{failed, no_file};
use crate::name::{SUFFIX, stem};
use crate::process::{self, Claim};
use crate::record::{self, Content, HolderRecord};

/// Where the twins lie: hidden, so that `rm *` spares them.
pub(crate) const TWINS: &str = ".lockkit";
const TWIN_SUFFIX: &str = ".twin";

/// The two files of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) file: PathBuf,
    pub(crate) twin: PathBuf,
}

impl Place {
    pub(crate) fn of(directory: &Path, name: &LockName) -> Self {
        Self::of_stem(directory, &stem(name))
    }

    pub(crate) fn of_stem(directory: &Path, stem: &str) -> Self {
        Self {
            file: directory.join(format!("{stem}{SUFFIX}")),
            twin: directory.join(TWINS).join(format!("{stem}{TWIN_SUFFIX}")),
        }
    }
}

/// Makes the store's directories where they are missing; the first one's parent must exist.
pub(crate) fn prepare(directory: &Path) -> io::Result<PathBuf> {
    match DirBuilder::new().create(directory) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists && !directory.is_dir() => {
            return Err(error);
        }
        _ => {}
    }
    let directory = fs::canonicalize(directory)?;
    let twins = directory.join(TWINS);
    if !twins.is_dir() {
        create_twins(&directory)?;
    }
    Ok(directory)
}

/// The twins' directory takes the rights of the store's, whatever the umask.
fn create_twins(directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(directory)?.mode() & 0o7777;
    let twins = directory.join(TWINS);
    match DirBuilder::new().mode(mode).create(&twins) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            // Best effort: some file systems have no rights to set.
            fs::set_permissions(&twins, Permissions::from_mode(mode)).ok();
            Ok(())
        }
    }
}

/// One of the two files, open.
#[derive(Debug)]
struct Opened {
    file: Arc<File>,
    path: PathBuf,
    id: (u64, u64),
    created: bool,
}

impl Opened {
    fn open(path: &Path) -> Result<Self> {
        let (file, created) =
            open_or_create(path).map_err(|error| failed("opening", path, &error))?;
        let metadata = file.metadata().map_err(|error| failed("opening", path, &error))?;
        if !metadata.is_file() {
            return Err(no_file(path));
        }
        let id = (metadata.dev(), metadata.ino());
        Ok(Self { file: Arc::new(file), path: path.to_owned(), id, created })
    }

    /// Whether the path still leads to this file.
    fn is_in_place(&self) -> Result<bool> {
        match fs::symlink_metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == self.id),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(failed("looking at", &self.path, &error)),
        }
    }

    fn try_lock(&self) -> Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(failed("locking", &self.path, &error)),
        }
    }

    fn read(&self) -> Result<Vec<u8>> {
        read(&self.file).map_err(|error| failed("reading", &self.path, &error))
    }

    /// Writes the token and its holder in place; a file without a whole token is written anew.
    fn write(&self, old: &[u8], token: u64, name: &str, holder: &HolderRecord) -> Result<u64> {
        let content = Content::parse(old);
        let (body, word) = record::body(name, holder);
        let written = match content.last() {
            Some(_) => {
                let (offset, slot) = record::slot(content.next_slot(), token);
                self.file
                    .write_all_at(slot.as_bytes(), offset)
                    .and_then(|()| self.file.write_all_at(body.as_bytes(), record::BODY as u64))
            }
            None => {
                let slots = [0, 1].map(|index| record::slot(index, token).1).concat();
                let image = [&record::head(), &*slots, &body].concat();
                let written = self.file.write_all_at(image.as_bytes(), 0);
                if written.is_err() {
                    // Half an image would look like a damaged file.
                    self.file.set_len(0).ok();
                }
                written
            }
        };
        let len = record::BODY + body.len();
        written
            .and_then(|()| if old.len() > len { self.file.set_len(len as u64) } else { Ok(()) })
            .map_err(|error| failed("writing", &self.path, &error))?;
        Ok(word)
    }
}

/// Both files of a name, open and not yet locked.
#[derive(Debug)]
pub(crate) struct Candidate {
    place: Place,
    // Closed first, also by the kernel (lower number): who is woken by the file finds both free.
    twin: Opened,
    file: Opened,
}

/// How an attempt to lock both files went.
#[derive(Debug)]
pub(crate) enum Attempted {
    Taken(Held),
    /// Somebody else holds the file, or only its twin.
    Blocked(Candidate, Blocked),
    /// The files were replaced meanwhile: open them anew.
    Stale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blocked {
    File,
    /// An operator looks at it for a moment, or the file was deleted under its holder.
    Twin,
}

impl Candidate {
    pub(crate) fn open(place: Place) -> Result<Self> {
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

    pub(crate) fn attempt(self) -> Result<Attempted> {
        let file_locked = self.file.try_lock()?;
        let locked = file_locked && self.twin.try_lock()?;
        // Looked at after locking: what was replaced before is noticed here, later by the lease.
        if !self.file.is_in_place()? || !self.twin.is_in_place()? {
            return Ok(Attempted::Stale);
        }
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
    place: Place,
    words: Option<[u64; 2]>,
    pid: u32,
}

impl Held {
    pub(crate) const fn place(&self) -> &Place {
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
            return Err(Error::rejected(
                format!(
                    "{} as the file of {name:?}: it belongs to {other:?}",
                    self.file.path.display()
                ),
                "remove the file: it was copied or renamed",
            ));
        }
        let damaged = contents.iter().any(|content| content.written && content.last().is_none());
        let known = contents.iter().filter_map(Content::last).max();
        let last = known.max(process::last_token(&self.place.file));
        if damaged && last.is_none() {
            return Err(self.unreadable(name));
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
        let all =
            self.file.created || self.twin.created || contents.iter().any(|c| c.last().is_none());
        let mut files = vec![Arc::clone(&self.file.file)];
        let mut directories = Vec::new();
        if all {
            files.push(Arc::clone(&self.twin.file));
            directories.extend(
                [&self.place.file, &self.place.twin].map(|path| path.parent().map(Path::to_owned)),
            );
        }
        let directories = directories.into_iter().flatten().collect();
        Ok((token, Sync { files, directories, path: self.place.file.clone() }))
    }

    /// Whether both files are where the next one will look for them.
    pub(crate) fn is_in_place(&self) -> Result<bool> {
        Ok(self.file.is_in_place()? && self.twin.is_in_place()?)
    }

    fn unreadable(&self, name: &LockName) -> Error {
        let Place { file, twin } = &self.place;
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
    files: Vec<Arc<File>>,
    directories: Vec<PathBuf>,
    path: PathBuf,
}

impl Sync {
    /// Blocks until it has: about 0.1 ms on a fast disk, tens of milliseconds on a slow one.
    pub(crate) fn run(&self) -> Result<()> {
        let synced = self.files.iter().try_for_each(|file| file.sync_data()).and_then(|()| {
            self.directories.iter().try_for_each(|directory| File::open(directory)?.sync_all())
        });
        synced.map_err(|error| failed("syncing", &self.path, &error))
    }
}

/// The holder that the files name, whether or not it still holds.
pub(crate) fn last_holder(place: &Place) -> Option<HolderRecord> {
    let read = |path: &Path| Content::parse(&read(&open_to_read(path).ok()?).ok()?).holder;
    read(&place.file).or_else(|| read(&place.twin))
}

/// The name written in a file, for a stem that does not tell it.
pub(crate) fn written_name(place: &Place) -> Option<String> {
    Content::parse(&read(&open_to_read(&place.file).ok()?).ok()?).name
}

/// Whether the name is held: asks the twin, so that no attempt on the file itself ever fails for it.
pub(crate) fn is_held(place: &Place) -> io::Result<bool> {
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
fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// No links are followed, and a pipe that stands there does not block.
fn flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags()).open(path)
}

/// Opened before it is created: where strangers may create files, Linux refuses `O_CREAT` on
/// another user's. A new file takes the directory's rights to read and write.
fn open_or_create(path: &Path) -> io::Result<(File, bool)> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags());
    for _ in 0..3 {
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened.map(|file| (file, false)),
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mode = fs::metadata(directory)?.mode() & 0o666;
        match options.clone().create_new(true).mode(mode).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                file.set_permissions(Permissions::from_mode(mode)).ok();
                return Ok((file, true));
            }
        }
    }
    Err(io::Error::other("it is created and removed again all the time"))
}

fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; record::LONGEST];
    let mut len = 0;
    loop {
        match file.read_at(&mut bytes[len..], len as u64) {
            Ok(0) => break,
            Ok(more) => len += more,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    bytes.truncate(len);
    Ok(bytes)
}
