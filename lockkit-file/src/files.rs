//! The files of a name: where they lie, how they are opened, read and written in place.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use lockkit_core::{LockName, Result};
use rustix::fs::OFlags;

use crate::error::{failed, no_file};
use crate::name::{SUFFIX, stem};
use crate::record::{self, Content, HolderRecord, Turn};

/// Where the twins lie: hidden, so that `rm *` spares them.
pub(crate) const TWINS: &str = ".lockkit";
const TWIN_SUFFIX: &str = ".twin";

/// The two files of one name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LockFiles {
    pub(crate) file: PathBuf,
    pub(crate) twin: PathBuf,
}

impl LockFiles {
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

/// One of the two files, open.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: Arc<File>,
    pub(crate) path: PathBuf,
    id: (u64, u64),
    pub(crate) created: bool,
}

impl Opened {
    pub(crate) fn open(path: &Path) -> Result<Self> {
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

    pub(crate) fn read(&self) -> Result<Vec<u8>> {
        read(&self.file).map_err(|error| failed("reading", &self.path, &error))
    }

    /// Refuses a file of a newer layout.
    pub(crate) fn check_layout(&self) -> Result<()> {
        let mut head = [0; record::HEAD_LEN];
        match self.file.read_exact_at(&mut head, 0) {
            // Shorter than a head: it was never granted, or is damaged.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(()),
            Err(error) => Err(failed("reading", &self.path, &error)),
            Ok(()) => record::check_layout(&self.path, &head),
        }
    }

    /// Whose turn is next, if anybody's.
    pub(crate) fn turn(&self) -> Option<Turn> {
        let mut line = [0; record::TURN_LEN];
        self.file.read_exact_at(&mut line, record::TURN as u64).ok()?;
        Turn::parse(&line)
    }

    /// Writes whose turn is next; a file that was never granted is left as it is.
    pub(crate) fn set_turn(&self, turn: Option<Turn>) {
        if self.file.metadata().is_ok_and(|found| found.len() > record::BODY as u64) {
            self.file.write_all_at(record::turn_line(turn).as_bytes(), record::TURN as u64).ok();
        }
    }

    /// Writes the token and its holder in place; a file without a whole token is written again.
    pub(crate) fn write(
        &self,
        old: &[u8],
        token: u64,
        name: &str,
        holder: &HolderRecord,
    ) -> Result<u64> {
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
                let turn = record::turn_line(None);
                let image = [&record::head(), &*slots, &turn, &body].concat();
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

/// No links are followed, and a pipe that stands there does not block.
fn flags() -> i32 {
    (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed()
}

pub(crate) fn open_to_read(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(flags()).open(path)
}

/// Opened before it is created: where strangers may create files, Linux refuses `O_CREAT` on
/// another user's. A new file takes the directory's rights to read and write.
/// Whether the file with this device and inode lies at a path.
pub(crate) fn is_at(path: &Path, id: (u64, u64)) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(found) => Ok((found.dev(), found.ino()) == id),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("looking at", path, &error)),
    }
}

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

pub(crate) fn read(file: &File) -> io::Result<Vec<u8>> {
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
