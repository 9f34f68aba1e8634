//! Runtimes that end while something is held or waited for, and providers that outlive theirs.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use crate::common::{locks, provider, request};
use lockkit_core::{Error, LockProvider, LossReason};
use lockkit_file::{FileConfig, FileProvider};
use testbed::{in_time, timing};
use tokio::runtime::{Builder, Runtime};

const SECOND: Duration = Duration::from_secs(1);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn within_a_second(what: &str, work: impl FnOnce()) {
    let started = timing::start();
    work();
    in_time!(started, started.elapsed() < SECOND, "{what} took {:?}", started.elapsed());
}

#[test]
fn a_runtime_that_ends_while_it_holds_and_waits_frees_the_name_within_a_second() {
    let store = tempfile::tempdir().expect("a directory");
    for builder in [Builder::new_multi_thread, Builder::new_current_thread] {
        let ending = builder().enable_all().build().expect("a runtime");
        let (guard, waiter) = ending.block_on(async {
            let locks = locks(store.path()).await;
            let guard = locks.lock("a").acquire().await.expect("granted");
            let waiter = tokio::spawn(locks.lock("a").acquire());
            tokio::time::sleep(Duration::from_millis(20)).await;
            (guard, waiter)
        });
        within_a_second("the shutdown", || drop(ending));
        let next = runtime();
        within_a_second("the next grant", || {
            next.block_on(async {
                drop(locks(store.path()).await.lock("a").acquire().await.expect("granted"));
            });
        });
        // The guard is alive and knows.
        assert!(!guard.is_held());
        assert_eq!(next.block_on(guard.lost()), LossReason::DriverStopped);
        assert!(next.block_on(waiter).is_err());
    }
}

#[test]
fn a_guard_in_a_thread_of_its_own_is_lost_when_its_runtime_ends_and_the_name_is_free() {
    let store = tempfile::tempdir().expect("a directory");
    let ending = runtime();
    let guard = ending
        .block_on(async { locks(store.path()).await.lock("a").acquire().await.expect("granted") });
    let (ended, told) = mpsc::channel::<()>();
    let holder = thread::spawn(move || {
        told.recv().expect("told");
        let held = guard.is_held();
        thread::sleep(Duration::from_millis(100));
        held
    });
    within_a_second("the shutdown", || drop(ending));
    ended.send(()).expect("heard");
    within_a_second("the next grant", || {
        runtime().block_on(async {
            drop(locks(store.path()).await.lock("a").acquire().await.expect("granted"));
        });
    });
    assert!(!holder.join().expect("no panic"));
}

#[test]
fn a_provider_serves_a_second_runtime_after_the_end_of_the_first() {
    let store = tempfile::tempdir().expect("a directory");
    let first = runtime();
    let kept = first.block_on(provider(store.path()));
    drop(first);
    let second = runtime();
    second.block_on(async {
        let other = provider(store.path()).await;
        for _ in 0..5 {
            let held = other.try_acquire(&request("a")).await.expect("an answer").expect("free");
            let (waiting, asked) = (kept.clone(), request("a"));
            let waiter = tokio::spawn(async move { waiting.acquire(&asked).await });
            tokio::time::sleep(Duration::from_millis(20)).await;
            let released = timing::start();
            drop(held);
            let grant = waiter.await.expect("no panic").expect("granted");
            in_time!(released, released.elapsed() < SECOND);
            grant.lease.release().await.expect("released");
        }
    });
}

/// The runtime that hands on the events lives, but nobody runs it.
#[test]
fn a_provider_serves_a_second_runtime_while_the_first_stands_still() {
    let store = tempfile::tempdir().expect("a directory");
    let still = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let kept = still.block_on(provider(store.path()));
    runtime().block_on(async {
        let held = kept.try_acquire(&request("a")).await.expect("an answer").expect("free");
        let (waiting, asked) = (kept.clone(), request("a"));
        let waiter = tokio::spawn(async move { waiting.acquire(&asked).await });
        tokio::time::sleep(Duration::from_millis(20)).await;
        let released = timing::start();
        drop(held);
        waiter.await.expect("no panic").expect("granted");
        in_time!(released, released.elapsed() < SECOND);
    });
}

#[test]
fn outside_a_runtime_there_is_an_error_and_no_panic() {
    let store = tempfile::tempdir().expect("a directory");
    let mut connecting = Box::pin(FileProvider::connect(FileConfig::new(store.path())));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let std::task::Poll::Ready(outcome) = connecting.as_mut().poll(&mut context) else {
        panic!("pending")
    };
    assert!(matches!(outcome, Err(Error::NoRuntime)));
    let kept = runtime().block_on(provider(store.path()));
    let asked = request("a");
    let mut trying = kept.try_acquire(&asked);
    let std::task::Poll::Ready(outcome) = trying.as_mut().poll(&mut context) else {
        panic!("pending")
    };
    assert!(matches!(outcome, Err(Error::NoRuntime)));
}

#[test]
fn a_lease_dropped_outside_any_runtime_frees_the_name() {
    let store = tempfile::tempdir().expect("a directory");
    let first = runtime();
    let (kept, grant) = first.block_on(async {
        let kept = provider(store.path()).await;
        let grant = kept.try_acquire(&request("a")).await.expect("an answer").expect("free");
        (kept, grant)
    });
    drop(first);
    drop(grant);
    drop(kept);
    runtime().block_on(async {
        let again = provider(store.path()).await.try_acquire(&request("a")).await;
        assert!(again.expect("an answer").is_some());
    });
}

/// A sync that is under way when the runtime ends does not keep the name.
#[test]
fn a_runtime_that_ends_in_the_middle_of_grants_leaves_names_free() {
    let store = tempfile::tempdir().expect("a directory");
    for pause in 0..20 {
        let ending = runtime();
        ending.block_on(async {
            let provider = provider(store.path()).await;
            for name in ["a", "b", "c"] {
                let provider = provider.clone();
                tokio::spawn(async move {
                    // A caller that asks again at once, also after an error.
                    loop {
                        drop(provider.acquire(&request(name)).await);
                    }
                });
            }
            tokio::time::sleep(Duration::from_micros(100 * pause)).await;
        });
        within_a_second("the shutdown", || drop(ending));
        runtime().block_on(async {
            let provider = provider(store.path()).await;
            for name in ["a", "b", "c"] {
                let grant = provider.try_acquire(&request(name)).await.expect("an answer");
                assert!(grant.is_some(), "{name} after {pause}");
            }
        });
    }
}
