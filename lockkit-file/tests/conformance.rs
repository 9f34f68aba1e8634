//! The conformance suite on the file store, in a directory of its own.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{self, Fixture, Hook};
use lockkit_core::{Applied, Error, LockName, LockProvider, Result, async_trait};
use lockkit_file::{FileConfig, FileProvider};
use tempfile::TempDir;

/// The directory is made at the first use: the suite's children join the one of their parent.
#[derive(Default)]
struct Files {
    directory: Arc<OnceLock<TempDir>>,
}

impl Files {
    fn directory(&self) -> &Path {
        self.directory.get_or_init(|| tempfile::tempdir().expect("a directory")).path()
    }

    /// The file of `name` and its twin.
    async fn files_of(&self, name: &LockName) -> Result<[PathBuf; 2]> {
        let provider = FileProvider::connect(FileConfig::new(self.directory())).await?;
        let file = provider.file_of(name);
        let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("an encoded name");
        let twin = self.directory().join(".lockkit").join(format!("{stem}.twin"));
        Ok([file, twin])
    }
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(Error::unavailable(Applied::No, error))
        }
        _ => Ok(()),
    }
}

#[async_trait]
impl Fixture for Files {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(FileProvider::connect(FileConfig::new(self.directory())).await?))
    }

    fn store(&self) -> String {
        "file".to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove, Hook::Forget, Hook::Processes]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        remove(&self.files_of(name).await?[0])
    }

    async fn forget(&self, name: &LockName) -> Result<()> {
        self.files_of(name).await?.iter().try_for_each(|path| remove(path))
    }

    fn address(&self) -> Option<String> {
        self.directory().to_str().map(str::to_owned)
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(FileProvider::connect(FileConfig::new(address)).await?))
    }
}

fn main() -> ExitCode {
    let files = Files::default();
    // Kept beside the suite, so that the directory goes when it is over.
    let directory = Arc::clone(&files.directory);
    let outcome = conformance::main(files);
    drop(directory);
    outcome
}
