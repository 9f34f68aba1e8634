//! What tests of every store need: waiters that are in the queue, and limits for what must come.

use std::fmt::Debug;
use std::fs;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::conformance::history::{self, Recorder, What};
use lockkit_core::{Clock, Error, FencingToken, Guard, Lock, LockName, LockProvider, Locks};
use tokio::task::{JoinHandle, JoinSet};

use crate::children::{self, Child};
use crate::in_time;
use crate::timing::{self, Stopwatch};

/// By when a waiter is in the queue.
const PATIENCE: Duration = Duration::from_secs(5);

/// What `future` gives within `limit`.
///
/// # Panics
/// Where it takes longer.
pub async fn by<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    timing::within(limit, what, future).await
}

/// Checks that a client was refused for the newer layout 2, in an error that names `of` and tells the
/// reader to use another `other`.
///
/// # Panics
/// Where it was not.
#[track_caller]
pub fn refused_for_its_layout(error: &Error, of: &str, other: &str) {
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    let (text, other) = (error.to_string(), format!("another {other}"));
    let says = [of, "holds layout 2, newer", "upgrade this program", &other];
    assert!(says.iter().all(|words| text.contains(words)), "{text}");
}

/// A waiter that is in the queue by now, behind `before` others.
///
/// # Panics
/// Where it does not come there, and in its task where it is not granted.
pub async fn waiter(lock: &Lock, before: usize) -> JoinHandle<Guard> {
    let acquire = lock.acquire();
    let waiter = tokio::spawn(async move { acquire.await.expect("a grant") });
    queued(lock, before + 1).await;
    waiter
}

