//! Ways to take a name on this machine, each with a token that outlives a crash of the machine, and to give it back.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use lockkit_core::Locks;
use lockkit_file::{FileConfig, FileProvider};
use tokio::runtime::Runtime;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// Opens a file, locks it by flock(2), counts a token up, has it synced, and closes the file.
    Flock,
    /// The same, on a file that it keeps open.
    Kept,
    Lockkit,
}

/// One process's, or one task's, client of a way.
#[derive(Debug)]
pub(crate) enum Client {
    Flock { directory: PathBuf, kept: Option<File>, keeps: bool },
    Lockkit(Locks),
}

/// As programs have it.
pub(crate) fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

impl Way {
    pub(crate) const ALL: [Self; 3] = [Self::Flock, Self::Kept, Self::Lockkit];

    pub(crate) const fn label(self) -> &'static str {
        match self {
            Self::Flock => "flock, fdatasync",
            Self::Kept => "flock, fdatasync, kept open",
            Self::Lockkit => "lockkit",
        }
    }

    pub(crate) async fn client(self, directory: &Path) -> Client {
        match self {
            Self::Flock | Self::Kept => {
                let (directory, keeps) = (directory.to_owned(), self == Self::Kept);
                Client::Flock { directory, kept: None, keeps }
            }
            Self::Lockkit => {
                let config = FileConfig::new(directory.join("locks"));
                Client::Lockkit(Locks::new(FileProvider::connect(config).await.unwrap()))
            }
        }
    }
}

impl Client {
    /// Acquires, tells `granted`, and releases.
    pub(crate) async fn cycle(&mut self, name: &str, granted: impl FnOnce()) {
        match self {
            Self::Flock { directory, kept, keeps } => {
                let file = kept.take().unwrap_or_else(|| {
                    let mut options = OpenOptions::new();
                    options.read(true).write(true).create(true).truncate(false);
                    options.open(directory.join(name)).unwrap()
                });
                file.lock().unwrap();
                let mut last = [0; 20];
                let read = file.read_at(&mut last, 0).unwrap();
                let last = std::str::from_utf8(&last[..read]).unwrap().parse().unwrap_or(0_u64);
                file.write_all_at(format!("{:020}", last + 1).as_bytes(), 0).unwrap();
                file.sync_data().unwrap();
                granted();
                file.unlock().unwrap();
                *kept = keeps.then_some(file);
            }
            Self::Lockkit(locks) => {
                let guard = locks.lock(name).acquire().await.unwrap();
                granted();
                guard.release().await.unwrap();
            }
        }
    }
}
