//! Copies of a ZooKeeper server's data.

use std::fs;
use std::path::Path;

use tempfile::TempDir;

use super::server::ZkServer;
use crate::{Error, Result};

/// A copy of a server's data: its snapshots, and its log of changes.
#[derive(Debug)]
pub struct ZkBackup {
    directory: TempDir,
}

impl ZkServer {
    /// Copies its data, with all that it has acknowledged; it may run meanwhile.
    ///
    /// # Errors
    /// [`Error::System`] where a file cannot be copied.
    pub fn backup(&self) -> Result<ZkBackup> {
        let directory = tempfile::tempdir().map_err(Error::system("making a directory"))?;
        copy(&self.place().data(), directory.path())?;
        Ok(ZkBackup { directory })
    }

    /// Kills it, and starts it again at the same ports with the data of a backup.
    ///
    /// # Errors
    /// [`Error::System`] where a file cannot be copied, and those of a restart.
    pub fn restore(&self, backup: &ZkBackup) -> Result<()> {
        self.restart_after(|place| {
            fs::remove_dir_all(place.data()).map_err(Error::system("deleting the data"))?;
            copy(backup.directory.path(), &place.data())
        })
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let failed = || Error::system(format!("copying {}", from.display()));
    fs::create_dir_all(to).map_err(failed())?;
    for entry in fs::read_dir(from).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy(&from, &to)?;
        } else {
            fs::copy(&from, &to).map_err(failed())?;
        }
    }
    Ok(())
}
