//! Callers that leave: nothing of theirs stays, whatever the link does to their messages.

use std::time::Duration;

use crate::support::{Fault, Op, Remote};
use lockkit_core::{Applied, Error, Locks, Memory};

const MILLISECOND: Duration = Duration::from_millis(1);
/// Long enough that no ghost disappears by its ttl while a test runs.
const LONG: Duration = Duration::from_secs(3600);

#[tokio::test(start_paused = true)]
async fn a_thousand_cancelled_acquires_over_a_slow_network_leave_no_ghost() {
    let mut granted = 0;
    for seed in 0..10 {
        let remote = Remote::with_delay(40 * MILLISECOND, seed);
        let locks = remote.locks();
        let mut callers = tokio::task::JoinSet::new();
        for _ in 0..100 {
            let lock = locks.lock("busy").ttl(LONG);
            let patience = MILLISECOND * u32::try_from(remote.random() % 400).unwrap();
            let start = MILLISECOND * u32::try_from(remote.random() % 1000).unwrap();
            callers.spawn(async move {
                tokio::time::sleep(start).await;
                tokio::time::timeout(patience, lock.acquire()).await.is_ok()
            });
        }
        while let Some(caller) = callers.join_next().await {
            granted += usize::from(caller.unwrap());
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(remote.is_clean("busy").await, "a ghost at seed {seed}");
        let free = locks.lock("busy").ttl(LONG).try_acquire().await.unwrap();
        assert!(free.is_some(), "still held at seed {seed}");
    }
    assert!((20..=980).contains(&granted), "{granted} of 1000 granted: nothing was cancelled late");
}

#[tokio::test(start_paused = true)]
async fn the_call_is_polled_on_until_its_withdrawal_and_a_late_grant_is_released() {
    let remote = Remote::new();
    let locks = remote.locks();
    remote.fail_next(Op::Acquire, Fault::SlowReply(Duration::from_secs(2)));
    remote.fail_next(Op::Withdraw, Fault::LostRequest);
    let limit = 10 * MILLISECOND;
    locks.lock("a").ttl(LONG).acquire_within(limit).await.expect_err("no reply within the limit");
    assert!(!remote.is_clean("a").await, "the grant is there, unknown to its caller");
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(remote.is_clean("a").await);
}

#[tokio::test(start_paused = true)]
async fn a_call_is_polled_on_after_its_withdrawal_and_its_end_decides_what_is_left_to_do() {
    let mut withdrawals = Vec::new();
    let late = Duration::from_secs(5);
    for (fault, releases) in [(Fault::SlowReply(late), 1), (Fault::SlowReset(late), 0)] {
        let remote = Remote::new();
        let locks = remote.locks();
        remote.fail_next(Op::Acquire, fault);
        locks.lock("a").ttl(LONG).acquire_within(MILLISECOND).await.expect_err("no reply in time");
        tokio::time::sleep(late * 2).await;
        assert_eq!(remote.calls(Op::Release).len(), releases, "{fault:?}");
        assert!(remote.is_clean("a").await);
        withdrawals.push(remote.calls(Op::Withdraw).len());
        locks.close(MILLISECOND).await.expect("nothing is pending");
    }
    // What may still arrive is withdrawn once more; what has ended is not.
    assert_eq!(withdrawals[1], withdrawals[0] + 1, "{withdrawals:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_never_ends_is_left_ten_seconds_after_its_withdrawal() {
    for (after, has_ended) in [(9, false), (12, true)] {
        let remote = Remote::new();
        let locks = remote.locks();
        remote.fail_next(Op::Acquire, Fault::Hang);
        locks.lock("a").ttl(LONG).acquire_within(MILLISECOND).await.expect_err("no reply");
        tokio::time::sleep(Duration::from_secs(after)).await;
        let closed = locks.close(MILLISECOND).await;
        assert_eq!(closed.is_ok(), has_ended, "after {after} s: {closed:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_ambiguous_end_is_withdrawn_and_a_definite_one_is_not() {
    let remote = Remote::new();
    let locks = remote.locks();
    remote.fail_next(Op::TryAcquire, Fault::LostReply);
    let error = locks.lock("a").ttl(LONG).try_acquire().await.expect_err("ambiguous");
    assert!(matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }), "{error}");
    tokio::time::sleep(MILLISECOND * 100).await;
    assert_eq!(remote.calls(Op::Withdraw), remote.calls(Op::TryAcquire));
    assert!(remote.is_clean("a").await);

    remote.fail_next(Op::TryAcquire, Fault::Refused);
    locks.lock("a").try_acquire().await.expect_err("refused");
    let _held = locks.lock("a").acquire().await.unwrap();
    assert!(locks.lock("a").try_acquire().await.unwrap().is_none());
    tokio::time::sleep(MILLISECOND * 100).await;
    assert_eq!(remote.calls(Op::Withdraw).len(), 1, "nothing was left to withdraw");
}

#[tokio::test(start_paused = true)]
async fn what_a_refused_request_left_in_the_store_is_withdrawn() {
    let remote = Remote::new();
    let locks = remote.locks();
    remote.fail_next(Op::TryAcquire, Fault::RejectedLate);
    let error = locks.lock("a").ttl(LONG).try_acquire().await.expect_err("refused");
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    remote.fail_next(Op::Acquire, Fault::RejectedLate);
    remote.fail_next(Op::Withdraw, Fault::Rejected);
    let error = locks.lock("b").ttl(LONG).acquire().await.expect_err("refused");
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    tokio::time::sleep(MILLISECOND * 100).await;
    assert!(remote.is_clean("a").await && remote.is_clean("b").await);
    assert_eq!(remote.calls(Op::Withdraw).len(), 3, "until the store has forgotten");
}

#[tokio::test(start_paused = true)]
async fn withdrawals_that_the_store_refuses_take_no_room_from_other_names() {
    let remote = Remote::new();
    let locks = remote.locks();
    for _ in 0..100_000 {
        remote.fail_next(Op::Withdraw, Fault::Rejected);
    }
    let clock = lockkit_core::Clock::tokio();
    for _ in 0..2_500 {
        remote.fail_next(Op::TryAcquire, Fault::RejectedLate);
        locks.lock("poisoned").ttl(LONG).try_acquire().await.expect_err("refused");
    }
    let began = clock.now();
    let guard = locks.lock("other").ttl(LONG).try_acquire().await.unwrap().expect("free");
    let took = clock.now().saturating_since(began);
    assert!(took < MILLISECOND * 100, "waited for refused withdrawals: {took:?}");
    guard.release().await.unwrap();
    // As many as have room go on; the others were given up.
    let (before, pause) = (remote.calls(Op::Withdraw).len(), Duration::from_secs(2));
    tokio::time::sleep(pause).await;
    let again = remote.calls(Op::Withdraw).len() - before;
    assert!((1_024..10_000).contains(&again), "{again} withdrawals in {pause:?}");
}

#[tokio::test(start_paused = true)]
async fn a_waiting_caller_asks_again_under_one_id_through_every_kind_of_failure() {
    let remote = Remote::new();
    let locks = remote.locks();
    let faults = [Fault::Refused, Fault::LostRequest, Fault::LostReply, Fault::Refused];
    for fault in faults {
        remote.fail_next(Op::Acquire, fault);
    }
    let guard = locks.lock("a").ttl(LONG).acquire().await.unwrap();
    let ids = remote.calls(Op::Acquire);
    assert_eq!(ids.len(), faults.len() + 1);
    assert!(ids.iter().all(|id| *id == ids[0]), "a retry under a new id");
    assert_eq!(guard.token().as_u64(), 1, "the lost reply's grant is the one that is held");
    guard.release().await.unwrap();
    assert!(remote.is_clean("a").await);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_leaves_between_two_calls_is_withdrawn_too() {
    let remote = Remote::new();
    let lock = remote.locks().lock("a").ttl(LONG);
    for _ in 0..20 {
        remote.fail_next(Op::Acquire, Fault::LostReply);
    }
    let limit = 60 * MILLISECOND;
    tokio::time::timeout(limit, lock.acquire()).await.expect_err("the replies are lost");
    tokio::time::sleep(MILLISECOND * 100).await;
    assert!(remote.is_clean("a").await);
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_arrives_after_its_deadline_is_released_and_asked_for_anew() {
    let remote = Remote::new();
    let ttl = Duration::from_secs(2);
    remote.fail_next(Op::Acquire, Fault::SlowReply(2 * ttl));
    let guard = remote.locks().lock("a").ttl(ttl).acquire().await.unwrap();
    let ids = remote.calls(Op::Acquire);
    assert_eq!(ids.len(), 2);
    assert_ne!(ids[0], ids[1], "the first request has ended: this is a new wish");
    assert!(guard.is_held());

    remote.fail_next(Op::TryAcquire, Fault::SlowReply(2 * ttl));
    let error = remote.locks().lock("b").ttl(ttl).try_acquire().await.expect_err("too late");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
}

#[tokio::test(start_paused = true)]
async fn ten_thousand_attempts_on_a_dead_store_leave_bounded_work_and_close_ends_it() {
    let remote = Remote::new();
    let locks = remote.locks();
    for _ in 0..30_000 {
        remote.fail_next(Op::Acquire, Fault::Hang);
        remote.fail_next(Op::Withdraw, Fault::Hang);
    }
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (before, mut most, mut sent) = (tasks(), 0, 0);
    for _ in 0..10_000 {
        let lock = locks.lock("a").ttl(LONG);
        let error = lock.acquire_within(MILLISECOND).await.expect_err("a dead store");
        let Error::Unavailable { applied, .. } = error else { panic!("{error}") };
        sent += usize::from(applied == Applied::Maybe);
        most = most.max(tasks());
    }
    assert!(most - before <= 8, "{most} tasks");
    assert!(remote.calls(Op::Acquire).len() <= 1100, "asked on although nothing was cleaned up");
    assert!((1000..=1100).contains(&sent), "{sent}");
    locks.close(Duration::from_secs(1)).await.expect_err("the store never answered");
    tokio::task::yield_now().await;
    assert!(tasks() <= before, "{} tasks are left", tasks() - before);
}

#[tokio::test(start_paused = true)]
async fn clean_ups_make_room_again_when_the_store_comes_back() {
    let remote = Remote::new();
    let locks = remote.locks();
    for _ in 0..1024 {
        remote.fail_next(Op::Acquire, Fault::Hang);
        remote.fail_next(Op::Withdraw, Fault::LostRequest);
    }
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..1024 {
        callers.spawn(locks.lock("a").ttl(LONG).acquire_within(MILLISECOND));
    }
    callers.join_all().await;
    let guard = locks.lock("a").ttl(LONG).acquire_within(Duration::from_secs(60)).await;
    guard.expect("room, and a free name").release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_one_clean_up_does_not_end_the_others() {
    let remote = Remote::new();
    let locks = remote.locks();
    for name in ["a", "b", "c"] {
        remote.fail_next(Op::TryAcquire, Fault::LostReply);
        remote.fail_next(Op::Withdraw, if name == "b" { Fault::Panic } else { Fault::Refused });
        locks.lock(name).ttl(LONG).try_acquire().await.expect_err("ambiguous");
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(remote.is_clean("a").await && remote.is_clean("c").await);
    locks.close(Duration::from_secs(1)).await.expect("nothing is pending");
}

#[tokio::test(start_paused = true)]
async fn a_release_that_gets_no_answer_is_repeated_in_the_background() {
    let remote = Remote::new();
    let guard = remote.locks().lock("a").ttl(LONG).acquire().await.unwrap();
    for fault in [Fault::Hang, Fault::LostRequest, Fault::Refused] {
        remote.fail_next(Op::Release, fault);
    }
    let error = guard.release().await.expect_err("no answer");
    assert!(matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }), "{error}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(remote.is_clean("a").await);
    assert_eq!(remote.calls(Op::Release).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_release_that_is_refused_is_repeated_until_the_store_has_let_go() {
    let remote = Remote::new();
    let guard = remote.locks().lock("a").ttl(LONG).acquire().await.unwrap();
    for _ in 0..3 {
        remote.fail_next(Op::Release, Fault::Rejected);
    }
    let error = guard.release().await.expect_err("refused");
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(remote.is_clean("a").await);
    assert_eq!(remote.calls(Op::Release).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_release_is_given_up_when_the_store_itself_has_forgotten_and_tried_ever_less_often() {
    let remote = Remote::new();
    let (locks, ttl) = (remote.locks(), Duration::from_secs(12));
    let guard = locks.lock("a").ttl(ttl).acquire().await.unwrap();
    for _ in 0..1_000 {
        remote.fail_next(Op::Release, Fault::Refused);
    }
    guard.release().await.expect_err("refused");
    tokio::time::sleep(ttl * 2).await;
    let tried = remote.calls(Op::Release).len();
    assert!((10..=30).contains(&tried), "tried {tried} times in {ttl:?}");
    locks.close(MILLISECOND).await.expect("nothing is pending");
}

#[tokio::test]
async fn the_futures_of_the_api_work_in_spawn_select_and_join() {
    let locks = Locks::memory();
    let spawned = tokio::spawn(locks.lock("a").acquire()).await.unwrap().unwrap();
    let (b, c) = tokio::join!(locks.lock("b").acquire(), locks.lock("c").try_acquire());
    tokio::select! {
        _ = locks.lock("a").acquire() => panic!("it is held"),
        () = tokio::time::sleep(MILLISECOND * 20) => {}
    }
    drop((spawned, b.unwrap(), c.unwrap().unwrap()));
    let guard = locks.lock("a").acquire_within(Duration::from_secs(5)).await.unwrap();
    let run = tokio::spawn(async move {
        let work = async |guard: &lockkit_core::Guard| guard.token();
        locks.lock("b").run(work).await
    });
    assert_eq!(run.await.unwrap().unwrap().as_u64(), 2);
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn provider_futures_dropped_at_every_poll_and_withdrawn_leave_nothing() {
    use lockkit_core::{Clock, LockProvider, Request};
    use std::task::{Context, Poll, Waker};

    for waiting in [false, true] {
        for polls in 0..4 {
            let store = Memory::new();
            let other = waiting.then(|| store.hold("a", "somebody else").unwrap());
            let name = "a".parse().unwrap();
            let request = Request::new(name, LONG, Clock::tokio()).unwrap();
            {
                let mut call = store.acquire(&request);
                let mut cx = Context::from_waker(Waker::noop());
                let pending =
                    (0..polls).all(|_| matches!(call.as_mut().poll(&mut cx), Poll::Pending));
                assert_eq!(pending, waiting || polls == 0);
            }
            store.withdraw(&request).await.unwrap();
            drop(other);
            assert!(store.hold("a", "the next").is_ok(), "left after {polls} polls");
        }
    }
}
