//! Semaphores between processes: limits, slots, kills, changes of the limit, operators.

use std::collections::VecDeque;
use std::fs::{self, OpenOptions};
use std::path::Path;
use std::task::Poll;
use std::time::{Duration, Instant};

use lockkit_core::{Error, Kind, LockName, LockProvider, LossReason, Permits};
use testbed::{in_time, timing};

use crate::common::{Role, child_directory, knows_the_holder, locks, provider, request};

const LONG: Duration = Duration::from_secs(10);
const LIMIT: u32 = 3;

fn permit(name: &str, permits: u32) -> lockkit_core::Request {
    request(name).counted(Permits::new(permits).expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_of_a_holder_frees_its_permit_at_once_with_its_slot() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let (mut times, first) = (Vec::new(), timing::start());
    let kept = provider.try_acquire(&permit("pool", 2)).await.expect("an answer").expect("free");
    assert_eq!(kept.slot, Some(0));
    for _ in 0..5 {
        let mut holder = Role::start("semaphores::child_that_holds", store.path());
        let token: u64 = holder.hear("holds ").parse().expect("a token");
        let waiting = permit("pool", 2);
        let waiter = {
            let (provider, waiting) = (provider.clone(), waiting.clone());
            tokio::spawn(async move { provider.acquire(&waiting).await })
        };
        timing::until(LONG, "a wait", || knows_the_holder(&waiting)).await;
        assert!(!waiter.is_finished(), "granted beyond the limit");
        let killed = Instant::now();
        holder.kill();
        let grant = waiter.await.expect("no panic").expect("granted");
        times.push(killed.elapsed());
        assert!(grant.token.as_u64() > token && grant.token > kept.token);
        assert_eq!(grant.slot, Some(1));
        drop(grant);
    }
    kept.lease.renew().await.expect("held all the time");
    times.sort_unstable();
    eprintln!("from SIGKILL to the grant: {times:?}");
    in_time!(first, times[2] < Duration::from_millis(100), "{times:?}");
}

#[test]
fn no_more_permits_are_held_than_the_limit_says_and_the_tokens_of_a_slot_grow() {
    let store = tempfile::tempdir().expect("a directory");
    let began = Instant::now();
    let children = [0; 4].map(|_| Role::start("semaphores::child_that_counts", store.path()));
    children.into_iter().for_each(Role::finish);
    eprintln!("4 processes of 4 tasks took 160 permits in {:?}", began.elapsed());
    let used = (0..=LIMIT).filter(|slot| store.path().join(format!("last-{slot}")).exists());
    assert_eq!(used.collect::<Vec<_>>(), (0..LIMIT).collect::<Vec<_>>());
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_counts() {
    let directory = child_directory();
    let locks = locks(&directory).await;
    let tasks: Vec<_> = (0..4)
        .map(|_| {
            let (semaphore, directory) = (locks.semaphore("pool", LIMIT), directory.clone());
            tokio::spawn(async move {
                for _ in 0..10 {
                    let guard = semaphore.acquire().await.expect("granted");
                    uses_slot(&directory, guard.slot().expect("a slot"), guard.token().as_u64())
                        .await;
                    guard.release().await.expect("released");
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

/// Finds the slot used by no other holder, and its last token lower than this one.
async fn uses_slot(directory: &Path, slot: u32, token: u64) {
    assert!(slot < LIMIT, "slot {slot}");
    let (used, last) = (format!("used-{slot}"), directory.join(format!("last-{slot}")));
    let used = directory.join(used);
    let mine = OpenOptions::new().write(true).create_new(true).open(&used);
    mine.expect("no other holder of the slot");
    let before = fs::read_to_string(&last).unwrap_or_else(|_| "0".to_owned());
    assert!(before.parse::<u64>().expect("a token") < token, "{token} after {before}");
    fs::write(&last, token.to_string()).expect("written");
    tokio::time::sleep(Duration::from_millis(1)).await;
    fs::remove_file(&used).expect("removed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resize_applies_to_all_processes_at_once_and_ends_no_grant() {
    let store = tempfile::tempdir().expect("a directory");
    let [ours, others] = [locks(store.path()).await, locks(store.path()).await];
    let pool = ours.semaphore("pool", 2);
    let mut held = vec![pool.acquire().await.expect("free"), pool.acquire().await.expect("free")];
    let mut child = Role::start("semaphores::child_that_holds", store.path());
    child.hear("asks");
    assert!(others.semaphore("pool", 9).try_acquire().await.expect("an answer").is_none());
    assert_eq!(others.semaphore("pool", 9).resize(4).await.expect("resized"), 2);
    // A waiter of another process is granted now.
    child.hear("holds ");
    held.push(pool.acquire().await.expect("a permit of the greater limit"));
    assert_eq!(held[2].slot(), Some(3));
    assert!(pool.try_acquire().await.expect("an answer").is_none());

    assert_eq!(pool.resize(2).await.expect("resized"), 4);
    let seen = pool.inspect().await.expect("an answer");
    assert_eq!((seen.permits, seen.holders.len()), (Some(2), 4));
    for slot in [0, 1] {
        held.remove(0).release().await.expect("not ended by the resize");
        let refused = others.semaphore("pool", 9).try_acquire().await.expect("an answer");
        assert!(refused.is_none(), "slot {slot} is free, and as many as the limit are held");
    }
    held.remove(0).release().await.expect("not ended by the resize");
    let again = others.semaphore("pool", 9).acquire().await.expect("one is left of four");
    assert_eq!(again.slot(), Some(0));
    assert!(pool.try_acquire().await.expect("an answer").is_none());
    child.kill();
    let last = pool.acquire_within(LONG).await.expect("granted");
    assert_eq!(last.slot(), Some(1));
}

#[tokio::test]
async fn the_first_request_notes_the_limit_and_one_that_takes_no_other_is_refused() {
    let store = tempfile::tempdir().expect("a directory");
    let pool = locks(store.path()).await.semaphore("pool", 1);
    let held = pool.acquire().await.expect("free");
    let others = locks(store.path()).await;
    let exact = others.semaphore("pool", 2).exact_limit();
    let waiter = tokio::spawn(others.semaphore("pool", 2).acquire());
    tokio::task::yield_now().await;
    // Also where it would stand behind others of its process.
    for refused in [exact.acquire().await.map(drop), exact.try_acquire().await.map(drop)] {
        assert!(matches!(refused, Err(Error::Rejected { .. })), "{refused:?}");
    }
    held.release().await.expect("released");
    waiter.await.expect("no panic").expect("granted").release().await.expect("released");
    // Of the limit there are two copies, and nothing of it depends on who holds.
    fs::remove_file(store.path().join("pool.semaphore")).expect("removed");
    let seen = others.semaphore("pool", 2).inspect().await.expect("an answer");
    assert_eq!((seen.permits, seen.holders.len()), (Some(1), 0));
    let _held = pool.acquire().await.expect("free");
    assert!(others.semaphore("pool", 2).try_acquire().await.expect("an answer").is_none());
}

#[tokio::test]
async fn a_lock_and_a_semaphore_of_one_name_do_not_meet_and_are_listed_apart() {
    let store = tempfile::tempdir().expect("a directory");
    let (locks, provider) = (locks(store.path()).await, provider(store.path()).await);
    let operator = provider.operator().expect("an operator");
    let _lock = locks.lock("both").acquire().await.expect("free");
    let permits = locks.semaphore("both", 2).label("a permit");
    let (one, two) = (permits.acquire().await.expect("free"), permits.acquire().await);
    let two = two.expect("free");
    let listed = operator.list("", None, 10).await.expect("an answer");
    let names: Vec<_> = listed.iter().map(|seen| seen.name.clone()).collect();
    let [lock, semaphore] =
        [LockName::new("both"), LockName::semaphore("both")].map(Result::unwrap);
    assert_eq!(names, [lock.clone(), semaphore.clone()]);
    let shown: Vec<_> =
        listed[1].holders.iter().map(|shown| (&*shown.label, shown.slot, shown.token)).collect();
    assert_eq!(
        shown,
        [("a permit", Some(0), Some(one.token())), ("a permit", Some(1), Some(two.token()))]
    );
    assert!(listed[1].holders.iter().all(|shown| shown.kind == Kind::Counted));
    let after = operator.list("", Some(&lock), 10).await.expect("an answer");
    assert_eq!(after.iter().map(|seen| &seen.name).collect::<Vec<_>>(), [&semaphore]);
    // A token of the one names nothing of the other.
    assert!(!operator.revoke(&lock, one.token()).await.expect("an answer"));
    assert!(operator.revoke(&semaphore, one.token()).await.expect("an answer"));
    assert_eq!(one.lost().await, LossReason::Revoked);
    assert!(two.is_held());
}

#[tokio::test]
async fn waiters_of_one_process_are_granted_permits_in_the_order_in_which_they_came() {
    let store = tempfile::tempdir().expect("a directory");
    let pool = locks(store.path()).await.semaphore("pool", 2);
    let mut held = vec![pool.acquire().await.expect("free"), pool.acquire().await.expect("free")];
    let mut waiters = VecDeque::new();
    for _ in 0..6 {
        let mut waiter = Box::pin(pool.acquire_within(LONG));
        let poll = std::future::poll_fn(|cx| Poll::Ready(waiter.as_mut().poll(cx).is_pending()));
        assert!(poll.await, "granted beyond the limit");
        waiters.push_back(waiter);
    }
    // One that leaves changes no other place.
    waiters.remove(2);
    while let Some(next) = waiters.pop_front() {
        let freed = held.remove(0);
        let slot = freed.slot();
        freed.release().await.expect("released");
        let behind = async { one_is_granted(&mut waiters).await };
        let granted = tokio::select! {
            biased;
            granted = next => granted.expect("granted"),
            () = behind => panic!("a waiter was passed"),
        };
        assert!(granted.token() > held[0].token() && granted.slot() == slot);
        held.push(granted);
    }
}

/// Completes when one of the waiters is granted.
async fn one_is_granted<F: Future + Unpin>(waiters: &mut VecDeque<F>) {
    std::future::poll_fn(|cx| {
        let is_granted = |waiter: &mut F| std::pin::Pin::new(waiter).poll(cx).is_ready();
        if waiters.iter_mut().any(is_granted) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[tokio::test]
async fn a_holder_whose_file_was_removed_is_told_and_the_others_hold_on() {
    let store = tempfile::tempdir().expect("a directory");
    let pool = locks(store.path()).await.semaphore("pool", 2);
    let (one, two) = (pool.acquire().await.expect("free"), pool.acquire().await.expect("free"));
    fs::remove_file(store.path().join(".lockkit/pool.permit-0")).expect("removed");
    let told = tokio::time::timeout(LONG, one.lost()).await.expect("told");
    assert_eq!(told, LossReason::Removed);
    assert!(two.is_held());
    let again = pool.acquire().await.expect("free");
    assert_eq!(again.slot(), Some(0));
    assert!(again.token() > two.token());
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_holds() {
    let locks = locks(&child_directory()).await;
    let pool = locks.semaphore("pool", 2);
    eprintln!("asks");
    let guard = pool.acquire().await.expect("granted");
    eprintln!("holds {}", guard.token());
    std::future::pending::<()>().await;
}
