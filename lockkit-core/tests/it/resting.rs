//! Names that stay taken after the end of their guards: minimum holds, and delays after a loss.

use std::time::Duration;

use crate::support::{Fault, Op, Remote};
use futures_util::FutureExt;
use lockkit_core::{Error, Lock, LossReason, Result};
use tokio::time::Instant;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A store that frees the name by itself, and one for which the holder's driver does.
fn stores() -> [Remote; 2] {
    [Remote::with_fixed_delay(MS), Remote::with_fixed_delay(MS).offers_no_rest()]
}

/// Waits for the name as another client; how long that takes.
async fn free_after(remote: &Remote, name: &str) -> Duration {
    let began = Instant::now();
    let guard = remote.locks().lock(name).acquire_within(3600 * SECOND).await;
    let took = began.elapsed();
    drop(guard.unwrap().release().await);
    took
}

/// A holder that lets go at once in each of the ways there are.
async fn let_go(lock: &Lock, way: u32) {
    let began = Instant::now();
    match way {
        0 => lock.acquire().await.unwrap().release().await.unwrap(),
        1 => drop(lock.acquire().await.unwrap()),
        2 => {
            let guard = lock.acquire().await.unwrap();
            // By now the lease has a task.
            tokio::time::sleep(20 * MS).await;
            guard.release().await.unwrap();
        }
        3 => lock.run(async |_guard| tokio::time::sleep(8 * MS).await).await.unwrap(),
        _ => {
            // Its caller leaves midway.
            assert!(lock.acquire().await.unwrap().release().now_or_never().is_none());
        }
    }
    assert!(began.elapsed() < 40 * MS, "way {way} took {:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn jobs_of_8_ms_that_start_60_ms_apart_run_once() {
    for remote in stores() {
        let mut runs = 0;
        for _ in 0..10 {
            // A process of its own each time.
            let tick = remote.locks().lock("tick").hold_at_least(SECOND);
            let ran = tick.try_run(async |_guard| tokio::time::sleep(8 * MS).await).await.unwrap();
            runs += u32::from(ran.is_some());
            tokio::time::sleep(60 * MS).await;
        }
        assert_eq!(runs, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_name_is_free_at_its_minimum_hold_and_soon_after_in_whatever_way_the_guard_ended() {
    for remote in stores() {
        for way in 0..5 {
            let lock = remote.locks().lock("a").hold_at_least(SECOND);
            let began = Instant::now();
            let_go(&lock, way).await;
            free_after(&remote, "a").await;
            let taken = began.elapsed();
            assert!(taken >= SECOND && taken < SECOND + 50 * MS, "way {way}: {taken:?}");
        }
        assert!(remote.is_clean("a").await);
    }
}

#[tokio::test(start_paused = true)]
async fn a_minimum_hold_longer_than_the_ttl_is_kept() {
    for remote in stores() {
        for manual in [false, true] {
            let lock = remote.locks().lock("a").ttl(SECOND).hold_at_least(10 * SECOND);
            let lock = if manual { lock.renew_manually() } else { lock };
            let began = Instant::now();
            let guard = lock.acquire().await.unwrap();
            let watch = guard.watch();
            guard.release().await.unwrap();
            assert!(!watch.is_held() && watch.lost().await == LossReason::Released);
            assert!(began.elapsed() < SECOND / 10);
            free_after(&remote, "a").await;
            let taken = began.elapsed();
            assert!(taken >= 10 * SECOND && taken < 10 * SECOND + 50 * MS, "{taken:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_guard_held_for_longer_than_the_minimum_frees_its_name_at_once() {
    for remote in stores() {
        let guard = remote.locks().lock("a").hold_at_least(SECOND).acquire().await.unwrap();
        tokio::time::sleep(2 * SECOND).await;
        guard.release().await.unwrap();
        assert!(free_after(&remote, "a").await < SECOND / 10);
        assert!(remote.calls(Op::ReleaseAfter).is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn a_rest_that_is_not_acknowledged_is_asked_for_again_and_never_ends_early() {
    for fault in [Fault::LostRequest, Fault::LostReply, Fault::Refused, Fault::Hang] {
        let remote = Remote::with_fixed_delay(MS);
        let locks = remote.locks();
        let began = Instant::now();
        let guard = locks.lock("a").hold_at_least(5 * SECOND).acquire().await.unwrap();
        remote.fail_next(Op::ReleaseAfter, fault);
        remote.fail_next(Op::ReleaseAfter, fault);
        let error = guard.release().await.expect_err("it was not acknowledged");
        assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        free_after(&remote, "a").await;
        let taken = began.elapsed();
        assert!(taken >= 5 * SECOND && taken < 6 * SECOND, "{fault:?}: {taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_lost_or_revoked_before_its_minimum_hold_is_over() {
    for remote in stores() {
        let lock = remote.locks().lock("a").hold_at_least(60 * SECOND);
        let guard = lock.acquire().await.unwrap();
        assert!(lock.revoke(guard.token()).await.unwrap());
        drop(guard);
        assert!(free_after(&remote, "a").await < SECOND / 10);
        let guard = lock.acquire().await.unwrap();
        remote.store().expire("a");
        assert!(free_after(&remote, "a").await < SECOND / 10);
        drop(guard);
    }
}

#[tokio::test(start_paused = true)]
async fn an_operator_ends_a_rest_and_sees_it_until_then() {
    for remote in stores() {
        let lock = remote.locks().lock("a").label("the tick").hold_at_least(60 * SECOND);
        let guard = lock.acquire().await.unwrap();
        let token = guard.token();
        guard.release().await.unwrap();
        tokio::time::sleep(SECOND).await;
        let seen = lock.inspect().await.unwrap();
        assert_eq!(seen.holders.len(), 1, "{seen:?}");
        assert_eq!((&*seen.holders[0].label, seen.holders[0].token), ("the tick", Some(token)));
        assert!(lock.revoke(token).await.unwrap());
        assert!(free_after(&remote, "a").await < SECOND / 10);
    }
}

#[tokio::test(start_paused = true)]
async fn close_keeps_minimum_holds_and_waits_for_those_that_end_with_the_process() {
    let [by_store, by_driver] = stores();
    for (remote, waits) in [(by_store, false), (by_driver, true)] {
        let locks = remote.locks();
        let (held, lock) = (locks.lock("held"), locks.lock("let go"));
        let held = held.hold_at_least(2 * SECOND).acquire().await.unwrap();
        drop(lock.hold_at_least(2 * SECOND).acquire().await.unwrap());
        let began = Instant::now();
        locks.close(5 * SECOND).await.unwrap();
        assert_eq!(began.elapsed() > SECOND, waits, "{:?}", began.elapsed());
        assert_eq!(held.lost().await, LossReason::Closed);
        for name in ["held", "let go"] {
            free_after(&remote, name).await;
            let taken = began.elapsed();
            assert!(taken > SECOND * 19 / 10 && taken < SECOND * 21 / 10, "{name}: {taken:?}");
        }
    }
    // No longer than it was told.
    let [_, by_driver] = stores();
    let locks = by_driver.locks();
    drop(locks.lock("a").hold_at_least(60 * SECOND).acquire().await.unwrap());
    let began = Instant::now();
    assert!(matches!(locks.close(SECOND).await, Err(Error::Unavailable { .. })));
    assert!(began.elapsed() < SECOND * 3 / 2);
}

#[tokio::test(start_paused = true)]
async fn a_rest_renews_no_more_than_it_needs() {
    let remote = Remote::with_fixed_delay(MS).offers_no_rest();
    let locks = remote.locks();
    drop(locks.lock("a").ttl(15 * SECOND).hold_at_least(SECOND).acquire().await.unwrap());
    free_after(&remote, "a").await;
    assert!(remote.calls(Op::Renew).is_empty(), "the ttl was longer");
    drop(locks.lock("a").ttl(3 * SECOND).hold_at_least(10 * SECOND).acquire().await.unwrap());
    free_after(&remote, "a").await;
    let renewals = remote.calls(Op::Renew).len();
    assert!((5..=10).contains(&renewals), "{renewals} in three ttls");
}

/// Cuts the client off: none of its calls reaches the store any more.
fn cut_off(remote: &Remote) {
    for _ in 0..1000 {
        for op in [Op::Renew, Op::Release, Op::ReleaseAfter] {
            remote.fail_next(op, Fault::LostRequest);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_name_of_a_holder_that_is_cut_off_stays_taken_for_the_delay_after_its_term() {
    for remote in stores() {
        let lock = remote.locks().lock("a").ttl(3 * SECOND).delay_after_loss(10 * SECOND);
        let guard = lock.acquire().await.unwrap();
        tokio::time::sleep(5 * SECOND).await;
        assert!(guard.is_held(), "it renews as without a delay");
        assert!(guard.remaining().unwrap() <= 3 * SECOND);
        cut_off(&remote);
        assert_eq!(guard.lost().await, LossReason::Expired);
        let lost = Instant::now();
        drop(guard);
        free_after(&remote, "a").await;
        // The margin passes before the term ends, and a renewal that came through counts from there.
        let taken = lost.elapsed();
        assert!(taken >= 10 * SECOND && taken < 15 * SECOND, "{taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_holder_that_is_back_after_its_loss_shortens_no_delay() {
    for remote in stores() {
        let lock = remote.locks().lock("a").ttl(3 * SECOND).delay_after_loss(10 * SECOND);
        let guard = lock.acquire().await.unwrap();
        for _ in 0..40 {
            remote.fail_next(Op::Renew, Fault::Refused);
        }
        assert_eq!(guard.lost().await, LossReason::Expired);
        let lost = Instant::now();
        drop(guard);
        // The link is as good as ever by now.
        free_after(&remote, "a").await;
        let taken = lost.elapsed();
        assert!(taken >= 10 * SECOND && taken < 11 * SECOND, "{taken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_clean_end_has_no_delay_and_max_hold_is_none() {
    for remote in stores() {
        let lock = remote.locks().lock("a").delay_after_loss(10 * SECOND);
        for way in 0..5 {
            let_go(&lock, way).await;
            assert!(free_after(&remote, "a").await < SECOND / 10, "way {way}");
        }
        let guard = lock.acquire().await.unwrap();
        assert!(lock.revoke(guard.token()).await.unwrap());
        assert!(free_after(&remote, "a").await < SECOND / 10, "an operator said so");
        drop(guard);

        let guard = lock.clone().max_hold(SECOND).acquire().await.unwrap();
        assert_eq!(guard.lost().await, LossReason::MaxHold);
        let taken = free_after(&remote, "a").await;
        assert!(taken >= 10 * SECOND && taken < 11 * SECOND, "{taken:?}");
        drop(guard);

        let locks = remote.locks();
        let _guard = locks.lock("a").delay_after_loss(10 * SECOND).acquire().await.unwrap();
        locks.close(5 * SECOND).await.unwrap();
        assert!(free_after(&remote, "a").await < SECOND / 10, "closed");
    }
}

#[tokio::test(start_paused = true)]
async fn a_delay_and_a_minimum_hold_go_together() {
    for remote in stores() {
        let lock = remote.locks().lock("a").ttl(3 * SECOND).delay_after_loss(10 * SECOND);
        let lock = lock.hold_at_least(5 * SECOND);
        let_go(&lock, 0).await;
        let taken = free_after(&remote, "a").await;
        assert!(taken > 4 * SECOND && taken < 5 * SECOND + 50 * MS, "{taken:?}");
        let guard = lock.acquire().await.unwrap();
        cut_off(&remote);
        assert_eq!(guard.lost().await, LossReason::Expired);
        let taken = free_after(&remote, "a").await;
        assert!(taken >= 10 * SECOND && taken < 15 * SECOND, "{taken:?}");
    }
}

#[tokio::test]
async fn a_hold_or_a_delay_that_cannot_be_kept_is_refused() {
    let locks = Remote::new().locks();
    let lock = || locks.lock("a");
    let day = 24 * 3600 * SECOND;
    let refusal = |answer: Result<_>| answer.map(drop).expect_err("it was accepted").to_string();
    for (lock, values) in [
        (lock().hold_at_least(Duration::ZERO), ["hold_at_least", "0ns"]),
        (lock().hold_at_least(day + MS), ["hold_at_least", "24 h"]),
        (lock().hold_at_least(2 * SECOND).max_hold(SECOND), ["hold_at_least 2s", "max_hold of 1s"]),
        (lock().delay_after_loss(Duration::ZERO), ["delay_after_loss", "0ns"]),
        (lock().delay_after_loss(day + MS), ["delay_after_loss", "24 h"]),
        (lock().ttl(day / 2).delay_after_loss(day / 2 + MS), ["ttl of", "delay_after_loss"]),
    ] {
        let text = refusal(lock.acquire().await);
        assert!(values.iter().all(|value| text.contains(value)), "{text}");
    }
    lock().hold_at_least(day).max_hold(day).try_acquire().await.unwrap();
}
