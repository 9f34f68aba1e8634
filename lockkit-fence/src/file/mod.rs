//! Files under a fence beside them, on Unix: written in whole by write and rename.
//!
//! ```
//! # #[cfg(unix)]
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use lockkit_fence::FencingToken;
//! use lockkit_fence::file::FencedFile;
//!
//! let directory = tempfile::tempdir()?;
//! let (old, new) = (FencingToken::new(33)?, FencingToken::new(34)?);
//! let state = FencedFile::new(directory.path().join("state.json"))?;
//! state.write(old, b"{}")?;
//! assert_eq!(state.read(new)?.as_deref(), Some(b"{}".as_slice())); // raises the fence first
//! assert!(state.write(old, b"late").is_err());
//! # Ok(()) }
//! # #[cfg(not(unix))]
//! # fn main() {}
//! ```
//!
//! Beside `state.json` stand `state.json.fence`, the newest tokens as text, and `state.json.fence-lock`, which is locked (`flock`) for each access.
//! All calls block until the disk has what they wrote: from a runtime, call them in `spawn_blocking`.

mod record;

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::future::{Future, ready};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::{Access, Error, Fencing, Result};
use record::Record;

/// A file that only the newest holder may write; its fence survives restarts of programs and of the machine.
#[derive(Clone, Debug)]
pub struct FencedFile {
    path: PathBuf,
}

impl FencedFile {
    /// The file at this path, which need not exist; its directory must.
    ///
    /// # Errors
    /// `Invalid`: the path names no file.
    pub fn new(path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        if path.file_name().is_none() || path.is_dir() {
            return Err(Error::invalid(
                format!("{} names no file", path.display()),
                "name a file in a directory",
            ));
        }
        Ok(Self { path })
    }

    /// Raises the fence, before the new holder reads. Upholds C14.
    ///
    /// # Errors
    /// `Stale`: a newer token has been seen; nothing is written. `Invalid`: what stands in the fence's file is no fence. `Unavailable`: the disk, or
    /// a missing directory.
    pub fn raise(&self, access: impl Into<Access>) -> Result<()> {
        self.under(access.into(), |_| Ok(()))
    }

    /// Whether this access is not stale; remembers nothing.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    pub fn check(&self, access: impl Into<Access>) -> Result<()> {
        let _locked = self.locked()?;
        self.record()?.check(access.into())
    }

    /// Raises the fence, and reads the file; `None` where there is none.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    pub fn read(&self, access: impl Into<Access>) -> Result<Option<Vec<u8>>> {
        self.under(access.into(), |path| match fs::read(path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        })
    }

    /// Raises the fence, and replaces the file in whole: readers see the old bytes or the new ones.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    pub fn write(&self, access: impl Into<Access>, bytes: &[u8]) -> Result<()> {
        self.under(access.into(), |path| replace(path, bytes))
    }

    /// Runs work under the lock, with the fence raised on the disk.
    fn under<T>(&self, access: Access, work: impl FnOnce(&Path) -> io::Result<T>) -> Result<T> {
        let _locked = self.locked()?;
        let mut record = self.record()?;
        if record.raise(access)? {
            replace(&self.beside(".fence"), record.to_string().as_bytes())
                .map_err(Error::unavailable)?;
        }
        work(&self.path).map_err(Error::unavailable)
    }

    /// The lock of the fence, held until the file is closed.
    fn locked(&self) -> Result<File> {
        let lock = self.beside(".fence-lock");
        // Never removed: two programs could lock two files of this name.
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(lock)
            .map_err(Error::unavailable)?;
        loop {
            match flock(&file, FlockOperation::LockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(Error::unavailable(io::Error::from(error))),
            }
        }
    }

    fn record(&self) -> Result<Record> {
        let path = self.beside(".fence");
        match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).parse().map_err(|why| {
                let what = format!("{} is no fence: {why}", path.display());
                Error::invalid(
                    what,
                    "restore it, or remove it once no holder of before can still write",
                )
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    fn beside(&self, end: &str) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(end);
        name.into()
    }
}

/// Replaces a file in whole, on the disk too.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut new = OsString::from(path);
    new.push(".new");
    let mut file = File::create(&new)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&new, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

/// It blocks its thread for as long as the disk takes.
impl Fencing for FencedFile {
    fn raise(&self, access: Access) -> impl Future<Output = Result<()>> + Send {
        ready(Self::raise(self, access))
    }

    fn check(&self, access: Access) -> impl Future<Output = Result<()>> + Send {
        ready(Self::check(self, access))
    }

    fn is_durable(&self) -> bool {
        true
    }
}
