//! Holding a lease: renewals, deadlines, loss, and what the guard says of them.

use std::time::Duration;

use crate::support::{Fault, Op, Remote};
use lockkit_core::{Applied, Clock, Error, Guard, Locks, LossReason, Memory, RequestId};

const SECOND: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(12);

async fn acquire(remote: &Remote) -> Guard {
    remote.locks().lock("a").ttl(TTL).acquire().await.unwrap()
}

/// Sleeps on tokio's clock, then lets every woken task run.
async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
    for _ in 0..8 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_that_take_a_quarter_of_the_ttl_keep_the_lock() {
    let remote = Remote::with_fixed_delay(TTL / 8);
    let guard = acquire(&remote).await;
    for _ in 0..200 {
        pass(TTL / 10).await;
        assert!(guard.is_held());
    }
    assert!(remote.store().hold("a", "another").is_err());
}

#[tokio::test(start_paused = true)]
async fn a_slow_renewal_is_not_dropped_and_its_late_answer_counts_from_its_sending() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    // Sent after at most 3/8 of the ttl; every later attempt fails.
    remote.fail_next(Op::Renew, Fault::SlowReply(TTL / 2));
    for _ in 0..3 {
        remote.fail_next(Op::Renew, Fault::LostRequest);
    }
    pass(TTL * 15 / 16).await;
    assert!(guard.is_held(), "the slow answer came in time");
    let left = guard.remaining().unwrap();
    assert!(left < TTL / 2, "{left:?}: counted from its arrival");
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_took_longer_than_a_renewal_may_wait_is_renewed_at_once() {
    let remote = Remote::new();
    remote.fail_next(Op::Acquire, Fault::SlowReply(TTL / 2));
    let guard = acquire(&remote).await;
    pass(SECOND / 10).await;
    assert_eq!(remote.calls(Op::Renew).len(), 1);
    assert!(guard.remaining().unwrap() > TTL * 3 / 4);
}

#[tokio::test(start_paused = true)]
async fn renewals_that_hang_now_and_then_never_use_up_the_room_for_those_that_would_not() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    // Each that hangs is followed by one that does not.
    for _ in 0..10 {
        remote.fail_next(Op::Renew, Fault::Hang);
        pass(TTL / 2 + SECOND / 2).await;
        assert!(guard.is_held());
    }
    assert!(remote.calls(Op::Renew).len() >= 18, "{}", remote.calls(Op::Renew).len());
}

#[tokio::test(start_paused = true)]
async fn without_answers_the_guard_is_at_risk_and_then_lost_and_stays_lost() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    for _ in 0..3 {
        remote.fail_next(Op::Renew, Fault::Hang);
    }
    remote.fail_next(Op::Renew, Fault::SlowReply(TTL / 2));
    let start = tokio::time::Instant::now();
    guard.at_risk().await;
    assert!(guard.is_held());
    assert!(start.elapsed() >= TTL * 2 / 3 - SECOND / 10, "{:?}", start.elapsed());
    assert_eq!(guard.lost().await, LossReason::Expired);
    assert!(start.elapsed() < TTL, "{:?}: not before the store's expiry", start.elapsed());
    // The fourth renewal reached the store, and its acknowledgement comes now: too late.
    pass(TTL).await;
    assert!(!guard.is_held());
    assert_eq!(guard.remaining(), Some(Duration::ZERO));
    let error = guard.release().await.expect_err("lost");
    assert!(matches!(error, Error::Lost { reason: LossReason::Expired, .. }), "{error}");
    assert!(remote.is_clean("a").await, "the driver cleaned up all the same");
}

