//! Every way in which an operator ends a grant early, and for how long two processes then believe at
//! once, beside what is declared. The table in `docs/file.md` is what this prints.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::Duration;

use crate::common::{Role, child_directory, command, locks};
use lockkit_core::{Clock, Guard, Lock};
use lockkit_file::FileProvider;
use rustix::process::Signal;
use testbed::{in_time, timing};
use tokio::task::JoinHandle;

/// The variable that tells a child where to write when it believed.
const BELIEFS: &str = "LOCKKIT_FILE_TEST_BELIEFS";
const LONG: Duration = Duration::from_secs(10);
/// By when a holder that runs has noticed, also where it is told of nothing.
const NOTICED: Duration = Duration::from_secs(1);
const SLACK: Duration = Duration::from_millis(700);
/// How long a thread that is about to tell may stand still on a busy machine.
const TOLD: Duration = Duration::from_millis(100);
/// How long a holder is stopped.
const STOPPED: Duration = Duration::from_millis(300);
/// The next one waits before the end, and may have the old files open, or comes after it. Each is
/// measured twice; the longest counts.
const WAITS: [bool; 4] = [true, false, true, false];

const REMOVAL: &str = "removal of both files";
/// Between the unlocking of what is left and the guard's word are some instructions of one thread.
const ONE: &str = "of one of them, while it is being told";
const REVOCATION: &str = "a revocation";

/// What an operator does, and whether two may believe at once after it.
struct Way {
    what: &'static str,
    declared: Option<&'static str>,
    end: fn(&Path, &mut Role),
}

const WAYS: [Way; 9] = [
    Way { what: "the file removed", declared: Some(ONE), end: |store, _| remove_file(store) },
    Way { what: "its twin removed", declared: Some(ONE), end: |store, _| remove_twin(store) },
    Way { what: "all twins removed", declared: Some(ONE), end: |store, _| remove_twins(store) },
    Way { what: "the file replaced", declared: Some(ONE), end: |store, _| replace_file(store) },
    Way {
        what: "both files removed",
        declared: Some(REMOVAL),
        end: |store, _| {
            remove_file(store);
            remove_twin(store);
        },
    },
    Way {
        what: "both files removed while the holder is stopped for 0.3 s",
        declared: Some(REMOVAL),
        end: |store, holder| {
            holder.stop();
            remove_file(store);
            remove_twin(store);
            std::thread::sleep(STOPPED);
            holder.signal(Signal::CONT);
        },
    },
    Way {
        what: "the directory removed, and made again",
        declared: Some(REMOVAL),
        end: |store, _| {
            remove_directory(store);
            fs::create_dir(store).expect("created");
        },
    },
    Way {
        what: "the directory moved away, and made again",
        declared: Some(REMOVAL),
        end: |store, _| {
            fs::rename(store, store.with_extension("old")).expect("renamed");
            fs::create_dir(store).expect("created");
        },
    },
    Way { what: "the holder's process killed", declared: None, end: |_, holder| holder.kill() },
];

fn remove_file(store: &Path) {
    fs::remove_file(store.join("held.lock")).expect("removed");
}

fn remove_twin(store: &Path) {
    fs::remove_file(store.join(".lockkit/held.twin")).expect("removed");
}

fn remove_twins(store: &Path) {
    remove_directory(&store.join(".lockkit"));
}

/// A waiter may put files into it meanwhile.
fn remove_directory(directory: &Path) {
    let is_removed = (0..100).any(|_| fs::remove_dir_all(directory).is_ok());
    assert!(is_removed, "{} is never empty", directory.display());
}

fn replace_file(store: &Path) {
    let copy = store.with_extension("copy");
    fs::write(&copy, "").expect("written");
    fs::rename(copy, store.join("held.lock")).expect("renamed");
}

/// The time since boot, which the processes of a machine share.
fn now() -> Duration {
    Clock::system().now().since_origin()
}

