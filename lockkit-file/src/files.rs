//! The files of a name: where they lie, how they are opened, read and written in place.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockkit_core::{Family, LockName, Result};
use rustix::fs::OFlags;

use crate::error::{failed, no_file};
use crate::name::{SEMAPHORE, SUFFIX, stem};
use crate::record::{self, Content, HolderRecord};
use crate::turns::{LINE_LEN, Line, Turn, empty_line};

/// Where the twins lie: hidden, so that `rm *` spares them.
pub(crate) const TWINS: &str = ".lockkit";
const TWIN_SUFFIX: &str = ".twin";

/// The two files of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockFiles {
    pub(crate) family: Family,
    pub(crate) file: PathBuf,
    pub(crate) twin: PathBuf,
}

impl LockFiles {
    pub(crate) fn of(directory: &Path, name: &LockName) -> Self {
        Self::of_stem(directory, name.family(), &stem(name))
    }

    pub(crate) fn of_stem(directory: &Path, family: Family, stem: &str) -> Self {
        let [suffix, twin_suffix] = match family {
            Family::Semaphore => [SEMAPHORE, SEMAPHORE],
            _ => [SUFFIX, TWIN_SUFFIX],
        };
        Self {
            family,
            file: directory.join(format!("{stem}{suffix}")),
            twin: directory.join(TWINS).join(format!("{stem}{twin_suffix}")),
        }
    }
}

impl LockFiles {
    /// Which shared requests pass through, and an exclusive one waits in: so it waits for those alone that hold.
    pub(crate) fn gate(&self) -> PathBuf {
        self.twin.with_extension("gate")
    }

    /// Locked by the shared request whose token is being written.
    pub(crate) fn door(&self) -> PathBuf {
        self.twin.with_extension("door")
    }

