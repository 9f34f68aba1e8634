//! How things end: close, runtimes that stop, guards dropped anywhere, and who is told.

use std::time::{Duration, Instant};

use crate::support::{Fault, Op, Remote};
use lockkit_core::{Applied, Clock, Error, Guard, Locks, LossReason, Memory};
use tokio::runtime::{Builder, Runtime};

const SECOND: Duration = Duration::from_secs(1);
/// For what comes at once, on a machine that may stand still meanwhile; no lease here expires in that time.
const LONG: Duration = Duration::from_secs(10);

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Waits for the name in a runtime of its own.
fn is_free_soon(locks: &Locks, name: &str) -> bool {
    runtime().block_on(locks.lock(name).acquire_within(LONG)).is_ok()
}

#[tokio::test(start_paused = true)]
async fn close_ends_waiters_releases_what_is_held_and_refuses_the_rest() {
    let remote = Remote::new();
    let locks = remote.locks();
    let held = locks.lock("a").acquire().await.unwrap();
    let waiter = tokio::spawn(locks.lock("a").acquire());
    drop(locks.lock("b").acquire().await.unwrap());
    tokio::time::sleep(SECOND).await;
    locks.close(5 * SECOND).await.unwrap();
    assert!(matches!(waiter.await.unwrap(), Err(Error::Closed)));
    assert_eq!(held.lost().await, LossReason::Closed);
    assert!(!held.is_held());
    assert!(remote.is_clean("a").await && remote.is_clean("b").await);
    assert!(matches!(locks.lock("c").acquire().await, Err(Error::Closed)));
    assert!(matches!(locks.lock("c").try_acquire().await, Err(Error::Closed)));
    locks.close(SECOND).await.expect("closed already");
}

#[tokio::test]
async fn a_waiter_is_ended_by_close_and_not_granted_what_close_released() {
    let locks = Locks::memory();
    let held = locks.lock("a").acquire().await.unwrap();
    let waiters: Vec<_> = (0..8).map(|_| tokio::spawn(locks.lock("a").acquire())).collect();
    tokio::time::sleep(SECOND / 50).await;
    locks.close(LONG).await.unwrap();
    assert!(!held.is_held());
    for waiter in waiters {
        assert!(matches!(waiter.await.unwrap(), Err(Error::Closed)));
    }
}