/// Waits until this many wait.
///
/// # Panics
/// Where they do not come within 5 seconds.
pub async fn queued(lock: &Lock, count: usize) {
    let began = timing::start();
    loop {
        let seen = lock.inspect().await.expect("an answer");
        if seen.waiters == Some(count) {
            return;
        }
        not_yet(&began, PATIENCE, count, &seen);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The same among so many that the server may be too busy to answer now and then.
///
/// # Panics
/// Where they do not come within `limit`.
pub async fn queued_within(limit: Duration, lock: &Lock, count: usize) {
    let began = timing::start();
    loop {
        let seen = lock.inspect().await;
        if seen.as_ref().is_ok_and(|seen| seen.waiters == Some(count)) {
            return;
        }
        not_yet(&began, limit, count, &seen);
        tokio::time::sleep(Duration::from_millis(5) + began.elapsed() / 20).await;
    }
}

/// Fails where so many have not come within `limit`. One that is left where none may be is a residue,
/// which no stall excuses.
fn not_yet(began: &Stopwatch, limit: Duration, count: usize, seen: &impl Debug) {
    let is_in_time = began.elapsed() < limit;
    assert!(is_in_time || count > 0, "no waiters expected: {seen:?}");
    in_time!(began, is_in_time, "{count} waiters expected: {seen:?}");
}

/// Each waiter's token, where each releases before the next is granted.
///
/// # Panics
/// Where one of them is not granted within `limit`.
pub async fn tokens(waiters: Vec<JoinHandle<Guard>>, limit: Duration) -> Vec<FencingToken> {
    let mut tokens = Vec::new();
    for waiter in waiters {
        let guard = by(limit, "the next waiter's grant", waiter).await.expect("a waiter");
        tokens.push(guard.token());
        guard.release().await.expect("a release");
    }
    tokens
}

/// A client that is new takes a name, keeps it, waits for it and lists it: every kind of call.
///
/// # Panics
/// Where one of them fails, or the waiter is not granted within `limit` of the release.
pub async fn works(provider: impl LockProvider, limit: Duration) {
    let locks = Locks::new(provider);
    // No stall of the machine ends it.
    let lock = locks.lock("app:a").ttl(Duration::from_secs(15));
    let guard = lock.acquire().await.expect("a grant");
    let next = waiter(&lock, 0).await;
    assert_eq!(locks.list("app:", None, 10).await.expect("a list").len(), 1);
    guard.renew().await.expect("a renewal");
    guard.release().await.expect("a release");
    let next = by(limit, "the next grant", next).await.expect("a waiter");
    next.release().await.expect("a release");
    locks.close(Duration::from_secs(2)).await.expect("an end");
}

/// Checks that another client holds the name: one attempt and a short wait are in vain.
///
/// # Panics
/// Where it is granted, or the store does not say that it is held.
pub async fn held_by_another(lock: &Lock, wait: Duration) {
    assert!(lock.try_acquire().await.expect("an answer").is_none());
    let error = lock.acquire_within(wait).await.expect_err("granted beside another client");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
}

/// In a child process: raises the number in a file that nothing but the lock protects, in so many
/// tasks so often, says each number that it saw with its token, and records all that it saw.
///
/// # Panics
/// Where the lock or a file fails.
pub async fn count(lock: &Lock, file: &Path, tasks: u64, rounds: u64) {
    let recorder = recorder(file);
    let mut counting = JoinSet::new();
    for _ in 0..tasks {
        let (lock, file, recorder) = (lock.clone(), file.to_owned(), Arc::clone(&recorder));
        counting.spawn(async move {
            for _ in 0..rounds {
                let (count, token) = count_once(&lock, &file, &recorder).await;
                children::say(&format!("{count} {token}"));
            }
        });
    }
    counting.join_all().await;
    children::say("done");
}

/// The number that it saw, and the token under which it saw it.
async fn count_once(lock: &Lock, file: &Path, recorder: &Recorder) -> (u64, FencingToken) {
    const RECORDED: &str = "a history that can be written";
    let name = LockName::new("counter").expect("a name");
    let attempt = recorder.asks(name).expect(RECORDED);
    let saw = |what| recorder.saw(attempt, what).expect(RECORDED);
    let guard = lock.acquire().await.expect("a grant");
    saw(What::Granted(guard.token()));
    saw(What::Reads);
    let count: u64 = read(file);
    saw(What::Read(count));
    tokio::task::yield_now().await;
    saw(What::Writes { seen: count, wrote: count + 1 });
    fs::write(file, (count + 1).to_string()).expect("a file that can be written");
    saw(What::Wrote);
    let (token, looked) = (guard.token(), Clock::system().now());
    if guard.is_held() {
        recorder.saw_at(looked, attempt, What::Believes).expect(RECORDED);
    }
    saw(What::Releases);
    guard.release().await.expect("a release");
    saw(What::Released);
    (count, token)
}

/// In their parent: hears them out, and checks that no two saw one number, that none was lost and
/// that the tokens grew in the order of the numbers; then what all of them recorded, as one history.
///
/// # Panics
/// Where that is not so, or a child says nothing for as long as `silence`.
pub fn counted(children: &[Child], file: &Path, total: u64, silence: Duration) {
    let mut grants: Vec<(u64, u64)> = Vec::new();
    for child in children {
        loop {
            let line = timing::kept(|| child.line(silence));
            let Some((count, token)) = line.split_once(' ') else { break };
            grants.push((count.parse().expect("a count"), token.parse().expect("a token")));
        }
    }
    assert_eq!(read(file), total, "a lost update");
    grants.sort_unstable();
    let counts: Vec<u64> = grants.iter().map(|(count, _)| *count).collect();
    assert!(counts.iter().copied().eq(0..total), "two saw one number: {counts:?}");
    assert!(grants.windows(2).all(|pair| pair[0].1 < pair[1].1), "tokens out of order: {grants:?}");
    let files = children.iter().map(|child| recorded(file, child.pid()));
    let seen = history::read(files).expect("what the children saw").check();
    let seen = seen.unwrap_or_else(|why| panic!("no such history of a lock: {why}"));
    assert_eq!((seen.grants as u64, seen.accepted as u64), (total, 2 * total), "{seen:?}");
    println!("recorded by {} processes on one clock: {seen:?}", children.len());
}

/// Where a child of this process id records what it sees.
fn recorded(file: &Path, pid: u32) -> PathBuf {
    file.with_extension(format!("{pid}.history"))
}

fn recorder(file: &Path) -> Arc<Recorder> {
    let pid = process::id();
    let recorder = Recorder::create(recorded(file, pid), pid.into(), Clock::system());
    Arc::new(recorder.expect("a history of its own"))
}

fn read(file: &Path) -> u64 {
    let text = fs::read_to_string(file).expect("the counter's file");
    text.parse().expect("a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[should_panic(expected = "was granted twice")]
    async fn two_locks_that_know_nothing_of_each_other_show_in_the_history() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, "0").expect("written");
        let recorder = recorder(file.path());
        let locks = [(); 2].map(|()| Locks::new(lockkit_core::Memory::new()).lock("counter"));
        let count = |lock: &Lock| {
            let (lock, file, recorder) =
                (lock.clone(), file.path().to_owned(), Arc::clone(&recorder));
            async move { count_once(&lock, &file, &recorder).await }
        };
        tokio::join!(count(&locks[0]), count(&locks[1]));
        let seen =
            history::read([recorded(file.path(), process::id())]).expect("a history").check();
        fs::remove_file(recorded(file.path(), process::id())).expect("removed");
        seen.unwrap_or_else(|why| panic!("{why}"));
    }
}