#[tokio::test(start_paused = true)]
async fn every_view_of_a_loss_agrees() {
    let store = Memory::new();
    let locks = Locks::builder().clock(Clock::tokio()).build(store.clone());
    let guard = locks.lock("a").acquire().await.unwrap();
    let watch = guard.watch();
    let (lost, risk) = (tokio::spawn(watch.lost()), tokio::spawn(watch.at_risk()));
    assert_eq!(guard.ensure(SECOND).unwrap(), guard.token());
    store.expire("a");
    assert_eq!(lost.await.unwrap(), LossReason::Removed);
    risk.await.unwrap();
    assert!(!guard.is_held() && !watch.is_held());
    assert_eq!(
        (guard.remaining(), watch.remaining()),
        (Some(Duration::ZERO), Some(Duration::ZERO))
    );
    let refused = [guard.ensure(Duration::ZERO), watch.ensure(Duration::ZERO)];
    for refusal in refused {
        assert!(matches!(refusal, Err(Error::Lost { reason: LossReason::Removed, .. })));
    }
    assert_eq!(guard.lost().await, LossReason::Removed);
}

#[tokio::test(start_paused = true)]
async fn a_watch_sees_the_release_and_never_releases() {
    let locks = Locks::builder().clock(Clock::tokio()).build(Memory::new());
    let guard = locks.lock("a").acquire().await.unwrap();
    drop(guard.watch());
    pass(SECOND).await;
    assert!(guard.is_held());
    let watch = guard.watch();
    drop(guard);
    assert!(!watch.is_held(), "at once, not when the driver comes to it");
    assert_eq!(watch.lost().await, LossReason::Released);
}

#[tokio::test(start_paused = true)]
async fn ensure_tells_too_little_time_from_a_ttl_that_can_never_do() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    assert!(guard.ensure(TTL / 2).is_ok());
    assert!(matches!(guard.ensure(2 * TTL), Err(Error::Invalid { .. })));
    for _ in 0..4 {
        remote.fail_next(Op::Renew, Fault::Hang);
    }
    pass(TTL * 5 / 6).await;
    assert!(matches!(guard.ensure(TTL / 2), Err(Error::Unavailable { .. })));
    assert!(guard.ensure(Duration::from_millis(10)).is_ok());
}

#[tokio::test(start_paused = true)]
async fn ensure_says_so_when_no_renewal_can_bring_enough() {
    let guard = acquire(&Remote::new()).await;
    // The margin is never left.
    assert!(matches!(guard.ensure(TTL - SECOND), Err(Error::Invalid { .. })));
    let most = guard.remaining().unwrap();
    pass(SECOND).await;
    assert!(matches!(guard.ensure(most), Err(Error::Unavailable { .. })));
    let locks = Remote::new().locks();
    let capped = locks.lock("a").ttl(TTL).max_hold(2 * TTL).acquire().await.unwrap();
    assert!(capped.ensure(TTL / 2).is_ok());
    pass(TTL * 7 / 4).await;
    assert!(matches!(capped.ensure(TTL / 2), Err(Error::Invalid { .. })));
}

#[tokio::test(start_paused = true)]
async fn all_that_is_left_can_be_ensured_and_not_a_moment_more() {
    let guard = acquire(&Remote::new()).await;
    pass(SECOND).await;
    let left = guard.remaining().unwrap();
    assert_eq!(guard.ensure(left).unwrap(), guard.token());
    let more = guard.ensure(left + Duration::from_nanos(1));
    assert!(matches!(more, Err(Error::Unavailable { .. })), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_renewal_is_told_of_the_loss() {
    let remote = Remote::new();
    let lock = remote.locks().lock("a").ttl(TTL).renew_manually();
    let guard = lock.acquire().await.unwrap();
    remote.fail_next(Op::Renew, Fault::Hang);
    let renewed = guard.renew().await;
    assert!(matches!(renewed, Err(Error::Lost { reason: LossReason::Expired, .. })), "{renewed:?}");
}

#[tokio::test(start_paused = true)]
async fn a_store_out_of_reach_puts_the_guard_at_risk_at_once_and_the_next_renewal_ends_it() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    let start = tokio::time::Instant::now();
    remote.be_out_of_reach(true);
    guard.at_risk().await;
    assert!(guard.is_held() && start.elapsed() < SECOND, "{:?}", start.elapsed());
    // The driver has heard it, and waits: time passes.
    pass(SECOND).await;
    remote.be_out_of_reach(false);
    pass(TTL / 2).await;
    assert!(
        tokio::time::timeout(SECOND, guard.at_risk()).await.is_err(),
        "at risk after a renewal"
    );
}

#[tokio::test(start_paused = true)]
async fn a_release_is_repeated_for_as_long_as_the_store_keeps_the_grant() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    // The pauses between them grow to a second: for longer than one call may take.
    for _ in 0..14 {
        remote.fail_next(Op::Release, Fault::LostRequest);
    }
    let released = guard.release().await;
    assert!(matches!(released, Err(Error::Unavailable { .. })), "{released:?}");
    pass(TTL * 3 / 4).await;
    assert_eq!(remote.calls(Op::Release).len(), 15);
    assert!(remote.is_clean("a").await, "left to the store's own expiry");
}

