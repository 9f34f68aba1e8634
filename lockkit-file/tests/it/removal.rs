//! An admin who removes files under holders and waiters: nothing is granted twice.

use std::fs;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use crate::common::{Role, locks, provider, request};
use lockkit_core::{Error, Grant, LockProvider, LossReason};
use lockkit_file::FileProvider;
use testbed::timing::{self, within};

const SOON: Duration = Duration::from_millis(500);
const LONG: Duration = Duration::from_secs(5);

async fn take(provider: &FileProvider, name: &str) -> Grant {
    provider.try_acquire(&request(name)).await.expect("an answer").expect("free")
}

fn remove_file(store: &Path) {
    fs::remove_file(store.join("held.lock")).expect("removed");
}

fn remove_twin(store: &Path) {
    fs::remove_file(store.join(".lockkit/held.twin")).expect("removed");
}

fn remove_twins(store: &Path) {
    fs::remove_dir_all(store.join(".lockkit")).expect("removed");
}

fn replace_file(store: &Path) {
    fs::write(store.join("other"), "an editor's copy").expect("written");
    fs::rename(store.join("other"), store.join("held.lock")).expect("renamed");
    fs::write(store.join("held.lock"), "").expect("written");
}

fn move_away(store: &Path) {
    fs::rename(store.join("held.lock"), store.join("moved")).expect("renamed");
}

#[tokio::test]
async fn whichever_file_goes_the_holder_is_told_before_the_next_one_is_granted() {
    for remove in [remove_file, remove_twin, remove_twins, replace_file, move_away] {
        let store = tempfile::tempdir().expect("a directory");
        let (holder, other) = (provider(store.path()).await, provider(store.path()).await);
        let grant = take(&holder, "held").await;
        let asked = request("held");
        let mut waiting = pin!(other.acquire(&asked));
        assert!(tokio::time::timeout(Duration::from_millis(20), &mut waiting).await.is_err());

        let removed = timing::start();
        remove(store.path());
        let lost = within(LONG, "the loss", grant.lease.lost()).await;
        assert_eq!(lost, LossReason::Removed);
        eprintln!("told after {:?}", removed.elapsed());
        #[cfg(target_os = "linux")]
        testbed::in_time!(removed, removed.elapsed() < SOON);

        let renewed = grant.lease.renew().await;
        assert!(matches!(renewed, Err(Error::Lost { reason: LossReason::Removed, .. })));
        let released = grant.lease.release().await;
        assert!(matches!(released, Err(Error::Lost { reason: LossReason::Removed, .. })));
        let next = within(LONG, "the next grant", waiting).await.expect("granted");
        assert!(next.token > grant.token);
    }
}

#[tokio::test]
async fn with_everything_gone_one_process_still_grants_nothing_twice() {
    let store = tempfile::tempdir().expect("a directory");
    let (holder, other) = (provider(store.path()).await, provider(store.path()).await);
    let grant = take(&holder, "held").await;
    remove_file(store.path());
    remove_twins(store.path());
    for _ in 0..3 {
        assert!(other.try_acquire(&request("held")).await.expect("an answer").is_none());
    }
    assert_eq!(grant.lease.lost().await, LossReason::Removed);
    let token = grant.token;
    drop(grant);
    assert!(take(&other, "held").await.token > token);
}

#[tokio::test]
async fn another_process_s_holder_keeps_the_name_when_its_file_is_removed() {
    let store = tempfile::tempdir().expect("a directory");
    let mut holder = Role::start("removal::child_that_holds", store.path());
    let token: u64 = holder.hear("holds ").parse().expect("a token");
    // Stopped, it cannot be told: so nobody may be granted.
    holder.stop();
    let provider = provider(store.path()).await;
    remove_file(store.path());
    let asked = request("held");
    let mut waiting = pin!(provider.acquire(&asked));
    assert!(tokio::time::timeout(Duration::from_millis(300), &mut waiting).await.is_err());
    assert!(provider.try_acquire(&request("held")).await.expect("an answer").is_none());

    holder.signal(rustix::process::Signal::CONT);
    assert_eq!(holder.hear("lost "), "the store no longer has it");
    let next = within(LONG, "the next grant", waiting).await.expect("granted");
    assert!(next.token.as_u64() > token);
}

#[tokio::test]
async fn tokens_go_on_from_whichever_file_is_left() {
    let store = tempfile::tempdir().expect("a directory");
    // A token ahead of the clock, so that only the files can tell it; taken by another process,
    // so that this one does not know it.
    let mut high = Role::start("removal::child_with_a_high_token", store.path());
    let mut last: u64 = high.hear("token ").parse().expect("a token");
    high.finish();
    for remove in [remove_file, remove_twin, remove_twins] {
        remove(store.path());
        let mut next = Role::start("removal::child_with_the_next_token", store.path());
        let token: u64 = next.hear("token ").parse().expect("a token");
        next.finish();
        assert_eq!(token, last + 1);
        last = token;
    }
}

#[tokio::test]
async fn without_its_directory_an_attempt_says_what_to_do_and_goes_on_once_it_is_back() {
    let place = tempfile::tempdir().expect("a directory");
    let store = place.path().join("locks");
    let locks = locks(&store).await;
    let guard = locks.lock("held").acquire().await.expect("granted");
    let token = guard.token();
    fs::remove_dir_all(&store).expect("removed");
    assert_eq!(within(LONG, "the loss", guard.lost()).await, LossReason::Removed);
    let Err(Error::Rejected { what, remedy, .. }) = locks.lock("held").acquire().await else {
        panic!("granted without a directory");
    };
    assert!(what.contains("locks") && remedy.contains("create it again"), "{what}; {remedy}");
    fs::create_dir(&store).expect("created");
    let again = locks.lock("held").acquire().await.expect("granted");
    assert!(again.token() > token);
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_holds() {
    let locks = locks(&crate::common::child_directory()).await;
    let guard = locks.lock("held").acquire().await.expect("granted");
    eprintln!("holds {}", guard.token());
    eprintln!("lost {}", guard.lost().await);
    drop(guard);
    std::future::pending::<()>().await;
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_with_a_high_token() {
    let config =
        lockkit_file::FileConfig::new(crate::common::child_directory()).token_base(1 << 60);
    let provider = FileProvider::connect(config).await.expect("a store");
    eprintln!("token {}", take(&provider, "held").await.token);
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_with_the_next_token() {
    let provider = provider(&crate::common::child_directory()).await;
    eprintln!("token {}", take(&provider, "held").await.token);
}

/// Why `forget` removes no file: a shell that has opened it before, by `exec 9>a.lock`, locks it later.
#[tokio::test]
async fn a_program_that_opened_a_free_names_file_before_it_was_removed_excludes_no_grant() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let take = async || provider.try_acquire(&request("a")).await.expect("an answer");
    drop(take().await.expect("free"));
    let file = store.path().join("a.lock");
    let foreign = fs::File::options().write(true).open(&file).expect("opened");
    // While the file stays, the second one is refused.
    foreign.lock().expect("locked");
    assert!(take().await.is_none());
    foreign.unlock().expect("unlocked");
    // Removed by lockkit, with both locked, as carefully as it can.
    let holds = take().await.expect("free");
    fs::remove_file(store.path().join(".lockkit/a.twin")).expect("removed");
    fs::remove_file(&file).expect("removed");
    drop(holds);
    foreign.lock().expect("locked");
    assert!(take().await.is_some(), "so it would be safe: let forget remove files");
}