/// A waiter, and when it was granted. While the directory is away, calls fail.
fn waits(lock: Lock) -> JoinHandle<(Guard, Duration)> {
    tokio::spawn(async move {
        loop {
            match lock.acquire().await {
                Ok(guard) => return (guard, now()),
                Err(_) => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    })
}

/// For how long a holder in another process, and the next one here, believed at once.
async fn both_believed(way: &Way, before: bool) -> Duration {
    let place = tempfile::tempdir().expect("a directory");
    let (store, beliefs) = (place.path().join("locks"), place.path().join("beliefs"));
    fs::create_dir(&store).expect("created");
    let mut child = command("beliefs::child_that_says_when_it_believes", &store);
    child.env(BELIEFS, &beliefs);
    let mut holder = Role::spawn(child);
    holder.hear("holds");
    let lock = locks(&store).await.lock("held");
    let next = before.then(|| waits(lock.clone()));
    tokio::time::sleep(Duration::from_millis(60)).await;
    let is_granted = next.as_ref().is_some_and(JoinHandle::is_finished);
    assert!(!is_granted, "{}: granted beside a holder", way.what);
    (way.end)(&store, &mut holder);
    let next = next.unwrap_or_else(|| waits(lock));
    let (guard, granted) =
        timing::within(LONG, way.what, next).await.expect("the next one, which waits");
    if way.what != "the holder's process killed" {
        holder.hear("lost");
    }
    // Granted in a directory that is being removed, it may have lost it too by now.
    assert!(way.declared.is_some() || guard.is_held(), "{}: the next one lost it", way.what);
    let seen = fs::read(&beliefs).expect("what the holder wrote");
    let last = seen.chunks_exact(8).next_back().expect("a belief");
    let last = u64::from_le_bytes(last.try_into().expect("eight bytes"));
    Duration::from_nanos(last).saturating_sub(granted)
}

/// Fails where two believed, and no declaration says so.
fn is_declared(what: &str, both: Duration, declared: Option<&str>) {
    // Shown also where the test passes.
    let (ms, why) = (both.as_secs_f64() * 1e3, declared.unwrap_or("none"));
    writeln!(std::io::stdout(), "| {what} | {ms:.1} ms | {why} |").expect("written");
    let Some(why) = declared else {
        return assert_eq!(both, Duration::ZERO, "{what}: two believed");
    };
    let breaks_on = FileProvider::declared().belief_breaks_on;
    assert!(breaks_on.iter().any(|cause| cause.contains(why)), "{what}: {why} is not declared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_an_operator_does_to_the_files_two_believe_no_longer_than_declared() {
    for way in &WAYS {
        let (mut both, began) = (Duration::ZERO, timing::start());
        for waits in WAITS {
            both = both.max(both_believed(way, waits).await);
        }
        is_declared(way.what, both, way.declared);
        let most = if way.declared == Some(ONE) { TOLD } else { NOTICED + SLACK };
        in_time!(began, both <= most, "{}: two believed for {both:?}", way.what);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_revocation_two_believe_no_longer_than_until_the_holder_is_told() {
    let store = tempfile::tempdir().expect("a directory");
    let (ours, other) = (locks(store.path()).await, locks(store.path()).await);
    let (mut both, began) = (Duration::ZERO, timing::start());
    for _ in 0..20 {
        let holder = ours.lock("held").acquire().await.expect("granted");
        let mut next = Some(waits(other.lock("held")));
        tokio::time::sleep(Duration::from_millis(20)).await;
        let revoked = other.lock("held").revoke(holder.token()).await;
        assert!(revoked.expect("an answer"));
        let mut followed = None;
        while holder.is_held() || followed.is_none() {
            if let Some(ended) = next.take_if(|next| next.is_finished()) {
                followed = Some(ended.await.expect("the next one"));
            }
            if let Some((_, granted)) = followed.as_ref().filter(|_| holder.is_held()) {
                both = both.max(now().saturating_sub(*granted));
            }
            in_time!(began, began.elapsed() < LONG * 2, "the holder is never told");
            tokio::task::yield_now().await;
        }
    }
    is_declared("revoked from within the holder's process", both, Some(REVOCATION));
    in_time!(began, both <= SLACK, "two believed for {both:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "the role of a child"]
async fn child_that_says_when_it_believes() {
    let path = std::env::var_os(BELIEFS).expect("run by a parent test only");
    let mut beliefs = OpenOptions::new().append(true).create(true).open(path).expect("opened");
    let locks = locks(&child_directory()).await;
    let guard = locks.lock("held").acquire().await.expect("granted");
    let mut is_told = false;
    loop {
        let at = u64::try_from(now().as_nanos()).expect("some years");
        if !guard.is_held() {
            break;
        }
        beliefs.write_all(&at.to_le_bytes()).expect("written");
        if !std::mem::replace(&mut is_told, true) {
            eprintln!("holds");
        }
        tokio::time::sleep(Duration::from_micros(500)).await;
    }
    eprintln!("lost");
    std::future::pending::<()>().await;
}