#[tokio::test(start_paused = true)]
async fn manual_renewal_is_the_callers_business() {
    let remote = Remote::new();
    let locks = remote.locks();
    let guard = locks.lock("a").ttl(TTL).renew_manually().acquire().await.unwrap();
    pass(TTL / 2).await;
    assert_eq!(remote.calls(Op::Renew).len(), 0);
    guard.renew().await.unwrap();
    pass(TTL * 3 / 4).await;
    assert!(guard.is_held(), "renewed for a whole ttl");
    remote.fail_next(Op::Renew, Fault::Refused);
    assert!(matches!(guard.renew().await, Err(Error::Unavailable { .. })));
    assert!(guard.is_held(), "one failure is not a loss");
    pass(TTL).await;
    assert!(matches!(guard.renew().await, Err(Error::Lost { reason: LossReason::Expired, .. })));
    assert_eq!(remote.calls(Op::Renew).len(), 2);
}

#[tokio::test(start_paused = true)]
async fn max_hold_ends_a_stuck_worker_whose_renewals_go_on() {
    let remote = Remote::new();
    let locks = remote.locks();
    let guard = locks.lock("a").ttl(TTL).max_hold(5 * TTL).acquire().await.unwrap();
    pass(TTL * 49 / 10).await;
    assert!(guard.is_held() && guard.remaining().unwrap() <= TTL / 10);
    assert_eq!(guard.lost().await, LossReason::MaxHold);
    pass(SECOND / 10).await;
    assert!(remote.is_clean("a").await, "others need not wait for the stuck worker's guard");
}

#[tokio::test(start_paused = true)]
async fn the_stores_own_data_of_a_grant_reaches_the_caller() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    assert_eq!(guard.native::<RequestId>(), remote.calls(Op::Acquire).first());
    assert_eq!(guard.native::<String>(), None);
    assert_eq!(guard.watch().native::<RequestId>(), guard.native());
}

#[tokio::test(start_paused = true)]
async fn run_stops_the_work_when_the_lock_is_lost() {
    let store = Memory::new();
    let locks = Locks::builder().clock(Clock::tokio()).build(store.clone());
    let expirer = store.clone();
    let mut steps = 0;
    let result = locks
        .lock("a")
        .run(async |_guard| {
            loop {
                steps += 1;
                if steps == 5 {
                    expirer.expire("a");
                }
                tokio::time::sleep(SECOND).await;
            }
        })
        .await;
    assert!(matches!(result, Err(Error::Lost { reason: LossReason::Removed, .. })));
    assert_eq!(steps, 5);
}

