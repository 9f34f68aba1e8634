//! Shared locks between processes: kills, waiting writers, programs that know no shared locks, operators.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use lockkit_core::{Error, Kind, Lock, LockName, LockProvider, Locks, Request};
use testbed::{in_time, timing};

use crate::common::{Role, child_directory, knows_the_holder, locks, provider, request, waits};

const LONG: Duration = Duration::from_secs(10);

fn shared(name: &str) -> Request {
    request(name).with_kind(Kind::Shared)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kill_of_a_reader_frees_the_name_at_once_for_the_writer_behind_it() {
    let store = tempfile::tempdir().expect("a directory");
    let (provider, locks) = (provider(store.path()).await, locks(store.path()).await);
    let (mut times, first) = (Vec::new(), timing::start());
    for _ in 0..5 {
        let mut reader = Role::start("shared::child_that_reads", store.path());
        let token: u64 = reader.hear("reads ").parse().expect("a token");
        // It shares with readers of other processes meanwhile.
        let beside = provider.try_acquire(&shared("held")).await.expect("an answer");
        drop(beside.expect("a shared grant beside another"));
        let waiting = request("held");
        let writer = {
            let (provider, waiting) = (provider.clone(), waiting.clone());
            tokio::spawn(async move { provider.acquire(&waiting).await })
        };
        timing::until(LONG, "a wait", || knows_the_holder(&waiting)).await;
        assert!(!writer.is_finished(), "granted beside a reader");
        let killed = Instant::now();
        reader.kill();
        let grant = writer.await.expect("no panic").expect("granted");
        times.push(killed.elapsed());
        assert!(grant.token.as_u64() > token);
        drop(grant);
        locks.lock("held").acquire().await.expect("free").release().await.expect("released");
    }
    times.sort_unstable();
    eprintln!("from SIGKILL to the grant: {times:?}");
    in_time!(first, times[2] < Duration::from_millis(100), "{times:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_behind_a_waiting_writer_of_another_process_waits_until_that_has_left() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let held = provider.try_acquire(&shared("held")).await.expect("an answer").expect("free");
    let mut writer = Role::start("shared::child_that_writes", store.path());
    writer.hear("waits");
    assert!(provider.try_acquire(&shared("held")).await.expect("an answer").is_none());
    let waiting = shared("held");
    let reader = {
        let (provider, waiting) = (provider.clone(), waiting.clone());
        tokio::spawn(async move { provider.acquire(&waiting).await })
    };
    timing::until(LONG, "a wait", || knows_the_holder(&waiting)).await;
    assert!(!reader.is_finished(), "a reader passed a writer that waits");
    writer.kill();
    let (began, grant) = (timing::start(), reader.await.expect("no panic").expect("granted"));
    in_time!(began, began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    drop((grant, held));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_keep_coming_in_starve_no_writer_of_another_process() {
    let store = tempfile::tempdir().expect("a directory");
    let locks = locks(store.path()).await;
    let mut readers = [0, 1].map(|_| Role::start("shared::child_that_keeps_reading", store.path()));
    readers.iter_mut().for_each(|reader| drop(reader.hear("reads")));
    let (began, mut last) = (Instant::now(), None);
    for _ in 0..5 {
        let written = locks.lock("busy").acquire_within(LONG).await;
        let guard = written.expect("granted beside readers that keep coming in");
        assert!(Some(guard.token()) > last);
        last = Some(guard.token());
        guard.release().await.expect("released");
        // The readers come in again.
        let read = locks.lock("busy").shared().acquire_within(LONG).await.expect("granted");
        assert!(Some(read.token()) > last);
        read.release().await.expect("released");
    }
    eprintln!("five writes and reads beside eight readers: {:?}", began.elapsed());
}

#[tokio::test]
async fn a_client_that_knows_no_shared_locks_and_a_reader_never_both_hold() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let held = provider.try_acquire(&shared("held")).await.expect("an answer").expect("free");
    // Earlier versions lock both files, the twin last.
    let open = |path| File::options().read(true).write(true).open(store.path().join(path));
    let [file, twin] = ["held.lock", ".lockkit/held.twin"].map(|path| open(path).expect("opened"));
    assert!(file.try_lock().is_err() && twin.try_lock().is_err());
    drop(held);
    file.try_lock().expect("free");
    twin.try_lock().expect("free");
    assert!(provider.try_acquire(&shared("held")).await.expect("an answer").is_none());
    let waiting = shared("held");
    let mut waited = std::pin::pin!(provider.acquire(&waiting));
    waits(&mut waited, || waiting.last_word().is_some()).await;
    drop((twin, file));
    waited.await.expect("granted");
}

#[tokio::test]
async fn operators_see_the_readers_of_other_processes_and_are_told_how_to_end_one() {
    let store = tempfile::tempdir().expect("a directory");
    let provider = provider(store.path()).await;
    let operator = provider.operator().expect("an operator");
    let mut readers = [0, 1].map(|_| Role::start("shared::child_that_reads", store.path()));
    let tokens = readers.each_mut().map(|reader| reader.hear("reads ").parse::<u64>());
    let name = LockName::new("held").expect("a name");
    let seen = operator.inspect(&name).await.expect("an answer");
    for (reader, token) in readers.iter().zip(tokens) {
        let token = token.expect("a token");
        let shown = seen.holders.iter().find(|shown| shown.token.map(u64::from) == Some(token));
        let shown = shown.expect("shown");
        assert!(shown.label.contains(&reader.pid().to_string()) && shown.kind == Kind::Shared);
        let refused = operator.revoke(&name, shown.token.expect("known")).await;
        let Err(Error::Rejected { remedy, .. }) = refused else { panic!("revoked: {refused:?}") };
        assert!(remedy.contains(&reader.pid().to_string()), "{remedy}");
    }
    let listed = operator.list("", None, 10).await.expect("an answer");
    assert_eq!(listed.iter().map(|seen| seen.holders.len()).collect::<Vec<_>>(), [2]);
    readers[0].kill();
    timing::gone(LONG, "the dead reader is shown", async || {
        operator.inspect(&name).await.expect("an answer").holders.len() == 1
    })
    .await;
    readers[1].kill();
    timing::gone(LONG, "the dead readers are shown", async || {
        operator.list("", None, 10).await.expect("an answer").is_empty()
    })
    .await;
}

#[test]
fn readers_and_writers_of_four_processes_never_meet_and_tokens_grow_over_what_they_exclude() {
    let store = tempfile::tempdir().expect("a directory");
    for file in ["probe", "written", "read"] {
        fs::write(store.path().join(file), "").expect("written");
    }
    let began = Instant::now();
    let children = [0; 4].map(|_| Role::start("shared::child_that_mixes", store.path()));
    children.into_iter().for_each(Role::finish);
    let lines = |file| fs::read_to_string(store.path().join(file)).expect("read").lines().count();
    assert_eq!([lines("written"), lines("read")], [4 * 20, 4 * 40]);
    eprintln!("4 processes of 3 tasks took 240 locks in {:?}", began.elapsed());
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_mixes() {
    let directory = child_directory();
    let locks = locks(&directory).await;
    let tasks: Vec<_> = (0..3)
        .map(|task| {
            let (locks, directory) = (locks.clone(), directory.clone());
            tokio::spawn(async move {
                for round in 0..20 {
                    mixes(&locks, &directory, (round + task) % 3 == 0).await;
                }
            })
        })
        .collect();
    for task in tasks {
        task.await.expect("no panic");
    }
}

/// Holds once, and finds what it excludes gone, and its tokens lower.
async fn mixes(locks: &Locks, directory: &Path, writes: bool) {
    let kind = if writes { Kind::Exclusive } else { Kind::Shared };
    let guard = lock(locks, "mixed", kind).acquire().await.expect("granted");
    let token = guard.token().as_u64();
    let probe = File::open(directory.join("probe")).expect("opened");
    let alone = if writes { probe.try_lock() } else { probe.try_lock_shared() };
    alone.expect("no holder that this one excludes");
    let last = |file| {
        let text = fs::read_to_string(directory.join(file)).expect("read");
        text.lines().filter_map(|line| line.parse::<u64>().ok()).max().unwrap_or(0)
    };
    assert!(token > last("written"), "{token} after an exclusive one");
    assert!(!writes || token > last("read"), "{token} after a shared one");
    let log = directory.join(if writes { "written" } else { "read" });
    let mut log = File::options().append(true).open(log).expect("opened");
    log.write_all(format!("{token}\n").as_bytes()).expect("written");
    tokio::time::sleep(Duration::from_millis(1)).await;
    drop(probe);
    guard.release().await.expect("released");
}

/// Every queue of these kinds with at most three requests.
fn queues() -> Vec<Vec<Kind>> {
    let kinds = [Kind::Exclusive, Kind::Shared];
    let mut queues = vec![Vec::new()];
    let mut at = 0;
    while let Some(queue) = queues.get(at).filter(|queue| queue.len() < 3).cloned() {
        queues.extend(kinds.map(|kind| [&*queue, &[kind]].concat()));
        at += 1;
    }
    queues
}

fn lock(locks: &Locks, name: &str, kind: Kind) -> Lock {
    let lock = locks.lock(name);
    if kind == Kind::Shared { lock.shared() } else { lock }
}

#[tokio::test]
async fn a_process_admits_the_requests_that_the_table_of_kinds_admits() {
    let store = tempfile::tempdir().expect("a directory");
    let locks = locks(store.path()).await;
    for before in queues() {
        for asks in [Kind::Exclusive, Kind::Shared] {
            let name = format!("{asks} behind {before:?}");
            let (mut held, mut waiting) = (Vec::new(), Vec::new());
            for (n, kind) in before.iter().enumerate() {
                let taken = lock(&locks, &name, *kind);
                if kind.admits(before[..n].iter().copied()) {
                    held.push(taken.acquire().await.expect("granted"));
                } else {
                    // It stands in the queue once it was polled.
                    let mut waiter = Box::pin(taken.acquire_within(LONG));
                    let poll = std::future::poll_fn(|cx| {
                        std::task::Poll::Ready(waiter.as_mut().poll(cx).is_pending())
                    });
                    assert!(poll.await, "{name}: granted");
                    waiting.push(waiter);
                }
            }
            let tried = lock(&locks, &name, asks).try_acquire().await.expect("an answer");
            assert_eq!(tried.is_some(), asks.admits(before.iter().copied()), "{name}");
            drop((tried, held, waiting));
        }
    }
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_reads() {
    let locks = locks(&child_directory()).await;
    let guard = locks.lock("held").shared().acquire().await.expect("granted");
    eprintln!("reads {}", guard.token());
    std::future::pending::<()>().await;
}

#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_writes() {
    let (provider, waiting) = (provider(&child_directory()).await, request("held"));
    let waits = async {
        timing::until(LONG, "a wait", || knows_the_holder(&waiting)).await;
        // Told before it keeps the gate, in the same step.
        eprintln!("waits");
        std::future::pending::<()>().await;
    };
    tokio::select! {
        _ = provider.acquire(&waiting) => {}
        () = waits => {}
    }
}

/// Four tasks that read in turns, so that one of them always reads.
#[tokio::test]
#[ignore = "the role of a child"]
async fn child_that_keeps_reading() {
    let locks = locks(&child_directory()).await;
    let reads = |n: u64| {
        let lock = locks.lock("busy").shared();
        async move {
            tokio::time::sleep(Duration::from_millis(10 * n)).await;
            for _ in 0..1_000 {
                let guard = lock.acquire().await.expect("granted");
                tokio::time::sleep(Duration::from_millis(40)).await;
                guard.release().await.expect("released");
            }
        }
    };
    let readers: Vec<_> = (0..4).map(|n| tokio::spawn(reads(n))).collect();
    eprintln!("reads");
    for reader in readers {
        reader.await.expect("no panic");
    }
}
