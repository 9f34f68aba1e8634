//! What clients of each layout so far have left in a directory, and a newer one.
//!
//! `tests/layouts/1` was recorded once, from a client of commit f896b58 that had released the name
//! `released` and held `held`, while another one waited for `held`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::Duration;

use lockkit_core::{FencingToken, Locks};
use tempfile::TempDir;
use testbed::contenders::{by, refused_for_its_layout};

use crate::common::locks;

/// The tokens in the recording.
const HELD: u64 = 1_795_930_194_932_600;
const RELEASED: u64 = 1_795_930_194_931_380;

/// The recorded files in a directory of their own.
fn recorded() -> (TempDir, PathBuf) {
    let place = tempfile::tempdir().expect("a directory");
    let store = place.path().join("locks");
    fs::create_dir_all(store.join(".lockkit")).expect("a directory");
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/layouts/1");
    for entry in fs::read_dir(from).expect("the recording") {
        let file = entry.expect("a file").path();
        let is_twin = file.extension().is_some_and(|end| end == "twin");
        let to = if is_twin { store.join(".lockkit") } else { store.clone() };
        fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("a copy");
    }
    (place, store)
}

fn files(store: &Path, name: &str) -> [PathBuf; 2] {
    [store.join(format!("{name}.lock")), store.join(format!(".lockkit/{name}.twin"))]
}

fn token(number: u64) -> FencingToken {
    FencingToken::new(number).expect("a token")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_holder_excludes_until_it_is_gone_and_later_tokens_are_greater() {
    let (_place, store) = recorded();
    // The recorded holder's process, as the kernel sees it.
    let open = |path| File::options().read(true).write(true).open(path).expect("a file");
    let holder = files(&store, "held").map(open);
    holder.iter().for_each(|file| file.lock().expect("a lock"));
    let (locks, lock) = (locks(&store).await, locks(&store).await.lock("held"));
    assert!(lock.try_acquire().await.expect("an answer").is_none());
    let seen = lock.inspect().await.expect("an answer");
    let seen = seen.holders.first().expect("a holder");
    assert_eq!((&*seen.label, seen.token), ("recorded holder", Some(token(HELD))));
    let waiting = tokio::spawn(lock.acquire());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!waiting.is_finished(), "granted beside the recorded holder");
    drop(holder);
    // The recorded waiter has gone, and its turn is passed over.
    let next =
        by(Duration::from_secs(1), "a grant", waiting).await.expect("no panic").expect("a grant");
    assert!(next.token() > token(HELD));
    let line = fs::read_to_string(&files(&store, "held")[0]).expect("a file");
    assert!(!line.contains("\nnext "), "a turn is left: {line}");
    next.release().await.expect("a release");
    let next = locks.lock("released").try_acquire().await.expect("an answer").expect("free");
    assert!(next.token() > token(RELEASED));
}

/// Asks for all that reads or writes the files of a name.
async fn is_refused(locks: &Locks, name: &str) {
    let lock = locks.lock(name);
    let answers = [
        lock.try_acquire().await.map(drop),
        lock.acquire().await.map(drop),
        lock.inspect().await.map(drop),
        lock.revoke(token(HELD)).await.map(drop),
        locks.list("", None, 10).await.map(drop),
    ];
    for answer in answers {
        refused_for_its_layout(&answer.expect_err("a newer layout"), name, "directory");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_a_newer_layout_is_refused_and_never_written() {
    for newer in 0..2 {
        let (_place, store) = recorded();
        let files = files(&store, "held");
        let raised = fs::read_to_string(&files[newer]).expect("a file");
        let raised = raised.replacen("lockkit-file 1", "lockkit-file 2", 1);
        fs::write(&files[newer], &raised).expect("a file");
        let before = files.each_ref().map(|file| fs::read(file).expect("a file"));
        let locks = locks(&store).await;
        is_refused(&locks, "held").await;
        // Held, it must not get this client's turn either.
        let holder = File::open(&files[0]).expect("a file");
        holder.lock().expect("a lock");
        is_refused(&locks, "held").await;
        let after = files.each_ref().map(|file| fs::read(file).expect("a file"));
        assert!(before == after, "a file was written");
        // Other names go on.
        let other = locks.lock("released").try_acquire().await.expect("an answer").expect("free");
        other.release().await.expect("a release");
    }
}
