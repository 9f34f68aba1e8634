//! Attempts that the store answers within a moment: they have no task of their own, and lose nothing by that.

use std::pin::pin;
use std::task::{Context, Waker};
use std::time::Duration;

use lockkit_core::{Clock, Error, Locks, Memory};
use tokio::runtime::{Builder, Handle, Runtime};

use crate::support::{Fault, Op, Remote};

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn an_attempt_has_a_task_only_once_a_moment_has_passed() {
    let remote = Remote::new();
    let locks = remote.locks();
    let most = async |reply: Duration| {
        remote.fail_next(Op::Acquire, Fault::SlowReply(reply));
        let before = tasks();
        let lock = locks.lock("a");
        let attempt = lock.acquire();
        let counted = async {
            tokio::time::sleep(reply / 2).await;
            tasks()
        };
        let (guard, counted) = tokio::join!(attempt, counted);
        guard.unwrap().release().await.unwrap();
        tokio::time::sleep(SECOND).await;
        counted - before
    };
    // What parks them has one task for all.
    assert_eq!(most(4 * MILLISECOND).await, 1, "answered within the moment");
    assert_eq!(most(SECOND).await, 1, "in its own task by then, and nothing is parked");
    let held = locks.lock("a").acquire().await.unwrap();
    let mut waiting = Vec::new();
    for _ in 0..10 {
        waiting.push(tokio::spawn(locks.lock("a").acquire_within(5 * SECOND)));
    }
    tokio::time::sleep(2 * MILLISECOND).await;
    let young = tasks();
    tokio::time::sleep(SECOND).await;
    assert!(tasks() >= young + 9, "each waiter has its task: {} after {young}", tasks());
    drop(held);
    for waiter in waiting {
        waiter.await.unwrap().unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_does_not_poll_is_waited_for_by_a_task() {
    let remote = Remote::new();
    let locks = remote.locks();
    remote.fail_next(Op::Acquire, Fault::SlowReply(5 * MILLISECOND));
    let mut attempt = pin!(locks.lock("a").ttl(SECOND).acquire());
    assert!(attempt.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    // Renewed since, although its caller has not seen it.
    tokio::time::sleep(10 * SECOND).await;
    assert!(locks.lock("a").try_acquire().await.unwrap().is_none());
    let guard = attempt.await.unwrap();
    assert!(guard.is_held());
    guard.release().await.unwrap();
    assert!(remote.is_clean("a").await);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_within_the_moment_leaves_nothing() {
    for reply in [3, 30] {
        let remote = Remote::with_fixed_delay(MILLISECOND);
        let locks = remote.locks();
        remote.fail_next(Op::Acquire, Fault::SlowReply(reply * MILLISECOND));
        let left = tokio::time::timeout(2 * MILLISECOND, locks.lock("a").acquire()).await;
        assert!(left.is_err(), "{left:?}");
        tokio::time::sleep(SECOND).await;
        let [asked] = remote.calls(Op::Acquire)[..] else { panic!("asked once") };
        assert!(remote.calls(Op::Withdraw).contains(&asked));
        assert!(remote.is_clean("a").await);
        locks.close(MILLISECOND).await.expect("nothing is left");
    }
}

#[tokio::test(start_paused = true)]
async fn what_fails_within_the_moment_is_asked_again() {
    let remote = Remote::with_fixed_delay(MILLISECOND);
    let locks = remote.locks();
    for fault in [Fault::Refused, Fault::LostRequest, Fault::SlowReset(MILLISECOND), Fault::Panic] {
        remote.fail_next(Op::Acquire, fault);
        let guard = locks.lock("a").acquire().await.unwrap();
        guard.release().await.unwrap();
        tokio::time::sleep(SECOND).await;
        assert!(remote.is_clean("a").await, "{fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn close_ends_an_attempt_within_its_moment_at_once() {
    let remote = Remote::new();
    let locks = remote.locks();
    remote.fail_next(Op::Acquire, Fault::SlowReply(SECOND));
    let attempt = tokio::spawn(locks.lock("a").acquire());
    tokio::time::sleep(MILLISECOND).await;
    let began = tokio::time::Instant::now();
    let closed = tokio::spawn({
        let locks = locks.clone();
        async move { locks.close(5 * SECOND).await }
    });
    assert!(matches!(attempt.await.unwrap(), Err(Error::Closed)));
    assert!(began.elapsed() <= MILLISECOND, "after {:?}", began.elapsed());
    closed.await.unwrap().unwrap();
    assert!(remote.is_clean("a").await);
}

#[test]
fn a_runtime_that_stops_within_the_moment_is_told() {
    let locks = Locks::builder().clock(Clock::system()).build(Memory::new());
    let (home, rest) = (one_thread(), one_thread());
    let held = rest.block_on(locks.lock("a").acquire()).unwrap();
    let mut attempt = Box::pin({
        let _entered = home.enter();
        locks.lock("a").acquire()
    });
    let mut cx = Context::from_waker(Waker::noop());
    home.block_on(async { assert!(attempt.as_mut().poll(&mut cx).is_pending()) });
    drop(home);
    assert!(matches!(rest.block_on(attempt), Err(Error::NoRuntime)));
    rest.block_on(held.release()).unwrap();
    assert!(rest.block_on(locks.lock("a").acquire_within(SECOND)).is_ok(), "nothing waits there");
}
