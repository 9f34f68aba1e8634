//! Ways to take a name in a directory.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockkit_bench::{Store, Way};
use lockkit_core::{Guard, Locks};
use lockkit_file::{FileConfig, FileProvider};
use tempfile::TempDir;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lockkit,
    /// The file is opened, locked, its number raised and flushed; unlocked.
    Floor,
}

/// A directory, or one that another process made.
pub(crate) struct Files {
    directory: PathBuf,
    _temporary: Option<TempDir>,
}

pub(crate) enum Task {
    Lockkit(Locks),
    Floor(PathBuf),
}

pub(crate) enum Held {
    Lockkit(Guard),
    File(File),
}

impl Files {
    pub(crate) fn start() -> Self {
        // On a disk, beside the build: a temporary directory may lie in memory.
        let beside = lockkit_bench::directory();
        std::fs::create_dir_all(&beside).unwrap();
        let temporary = TempDir::new_in(beside).unwrap();
        Self { directory: temporary.path().to_owned(), _temporary: Some(temporary) }
    }
}

impl Store for Files {
    type Kind = Kind;
    type Task = Task;

    fn server(&self) -> String {
        "A directory on a disk".to_owned()
    }

    fn address(&self) -> String {
        self.directory.display().to_string()
    }

    fn at(address: &str) -> Self {
        Self { directory: address.into(), _temporary: None }
    }

    async fn tasks(&self, way: &Way<Kind>, count: usize) -> Vec<Task> {
        if way.kind == Kind::Floor {
            return (0..count).map(|_| Task::Floor(self.directory.join("floor"))).collect();
        }
        way.locks(count, || self.locks()).await.into_iter().map(Task::Lockkit).collect()
    }

    async fn locks(&self) -> Locks {
        let directory = self.directory.join("lockkit");
        Locks::new(FileProvider::connect(FileConfig::new(directory)).await.unwrap())
    }

    fn pid(&self) -> Option<u32> {
        None
    }
}

impl lockkit_bench::Task for Task {
    type Held = Held;

    async fn take(&mut self, name: &str) -> Held {
        match self {
            Self::Lockkit(locks) => {
                let lock = locks.lock(name).ttl(Duration::from_secs(30));
                Held::Lockkit(lock.acquire().await.unwrap())
            }
            Self::Floor(path) => {
                let file = open(&path.with_extension(name));
                if file.try_lock().is_ok() {
                    return Held::File(raised(file));
                }
                // A thread that waits must not keep the holder's task from running.
                let locked = tokio::task::spawn_blocking(move || {
                    file.lock().unwrap();
                    raised(file)
                });
                Held::File(locked.await.unwrap())
            }
        }
    }

    async fn give(&mut self, _name: &str, held: Held) {
        match held {
            Held::Lockkit(guard) => guard.release().await.unwrap(),
            Held::File(file) => file.unlock().unwrap(),
        }
    }

    async fn close(self) {
        if let Self::Lockkit(locks) = self {
            drop(locks.close(Duration::from_secs(5)).await);
        }
    }
}

fn open(path: &Path) -> File {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path).unwrap()
}

/// The token in the file is raised and flushed.
fn raised(mut file: File) -> File {
    let mut token = [0; 8];
    // A new file has none yet.
    drop(file.read_exact(&mut token));
    let next = u64::from_le_bytes(token) + 1;
    file.seek(SeekFrom::Start(0)).unwrap();
    file.write_all(&next.to_le_bytes()).unwrap();
    file.sync_data().unwrap();
    file
}
