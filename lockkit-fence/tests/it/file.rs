//! Fences beside files.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::file::FencedFile;
use lockkit_fence::{Access, Error, Fencing, FencingToken, Result};
use tempfile::TempDir;

use crate::pauses::{self, Open};

pub(crate) struct Files {
    directory: Arc<TempDir>,
    names: AtomicU64,
}

pub(crate) struct Number {
    _directory: Arc<TempDir>,
    path: PathBuf,
    file: FencedFile,
}

impl Files {
    pub(crate) fn start() -> Self {
        Self {
            directory: Arc::new(tempfile::tempdir().expect("a directory")),
            names: AtomicU64::new(0),
        }
    }
}

impl Fixture for Files {
    type Resource = Number;

    async fn fresh(&self) -> Number {
        let path =
            self.directory.path().join(self.names.fetch_add(1, Ordering::Relaxed).to_string());
        let file = FencedFile::new(&path).expect("a file");
        Number { _directory: Arc::clone(&self.directory), path, file }
    }
}

fn number(bytes: Option<Vec<u8>>) -> u64 {
    bytes.map_or(0, |bytes| String::from_utf8_lossy(&bytes).parse().expect("a number"))
}

impl Fencing for Number {
    async fn raise(&self, access: Access) -> Result<()> {
        self.file.raise(access)
    }

    async fn check(&self, access: Access) -> Result<()> {
        self.file.check(access)
    }

    fn is_durable(&self) -> bool {
        self.file.is_durable()
    }
}

impl Resource for Number {
    async fn begin(&self, access: Access) -> Result<u64> {
        self.file.read(access).map(number)
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        self.file.write(access, value.to_string().as_bytes())
    }

    async fn restarted(self) -> Self {
        let file = FencedFile::new(&self.path).expect("a file");
        Self { file, ..self }
    }
}

impl Open for Number {
    async fn peek(&self) -> u64 {
        number(fs::read(&self.path).ok())
    }

    async fn overwrite(&self, value: u64) {
        fs::write(&self.path, value.to_string()).expect("a write");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_beside_a_file_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Files::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn twenty_pauses_of_holders_lose_no_update_behind_a_fence_of_a_file() {
    pauses::keeps_updates(&Files::start(), 2, 10).await;
}

#[test]
fn a_file_refuses_with_a_clear_error_what_it_cannot_serve() {
    let directory = tempfile::tempdir().expect("a directory");
    let token = |value| FencingToken::new(value).expect("a token");
    for none in [PathBuf::from("/"), directory.path().to_owned(), directory.path().join("..")] {
        let error = FencedFile::new(&none).expect_err("no file");
        assert!(
            matches!(&error, Error::Invalid { .. }) && error.to_string().contains("names no file"),
            "{error}"
        );
    }
    let path = directory.path().join("state");
    let file = FencedFile::new(&path).expect("a file");
    let fence = directory.path().join("state.fence");
    for spoiled in [
        "",
        "34",
        "lockkit-fence 1\n34 0\n",
        "lockkit-fence 1\n-3 0\nend\n",
        "lockkit-fence 2\n34 0\nend\n",
    ] {
        fs::write(&fence, spoiled).expect("a fence's file");
        let error = file.write(token(35), b"new").expect_err(spoiled);
        assert!(
            matches!(&error, Error::Invalid { .. }) && error.to_string().contains("is no fence"),
            "{error}"
        );
        assert_eq!(fs::read_to_string(&fence).expect("as it was"), spoiled);
    }
    fs::remove_file(&fence).expect("removed");
    file.write(token(1_800_000_000_000_000), b"old").expect("the first token");
    let error = file.write(token(41), b"new").expect_err("far below");
    assert!(error.to_string().contains("another store"), "{error}");
    assert_eq!(fs::read(&path).expect("the file"), b"old");
    let missing = FencedFile::new(directory.path().join("none").join("state")).expect("a path");
    let error = missing.write(token(5), b"new").expect_err("no directory");
    assert!(matches!(error, Error::Unavailable(_)), "{error:?}");
}
