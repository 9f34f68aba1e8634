//! The conformance suite on a store that shows what the kit saves: leases in a table of a SQLite file.
//!
//! The store imports nothing of lockkit but `lockkit_core`. Read `setup.sql` and `store.rs` first, then
//! `client.rs` and the other scripts; `docs/writing-a-backend.md` explains the parts that every store has.

mod client;
mod operator;
mod store;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{self, Fixture, Hook};
use lockkit_core::{Applied, Error, LockName, LockProvider, Result, async_trait};
use sqlx::ConnectOptions;
use sqlx::sqlite::SqliteConnectOptions;
use store::Sqlite;
use tempfile::TempDir;

/// One file for all cases. Its directory is made at the first use: a process that the suite starts
/// joins the file of its parent.
#[derive(Default)]
struct OneFile {
    directory: Arc<OnceLock<TempDir>>,
}

impl OneFile {
    fn file(&self) -> PathBuf {
        // In memory, where Linux has such a place, as the servers of the other stores: a disk that stands still
        // while others write to it is no fault of the store.
        let in_memory = || tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir());
        let directory = self.directory.get_or_init(|| in_memory().expect("a directory"));
        directory.path().join("locks.sqlite")
    }

    /// Changes the lease of a name, as `sqlite3` on the command line would.
    async fn change(&self, name: &LockName, change: &'static str) -> Result<()> {
        let failed = |error| Error::unavailable(Applied::No, error);
        let options = SqliteConnectOptions::new().filename(self.file());
        let mut connection = options.connect().await.map_err(failed)?;
        let change = sqlx::query(change).bind(name.as_str().as_bytes());
        change.execute(&mut connection).await.map_err(failed)?;
        Ok(())
    }
}

#[async_trait]
impl Fixture for OneFile {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(Sqlite::open(&self.file()).await?))
    }

    fn store(&self) -> String {
        "sqlite".to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove, Hook::Forget, Hook::Refuse, Hook::Processes]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        self.change(name, "UPDATE lease SET request = NULL WHERE name = ?").await
    }

    async fn forget(&self, name: &LockName) -> Result<()> {
        self.change(name, "DELETE FROM lease WHERE name = ?").await
    }

    async fn refuse(&self, name: &LockName, refuses: bool) -> Result<()> {
        for statement in include_str!("refuse.sql").split("\n\n") {
            self.change(name, statement).await?;
        }
        let change = match refuses {
            true => "INSERT INTO refused VALUES (?)",
            false => "DELETE FROM refused WHERE name = ?",
        };
        self.change(name, change).await
    }

    fn address(&self) -> Option<String> {
        self.file().to_str().map(str::to_owned)
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(Sqlite::open(Path::new(address)).await?))
    }
}

fn main() -> ExitCode {
    let fixture = OneFile::default();
    // Kept beside the suite, so that the directory goes when the suite is over.
    let directory = Arc::clone(&fixture.directory);
    let outcome = conformance::main(fixture);
    drop(directory);
    outcome
}
