//! Tokens of which the disk is told ahead: what a crash of the machine, or of a process, leaves of them.

use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;

use crate::common::{Role, child_directory, provider, request, waits};
use lockkit_core::{Grant, LockProvider};
use lockkit_file::{FileConfig, FileProvider};

async fn take(provider: &FileProvider, name: &str) -> Grant {
    provider.try_acquire(&request(name)).await.expect("an answer").expect("free")
}

fn files(store: &Path) -> [PathBuf; 2] {
    [store.join("a.lock"), store.join(".lockkit/a.twin")]
}

/// The slots of a file.
fn slots(file: &Path) -> Vec<String> {
    let text = fs::read_to_string(file).expect("text");
    text.lines().filter(|line| line.starts_with("token ")).map(str::to_owned).collect()
}

/// The next token that a new process is granted.
fn next_token(store: &Path) -> u64 {
    let mut child = Role::start("ahead::child_with_the_next_token", store);
    let token = child.hear("token ").parse().expect("a token");
    child.finish();
    token
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_with_the_next_token() {
    // Below all tokens of the test, so that only the files can tell.
    let provider = provider(&child_directory()).await;
    eprintln!("token {}", take(&provider, "a").await.token);
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_holds() {
    let provider = provider(&child_directory()).await;
    let grant = take(&provider, "a").await;
    eprintln!("holds {}", grant.token);
    std::future::pending::<()>().await;
}

/// What a crash of the machine leaves: the file as it was synced, in a run of the machine that is over.
fn as_after_a_crash(synced: &str) -> String {
    let at = synced.find(" in=").expect("a stamp") + 4;
    let (before, stamp) = synced.split_at(at);
    let other = if stamp.starts_with('0') { "1" } else { "0" };
    format!("{before}{other}{}", &stamp[1..])
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_crash_of_the_machine_sets_no_token_back_that_was_granted_since_the_last_sync() {
    let store = tempfile::tempdir().expect("a directory");
    // Far above the clock: it must not be the clock that saves the order.
    let high = FileConfig::new(store.path()).token_base(1 << 60);
    let high = FileProvider::connect(high).await.expect("a store");
    take(&high, "a").await.lease.release().await.expect("released");
    let [file, twin] = files(store.path());
    let synced = fs::read_to_string(&file).expect("text");
    let mut last = 0;
    for _ in 0..50 {
        let grant = take(&high, "a").await;
        last = grant.token.as_u64();
        grant.lease.release().await.expect("released");
    }
    // None of them was synced: the slots tell of them already.
    assert!(synced.lines().any(|line| line == slots(&file)[0]), "{synced}");
    let later = fs::read_to_string(&file).expect("text");
    // In the same run of the machine the record counts, and no token is skipped.
    assert_eq!(next_token(store.path()), last + 1);
    for without in [None, Some(&file), Some(&twin)] {
        for path in [&file, &twin] {
            fs::write(path, as_after_a_crash(&synced)).expect("written");
        }
        // What was never synced may be gone, or be there as it was at any time since.
        match without {
            Some(path) if *path == twin => fs::remove_file(path).expect("removed"),
            Some(path) => fs::write(path, as_after_a_crash(&later)).expect("written"),
            None => {}
        }
        let next = next_token(store.path());
        assert!(next > last, "{next} after {last}");
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn after_a_holder_that_was_killed_the_next_token_is_synced_again() {
    let store = tempfile::tempdir().expect("a directory");
    let first = next_token(store.path());
    let [file, _] = files(store.path());
    let before = slots(&file);
    let second = next_token(store.path());
    assert!(second > first);
    assert_eq!(slots(&file), before, "a sync, although the disk tells of this token");
    let mut holder = Role::start("ahead::child_that_holds", store.path());
    let third: u64 = holder.hear("holds ").parse().expect("a token");
    holder.kill();
    drop(holder);
    // Whether it had synced what it relied on, its record does not say.
    let fourth = next_token(store.path());
    assert!(fourth > third && third > second);
    assert_ne!(slots(&file), before, "no sync after a holder that was killed");
    let after = slots(&file);
    assert!(next_token(store.path()) > fourth);
    assert_eq!(slots(&file), after);
}

#[tokio::test]
async fn a_waiter_that_leaves_takes_its_turn_with_it() {
    let store = tempfile::tempdir().expect("a directory");
    let (holder, other) = (provider(store.path()).await, provider(store.path()).await);
    let grant = take(&holder, "a").await;
    let turns = || {
        let texts = files(store.path()).map(|file| fs::read_to_string(file).expect("text"));
        texts.iter().map(|text| text.matches('@').count()).sum::<usize>()
    };
    let asked = [request("a"), request("a")];
    {
        let mut waiting = pin!(other.acquire(&asked[0]));
        waits(&mut waiting, || turns() > 0).await;
        assert_eq!(turns(), 1);
    }
    assert_eq!(turns(), 0);
    let mut waiting = pin!(other.acquire(&asked[1]));
    waits(&mut waiting, || turns() > 0).await;
    assert_eq!(turns(), 1);
    drop(grant);
    let granted = waiting.await.expect("granted");
    assert_eq!(turns(), 0);
    drop(granted);
}