#[tokio::test(start_paused = true)]
async fn run_returns_the_works_own_result_and_releases() {
    let locks = Locks::builder().clock(Clock::tokio()).build(Memory::new());
    let lock = locks.lock("a");
    let token = lock.run(async |guard| guard.token()).await.unwrap();
    // An error of another crate's is the work's own result.
    let failure = lock.run(async |_| "seven".parse::<u32>()).await.expect("it was held");
    assert!(failure.is_err());
    let next = lock.try_acquire().await.unwrap().expect("both runs released");
    assert_eq!(next.token().as_u64(), token.as_u64() + 2);
    let mut has_run = false;
    assert_eq!(lock.try_run(async |_| has_run = true).await.unwrap(), None, "it is held");
    assert!(!has_run);
    next.release().await.unwrap();
    assert_eq!(lock.try_run(async |_| 7).await.unwrap(), Some(7));
    assert!(lock.try_acquire().await.unwrap().is_some(), "released");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_fails_does_not_fail_the_work() {
    let remote = Remote::new();
    let lock = remote.locks().lock("a").ttl(TTL);
    remote.fail_next(Op::Release, Fault::LostReply);
    assert_eq!(lock.run(async |_| 7).await.unwrap(), 7);
    pass(SECOND).await;
    assert!(remote.is_clean("a").await);
}

#[test]
fn a_starved_runtime_reports_the_loss_at_the_first_look() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let locks = Locks::memory();
        let lock = locks.lock("a").ttl(Duration::from_secs(1));
        let guard = lock.acquire().await.unwrap();
        std::thread::sleep(Duration::from_secs(3));
        assert!(!guard.is_held());
        assert!(matches!(guard.ensure(Duration::ZERO), Err(Error::Lost { .. })));
        drop(guard);

        let result = lock
            .run(async |_| {
                std::thread::sleep(Duration::from_secs(3));
            })
            .await;
        assert!(
            matches!(result, Err(Error::Lost { reason: LossReason::Expired, .. })),
            "{result:?}"
        );
    });
}

#[tokio::test]
async fn a_suspended_machine_has_lost_its_lock_before_any_timer_fires() {
    // The clock jumps, as after a suspend, and no timer of tokio's moves.
    let clock = Clock::manual();
    let locks = Locks::builder().clock(clock.clone()).build(Memory::new());
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    clock.advance(2 * TTL);
    assert!(!guard.is_held());
    assert_eq!(guard.lost().await, LossReason::Expired);
    let next = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    assert!(next.token() > guard.token());
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_a_providers_call_is_an_ambiguous_failure_like_any_other() {
    let remote = Remote::new();
    let lock = remote.locks().lock("a").ttl(TTL);
    remote.fail_next(Op::TryAcquire, Fault::Panic);
    let error = lock.try_acquire().await.expect_err("it panicked");
    assert!(matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }), "{error}");
    remote.fail_next(Op::Acquire, Fault::Panic);
    drop(lock.acquire().await.unwrap());
    pass(SECOND).await;
    assert_eq!(remote.calls(Op::Withdraw), remote.calls(Op::TryAcquire));
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_a_providers_renewal_is_a_loss_and_not_a_silent_hold() {
    let remote = Remote::new();
    let guard = acquire(&remote).await;
    remote.fail_next(Op::Renew, Fault::Panic);
    assert_eq!(guard.lost().await, LossReason::DriverStopped);
    assert!(!guard.is_held());
    assert!(matches!(guard.release().await, Err(Error::Lost { .. })));
}

#[tokio::test(start_paused = true)]
async fn one_task_per_lock_from_the_attempt_to_the_release() {
    let locks = Locks::builder().clock(Clock::tokio()).build(Memory::new());
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let mut guards = Vec::new();
    for n in 0..100 {
        guards.push(locks.lock(format!("{n}")).ttl(TTL).acquire().await.unwrap());
    }
    pass(5 * TTL).await;
    assert!(guards.iter().all(Guard::is_held));
    assert_eq!(tasks() - before, 100);
    drop(guards);
    pass(SECOND).await;
    assert_eq!(tasks(), before);
}