    /// The file of one of those who hold together.
    pub(crate) fn seat(&self, number: u32) -> PathBuf {
        let what = if self.family == Family::Semaphore { "permit" } else { "share" };
        self.twin.with_extension(format!("{what}-{number}"))
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
pub(crate) fn create_twins(directory: &Path) -> io::Result<()> {
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

/// What one of the two files held when it was read.
#[derive(Debug)]
pub(crate) struct Seen {
    len: usize,
    pub(crate) content: Content,
    line: Line,
}

/// One of the two files, open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
    id: (u64, u64),
}

impl Seen {
    pub(crate) fn has(&self, turn: Turn) -> bool {
        self.line.turns().any(|found| found == turn)
    }
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = open_or_create(path).map_err(|error| failed("opening", path, &error))?;
        let metadata = file.metadata().map_err(|error| failed("opening", path, &error))?;
        if !metadata.is_file() {
            return Err(no_file(path));
        }
        let id = (metadata.dev(), metadata.ino());
        Ok(Self { file: Arc::new(file), path: path.to_owned(), id })
    }

    /// The same file, opened once more; `None`: another one lies there.
    pub(crate) fn once_more(&self) -> Option<Self> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).custom_flags(flags()).open(&self.path).ok()?;
        let metadata = file.metadata().ok()?;
        let is_it = (metadata.dev(), metadata.ino()) == self.id;
        is_it.then(|| Self { file: Arc::new(file), path: self.path.clone(), id: self.id })
    }

    /// Whether the path still leads to this file.
    pub(crate) fn is_in_place(&self) -> Result<bool> {
        is_at(&self.path, self.id)
    }

    /// Its device and inode.
    pub(crate) const fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Blocks until it is locked; whether it is.
    pub(crate) fn lock(&self) -> bool {
        loop {
            match self.file.lock() {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome.is_ok(),
            }
        }
    }

    pub(crate) fn try_lock(&self) -> Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(failed("locking", &self.path, &error)),
        }
    }

    pub(crate) fn try_lock_shared(&self) -> Result<bool> {
        match self.file.try_lock_shared() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(failed("locking", &self.path, &error)),
        }
    }

    /// Closing does it too, but not while a sync or a forked child has the file open.
    pub(crate) fn unlock(&self) {
        self.file.unlock().ok();
    }

    /// Writes that its holder has left, where its record says that it holds.
    pub(crate) fn write_free(&self, word: u64) {
        self.file.write_all_at(record::FREE.as_bytes(), word).ok();
    }

    /// Reads it; refuses a file of a newer layout.
    pub(crate) fn look(&self) -> Result<Seen> {
        let bytes = read(&self.file).map_err(|error| failed("reading", &self.path, &error))?;
        record::check_layout(&self.path, &bytes)?;
        let line = Line::parse(bytes.get(record::TURNS..record::BODY).unwrap_or_default());
        Ok(Seen { len: bytes.len(), content: Content::parse(&bytes), line })
    }

    /// What tells it, in this run of the machine, from others.
    pub(crate) fn stamp(&self, boot: Option<&str>) -> Option<u64> {
        boot.map(|boot| record::stamp(boot, self.id))
    }

    /// The turns that stand in it.
    pub(crate) fn line(&self) -> Line {
        let mut line = [0; LINE_LEN];
        let read = self.file.read_exact_at(&mut line, record::TURNS as u64);
        Line::parse(if read.is_ok() { &line } else { &[] })
    }

    /// Takes this room for a turn, if that is empty; a file that was never granted is left as it is.
    pub(crate) fn take_room(&self, seen: &Seen, number: usize, turn: Turn) -> bool {
        let room = if seen.len > record::BODY { seen.line.take(number, turn) } else { None };
        room.is_some_and(|room| self.write_turn(&room))
    }

    /// Takes the turns off that are over.
    pub(crate) fn clear_turns(&self, seen: &Seen, is_over: impl Fn(Turn) -> bool) {
        for room in seen.line.clear(is_over) {
            self.write_turn(&room);
        }
    }

    fn write_turn(&self, (offset, text): &(usize, String)) -> bool {
        self.file.write_all_at(text.as_bytes(), (record::TURNS + offset) as u64).is_ok()
    }

    /// Writes its holder in place, and a slot that tells up to `until`, unless it does; a file without a whole
    /// slot is written again. Where the word before the holder stands.
    pub(crate) fn write(
        &self,
        seen: &Seen,
        until: u64,
        name: &str,
        holder: &HolderRecord,
    ) -> Result<u64> {
        let (body, word) = record::body(name, holder);
        let written = match seen.content.slot() {
            Some(slot) => {
                let write_slot = || {
                    let (offset, slot) = record::slot(seen.content.next_slot(), until);
                    self.file.write_all_at(slot.as_bytes(), offset)
                };
                // A slot that was torn is mended.
                let is_whole = slot == until && !seen.content.slots.contains(&None);
                let written = if is_whole { Ok(()) } else { write_slot() };
                written.and_then(|()| self.file.write_all_at(body.as_bytes(), record::BODY as u64))
            }
            None => {
                let slots = [0, 1].map(|index| record::slot(index, until).1).concat();
                let image = [&record::head(), &*slots, &empty_line(), &body].concat();
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
            .and_then(|()| if seen.len > len { self.file.set_len(len as u64) } else { Ok(()) })
            .map_err(|error| failed("writing", &self.path, &error))?;
        Ok(word)
    }
}

/// No links are followed, and a pipe that stands there does not block.
fn flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags()).open(path)
}

/// Whether the file with this device and inode lies at a path.
pub(crate) fn is_at(path: &Path, id: (u64, u64)) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == id),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("looking at", path, &error)),
    }
}

/// Opened before it is created: where strangers may create files, Linux refuses `O_CREAT` on
/// another user's. A new file takes the directory's rights to read and write.
fn open_or_create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(flags());
    for _ in 0..3 {
        match options.open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            opened => return opened,
        }
        let directory = path.parent().unwrap_or(Path::new("/"));
        let mode = fs::metadata(directory)?.mode() & 0o666;
        match options.clone().create_new(true).mode(mode).open(path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
            Ok(file) => {
                file.set_permissions(Permissions::from_mode(mode)).ok();
                return Ok(file);
            }
        }
    }
    Err(io::Error::other("it is created and removed again all the time"))
}

pub(crate) fn read(file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; record::LONGEST];
    // Of a plain file less than was asked for is all that there is.
    let len = loop {
        match file.read_at(&mut bytes, 0) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => break read?,
        }
    };
    bytes.truncate(len);
    Ok(bytes)
}

/// Takes the turns off both files that are over.
pub(crate) fn clear_turns(files: [&Opened; 2], seen: &[Seen; 2], is_over: impl Fn(Turn) -> bool) {
    files.into_iter().zip(seen).for_each(|(file, seen)| file.clear_turns(seen, &is_over));
}
