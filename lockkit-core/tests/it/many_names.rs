//! Several names taken together: all or nothing, in one order, within one time limit.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockkit_core::{Error, FencingToken, Guard, Locks, LossReason, Memory, MultiGuard};
use tokio::time::Instant;

use crate::support::{Op, Remote};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

/// A store that has been asked already: its hooks go by the clock of its newest request.
async fn link() -> (Remote, Locks) {
    let remote = Remote::with_fixed_delay(5 * MS);
    let locks = remote.locks();
    locks.lock("first").acquire().await.unwrap().release().await.unwrap();
    (remote, locks)
}

/// Waits until nothing is left of these names.
pub(crate) async fn is_cleared(remote: &Remote, names: &[&str], within: Duration) {
    let end = Instant::now() + within;
    for name in names {
        while !remote.is_clean(name).await {
            assert!(Instant::now() < end, "something is left at {name:?}");
            tokio::time::sleep(MS).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn all_are_held_each_with_its_token_and_each_release_is_answered() {
    let (remote, locks) = link().await;
    let before = locks.lock("b").run(async |guard| guard.token()).await.unwrap();
    let guard = locks.all(["b", "a", "c"]).label("all").acquire().await.unwrap();
    let held: Vec<_> = guard.guards().map(|one| one.name().to_string()).collect();
    assert_eq!(held, ["a", "b", "c"]);
    assert!(guard.is_held() && guard.remaining() > Some(SECOND));
    assert!(guard.token("b").unwrap() > before);
    assert_eq!(guard.get("a").map(Guard::token), guard.token("a").ok());
    assert!(matches!(guard.token("d"), Err(Error::Invalid { .. })) && guard.get("d").is_none());
    for name in ["a", "b", "c"] {
        assert!(locks.lock(name).try_acquire().await.unwrap().is_none(), "{name} is taken");
        let seen = locks.lock(name).inspect().await.unwrap();
        assert_eq!(seen.holders[0].label, "all");
    }
    let released = guard.release().await;
    assert!(released.iter().all(|(_, released)| released.is_ok()), "{released:?}");
    assert_eq!(released.len(), 3);
    is_cleared(&remote, &["a", "b", "c"], MS).await;
}

#[tokio::test(start_paused = true)]
async fn no_name_a_name_twice_and_a_bad_name_are_refused_before_anything_is_asked() {
    let (remote, locks) = link().await;
    let none: [&str; 0] = [];
    for wrong in [locks.all(none), locks.all(["a", "b", "a"]), locks.all(["a", ""])] {
        let error = wrong.acquire().await.expect_err("refused");
        assert!(matches!(error, Error::Invalid { .. }), "{error}");
        assert!(wrong.try_acquire().await.is_err());
    }
    let twice = locks.all(["b", "a", "a"]).acquire_within(SECOND).await.expect_err("refused");
    assert_eq!(twice.lock(), Some("a"));
    let capped = locks.all(["a"]).max_hold(Duration::ZERO).acquire().await;
    assert!(matches!(capped, Err(Error::Invalid { .. })));
    assert_eq!(
        remote.calls(Op::Acquire).len() + remote.calls(Op::TryAcquire).len(),
        1,
        "the first"
    );
}

#[tokio::test(start_paused = true)]
async fn an_attempt_on_names_of_which_one_is_held_holds_none() {
    let (remote, locks) = link().await;
    let other = remote.store().hold("b", "another").unwrap();
    let all = locks.all(["a", "b", "c"]);
    assert!(all.try_acquire().await.unwrap().is_none());
    is_cleared(&remote, &["a", "c"], 50 * MS).await;
    let ran = all.try_run(async |_| unreachable!()).await.unwrap();
    assert!(ran.is_none());
    is_cleared(&remote, &["a", "c"], 50 * MS).await;
    for limit in [Duration::ZERO, SECOND] {
        let began = Instant::now();
        let error = all.acquire_within(limit).await.expect_err("another holds");
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert_eq!(error.lock(), Some("b"));
        assert!(began.elapsed() < limit + SECOND / 10, "one limit for all names");
        is_cleared(&remote, &["a", "c"], 50 * MS).await;
    }
    drop(other);
    drop(all.try_acquire().await.unwrap().expect("free"));
    is_cleared(&remote, &["a", "b", "c"], 50 * MS).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_held_is_renewed_while_the_next_name_is_waited_for() {
    let (remote, locks) = link().await;
    let other = remote.store().hold("b", "another").unwrap();
    let waiting = tokio::spawn(locks.all(["b", "a"]).ttl(SECOND).acquire());
    tokio::time::sleep(20 * SECOND).await;
    assert!(remote.calls(Op::Renew).len() > 40, "renewed all the while");
    assert!(!waiting.is_finished() && locks.lock("a").try_acquire().await.unwrap().is_none());
    drop(other);
    let guard = waiting.await.unwrap().unwrap();
    guard.ensure(SECOND / 2).expect("each is renewed");
    assert_eq!(guard.token("a").unwrap(), FencingToken::MIN, "it was held all the while");
}

#[tokio::test(start_paused = true)]
async fn where_one_is_lost_while_another_is_waited_for_all_are_taken_again() {
    let (remote, locks) = link().await;
    let other = remote.store().hold("b", "another").unwrap();
    let all = locks.all(["a", "b"]).ttl(SECOND);
    let waiting = tokio::spawn(all.acquire_within(10 * SECOND));
    let mut tokens = Vec::new();
    for _ in 0..3 {
        tokio::time::sleep(SECOND).await;
        tokens.extend(remote.store().expire("a"));
    }
    assert_eq!(tokens.len(), 3, "it was held again each time");
    tokio::time::sleep(SECOND).await;
    drop(other);
    let guard = waiting.await.unwrap().unwrap();
    assert!(guard.is_held() && guard.token("a").unwrap() > tokens[2]);
    drop(guard.release().await);

    // The time limit is one for all that.
    let other = remote.store().hold("b", "another").unwrap();
    let began = Instant::now();
    let waiting = tokio::spawn(all.acquire_within(3 * SECOND));
    for _ in 0..4 {
        tokio::time::sleep(SECOND / 2).await;
        remote.store().expire("a");
    }
    let error = waiting.await.unwrap().expect_err("the time is up");
    assert!(matches!(error, Error::TimedOut { .. }), "{error}");
    assert!(began.elapsed() < 3 * SECOND + SECOND / 10);
    drop(other);
    is_cleared(&remote, &["a", "b"], SECOND / 10).await;
}

#[tokio::test(start_paused = true)]
async fn dropped_after_any_time_it_leaves_nothing() {
    let (remote, locks) = link().await;
    for held in [None, Some("a"), Some("b"), Some("c")] {
        for limit in 0..60 {
            let other = held.map(|name| remote.store().hold(name, "another").unwrap());
            let taking = locks.all(["c", "a", "b"]).acquire();
            let taken = tokio::time::timeout(limit * MS, taking).await;
            assert!(held.is_none() || taken.is_err());
            drop((taken, other));
            is_cleared(&remote, &["a", "b", "c"], 100 * MS).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_guard_is_lost_with_the_first_name_and_tells_which() {
    let (remote, locks) = link().await;
    let guard = locks.all(["a", "b"]).ttl(SECOND).acquire().await.unwrap();
    let (lost, at_risk) = (guard.lost(), guard.at_risk());
    remote.store().expire("b");
    let (name, reason) = lost.await;
    assert_eq!((name.as_str(), reason), ("b", LossReason::Removed));
    at_risk.await;
    assert!(!guard.is_held() && guard.remaining() == Some(Duration::ZERO));
    let error = guard.ensure(Duration::ZERO).expect_err("one is lost");
    assert_eq!(error.lock(), Some("b"));
    assert!(guard.get("a").unwrap().is_held(), "the others are held until it is released");
    let released = guard.release().await;
    assert!(released[0].1.is_ok() && matches!(released[1].1, Err(Error::Lost { .. })));
    is_cleared(&remote, &["a", "b"], MS).await;

    let stopped = AtomicUsize::new(0);
    let run = locks.all(["a", "b"]).ttl(SECOND).run(async |_: &MultiGuard| {
        remote.store().expire("a");
        tokio::time::sleep(2 * SECOND).await;
        stopped.fetch_add(1, Ordering::SeqCst);
    });
    let error = run.await.expect_err("stopped");
    assert!(matches!(error, Error::Lost { .. }) && error.lock() == Some("a"));
    assert_eq!(stopped.load(Ordering::SeqCst), 0);
    is_cleared(&remote, &["a", "b"], 50 * MS).await;
    assert_eq!(locks.all(["a", "b"]).run(async |_| 7).await.unwrap(), 7);
    is_cleared(&remote, &["a", "b"], MS).await;
}

#[tokio::test(start_paused = true)]
async fn a_longest_hold_counts_from_when_all_are_held() {
    let (remote, locks) = link().await;
    let other = remote.store().hold("b", "another").unwrap();
    let waiting = tokio::spawn(locks.all(["a", "b"]).max_hold(3 * SECOND).acquire());
    tokio::time::sleep(10 * SECOND).await;
    drop(other);
    let guard = waiting.await.unwrap().unwrap();
    let began = Instant::now();
    assert!(guard.remaining() > Some(2 * SECOND));
    let (name, reason) = guard.lost().await;
    assert_eq!(reason, LossReason::MaxHold, "{name} after {:?}", began.elapsed());
    assert!((2 * SECOND..4 * SECOND).contains(&began.elapsed()), "{:?}", began.elapsed());
    is_cleared(&remote, &["a", "b"], SECOND / 10).await;
}

#[tokio::test(start_paused = true)]
async fn closing_ends_the_wait_and_leaves_nothing() {
    let (remote, locks) = link().await;
    let other = remote.store().hold("b", "another").unwrap();
    let waiting = tokio::spawn(locks.all(["a", "b"]).acquire());
    tokio::time::sleep(SECOND).await;
    locks.close(SECOND).await.unwrap();
    assert!(matches!(waiting.await.unwrap(), Err(Error::Closed)));
    drop(other);
    is_cleared(&remote, &["a", "b"], MS).await;
}

#[test]
fn it_works_in_a_task_and_outside_a_runtime() {
    fn sent<T: Send + 'static>(future: T) -> T {
        future
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let handle = runtime.handle().clone();
    let locks = Locks::builder().runtime(handle).build(Memory::new());
    let all = locks.all(["a", "b"]);
    drop(sent(all.run(async |_: &MultiGuard| tokio::task::yield_now().await)));
    let guard = futures_executor::block_on(sent(all.acquire())).unwrap();
    drop(sent(guard.lost()));
    let late = futures_executor::block_on(sent(all.acquire_within(10 * MS)));
    assert!(matches!(late, Err(Error::TimedOut { .. })));
    let released = futures_executor::block_on(sent(guard.release()));
    assert!(released.iter().all(|(_, released)| released.is_ok()));
}