#[tokio::test(start_paused = true)]
async fn close_waits_for_releases_in_the_background_and_not_longer_than_told() {
    let remote = Remote::with_fixed_delay(SECOND / 4);
    let locks = remote.locks();
    for n in 0..10 {
        drop(locks.lock(format!("{n}")).acquire().await.unwrap());
    }
    locks.close(5 * SECOND).await.unwrap();
    for n in 0..10 {
        assert!(remote.is_clean(&n.to_string()).await);
    }

    let dead = Remote::new();
    let locks = dead.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    dead.fail_next(Op::Release, Fault::Hang);
    let start = tokio::time::Instant::now();
    drop(guard);
    let error = locks.close(SECOND).await.expect_err("the release is not acknowledged");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(start.elapsed() <= SECOND * 3 / 2, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn close_goes_on_in_the_background_when_its_caller_leaves_or_time_is_up() {
    for within in [SECOND / 10, 10 * SECOND] {
        let remote = Remote::with_fixed_delay(SECOND / 4);
        let locks = remote.locks();
        let _guard = locks.lock("a").acquire().await.unwrap();
        let left = tokio::time::timeout(SECOND / 5, locks.close(within)).await;
        assert!(!matches!(left, Ok(Ok(()))) && !remote.is_closed(), "{left:?}");
        tokio::time::sleep(SECOND).await;
        assert!(remote.is_clean("a").await && remote.is_closed(), "within {within:?}");
    }
}

#[test]
fn a_runtime_that_stops_frees_what_it_held_and_waited_for() {
    // The machine may stand still in one of them, and not in each.
    let hung = (0..3).map(|_| stops_while_it_holds_and_waits()).min();
    assert!(hung < Some(SECOND), "the shutdown hung for {hung:?}");
}

/// How long a runtime takes to stop.
fn stops_while_it_holds_and_waits() -> Duration {
    let store = Memory::new();
    let locks = Locks::new(store.clone());
    let first = runtime();
    let guard = first.block_on(locks.lock("a").acquire()).unwrap();
    let foreign = store.hold("b", "another").unwrap();
    let waiter = first.spawn(locks.lock("b").acquire());
    first.block_on(async { tokio::time::sleep(SECOND / 20).await });
    let started = Instant::now();
    drop(first);
    let took = started.elapsed();
    // The guard lives on, but nobody renews its lease any more.
    assert!(!guard.is_held());
    let rest = runtime();
    assert_eq!(rest.block_on(guard.lost()), LossReason::DriverStopped);
    assert!(is_free_soon(&locks, "a"));
    drop((foreign, waiter, guard));
    assert!(is_free_soon(&locks, "b"), "the waiter stayed in the queue");
    took
}

#[test]
fn a_guard_may_be_dropped_outside_any_runtime_in_another_one_and_in_a_panic() {
    let locks = Locks::memory();
    let home = runtime();
    let acquire = || home.block_on(locks.lock("a").acquire_within(LONG)).expect("free again");

    let guard = acquire();
    std::thread::spawn(move || drop(guard)).join().unwrap();

    let guard = acquire();
    runtime().block_on(async move { drop(guard) });

    let guard = acquire();
    let panicked = std::thread::spawn(move || {
        let _held: Guard = guard;
        panic!("a worker's bug");
    });
    panicked.join().expect_err("it panicked");
    drop(acquire());
}

#[test]
fn a_release_may_be_awaited_in_another_runtime() {
    let locks = Locks::memory();
    let home = runtime();
    let guard = home.block_on(locks.lock("a").acquire()).unwrap();
    runtime().block_on(guard.release()).unwrap();
    assert!(is_free_soon(&locks, "a"));
}

#[test]
fn without_a_runtime_a_call_says_so_and_with_a_given_one_it_works() {
    let locks = Locks::memory();
    let outside = |future| futures_executor::block_on(future);
    let error = futures_executor::block_on(locks.lock("a").acquire()).expect_err("no runtime");
    assert!(matches!(error, Error::NoRuntime), "{error}");

    let home = runtime();
    let locks = Locks::builder().runtime(home.handle().clone()).build(Memory::new());
    let guard = futures_executor::block_on(locks.lock("a").acquire()).unwrap();
    let seen = futures_executor::block_on(locks.lock("a").inspect()).unwrap();
    assert_eq!(seen.holders[0].token, Some(guard.token()));
    let short = locks.lock("b").ttl(SECOND / 10).renew_manually();
    let lost = futures_executor::block_on(short.acquire()).unwrap();
    assert_eq!(outside(lost.lost()), LossReason::Expired);
    let again = futures_executor::block_on(locks.lock("a").acquire_within(SECOND / 20));
    assert!(matches!(again, Err(Error::TimedOut { .. })));
    futures_executor::block_on(guard.release()).unwrap();
    futures_executor::block_on(locks.close(LONG)).unwrap();
}

#[test]
fn a_given_runtime_that_has_ended_is_an_error_and_not_a_hang() {
    let home = runtime();
    let locks = Locks::builder().runtime(home.handle().clone()).build(Memory::new());
    drop(home);
    let error = runtime().block_on(locks.lock("a").acquire()).expect_err("it has ended");
    assert!(matches!(error, Error::NoRuntime), "{error}");
}

#[test]
fn locks_are_closed_outside_a_runtime_in_the_one_that_took_them() {
    let (store, runtime) = (Memory::new(), runtime());
    let locks = Locks::new(store.clone());
    let none = Locks::memory();
    assert!(matches!(none.close_blocking(SECOND), Err(Error::NoRuntime)), "no lock was taken");
    let guard = runtime.block_on(locks.lock("a").acquire()).unwrap();
    let waiter = runtime.spawn(locks.lock("a").acquire());
    locks.close_blocking(LONG).expect("the runtime runs");
    assert!(!guard.is_held());
    assert!(matches!(runtime.block_on(waiter).unwrap(), Err(Error::Closed)));
    assert!(runtime.block_on(Locks::new(store).lock("a").try_acquire()).unwrap().is_some());
    let inside = runtime.block_on(async { locks.close_blocking(SECOND) });
    assert!(matches!(inside, Err(Error::Invalid { .. })), "{inside:?}");

    // Another executor polls it: its timers are the runtime's.
    let locks = Locks::memory();
    drop(runtime.block_on(locks.lock("a").acquire()).unwrap());
    futures_util::FutureExt::now_or_never(locks.close(SECOND));
    drop(runtime);
    let ended = Locks::memory();
    drop(self::runtime().block_on(ended.lock("a").acquire()).unwrap());
    assert!(matches!(ended.close_blocking(SECOND), Err(Error::NoRuntime)), "it has ended");
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_no_answer_can_meet_is_refused_before_anything_is_sent() {
    let remote = Remote::with_fixed_delay(SECOND / 100);
    let locks = remote.locks();
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    let calls = || remote.calls(Op::Acquire).len() + remote.calls(Op::TryAcquire).len();
    let (before, short) = (calls(), SECOND / 100);
    let error = locks.lock("a").acquire_within(short).await.expect_err("too short");
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error}");
    assert!(error.to_string().contains("10ms") && error.to_string().contains("20ms"), "{error}");
    assert_eq!(calls(), before, "nothing was sent");
    locks.lock("a").acquire_within(3 * short).await.expect("long enough").release().await.unwrap();
    // A store that has become faster is asked again, and measured.
    tokio::time::sleep(11 * SECOND).await;
    let before = calls();
    locks.lock("a").acquire_within(short).await.expect_err("too short all the same");
    assert_eq!(calls(), before + 1);
}

#[tokio::test]
async fn a_limit_of_zero_asks_once_and_times_out_where_the_name_is_held() {
    let locks = Locks::memory();
    let guard = locks.lock("a").acquire_within(Duration::ZERO).await.expect("free");
    let error = locks.lock("a").acquire_within(Duration::ZERO).await.expect_err("held");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert_eq!(error.lock(), Some("a"));
    assert!(error.to_string().starts_with("lock \"a\": "), "{error}");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_told_with_what_the_store_or_its_client_said_last() {
    let remote = Remote::new();
    for _ in 0..1_000 {
        remote.fail_next(Op::Acquire, Fault::Refused);
    }
    let error = remote.locks().lock("a").acquire_within(SECOND).await.expect_err("refused");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(error.to_string().ends_with("the last try failed: refused"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_time_out_behind_a_holder_names_it_and_an_outage_is_not_a_time_out() {
    let store = Memory::new();
    let locks = Locks::builder().clock(Clock::tokio()).label("me").build(store.clone());
    let _guard = locks.lock("a").acquire().await.unwrap();
    let error = locks.lock("a").acquire_within(SECOND).await.expect_err("held");
    let Error::TimedOut { holder: Some(holder), .. } = error else { panic!("{error}") };
    assert_eq!(holder.label, "me");

    store.outage(10 * SECOND);
    for name in ["a", "free"] {
        let error = locks.lock(name).acquire_within(SECOND).await.expect_err("an outage");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        let error = locks.lock(name).try_acquire().await.expect_err("an outage");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    }
    let start = tokio::time::Instant::now();
    drop(locks.lock("free").acquire().await.unwrap());
    assert!(start.elapsed() >= 5 * SECOND, "acquire waits the outage through");
}
