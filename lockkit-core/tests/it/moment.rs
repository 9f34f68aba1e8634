//! Attempts that the store answers within a moment: they have no task of their own, and lose nothing by that.

use std::fmt;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, Mutex, OnceLock, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use lockkit_core::{
    Clock, Error, Grant, Guarantees, LockProvider, Locks, Memory, Operator, Request, Result,
    async_trait,
};
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::mpsc::unbounded_channel;

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

/// Whether an attempt on this name goes on at this poll of its call.
type GoesOn = dyn Fn(&str, usize, &mut Context<'_>) -> bool + Send + Sync;

/// A memory store whose `acquire` asks a closure at each of its polls whether it goes on.
#[derive(Clone)]
struct Polled {
    store: Memory,
    goes_on: Arc<GoesOn>,
}

impl Polled {
    /// Locks whose attempts go on at the poll at which `goes_on` says so: by the name, and how many polls there were.
    fn locks(
        clock: Clock,
        goes_on: impl Fn(&str, usize, &mut Context<'_>) -> bool + Send + Sync + 'static,
    ) -> Locks {
        let store = Memory::new();
        Locks::builder().clock(clock).build(Self { store, goes_on: Arc::new(goes_on) })
    }
}

impl fmt::Debug for Polled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Polled")
    }
}

#[async_trait]
impl LockProvider for Polled {
    fn guarantees(&self) -> Guarantees {
        self.store.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.store.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let mut polls = 0;
        poll_fn(|cx| {
            polls += 1;
            let goes_on = (self.goes_on)(request.name().as_str(), polls, cx);
            if goes_on { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        self.store.acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.store.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.store.operator()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_poll_that_blocks_keeps_no_other_attempt_from_its_task() {
    let (polled, mut polls) = unbounded_channel();
    let (unblock, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(blocked);
    let locks = Polled::locks(Clock::system(), move |name, number, cx| {
        let _ = polled.send((name.to_owned(), number));
        match (name, number) {
            ("blocks", 1) => cx.waker().wake_by_ref(),
            ("blocks", 2) => drop(blocked.lock().unwrap().recv()),
            _ => return number > 1,
        }
        false
    });
    let mut until = async |name: &str, number: usize| {
        let seen = async { while polls.recv().await.unwrap() != (name.to_owned(), number) {} };
        tokio::time::timeout(10 * SECOND, seen).await.is_ok()
    };
    let blocks = tokio::spawn(locks.lock("blocks").acquire());
    assert!(until("blocks", 2).await);
    let other = tokio::spawn(locks.lock("other").acquire());
    // Its second poll is its task's: nothing wakes its caller.
    let has_task = until("other", 2).await;
    unblock.send(()).unwrap();
    assert!(has_task);
    other.await.unwrap().unwrap().release().await.unwrap();
    // Due for its task while it was polled.
    blocks.await.unwrap().unwrap().release().await.unwrap();
    locks.close(10 * SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_waker_that_panics_takes_no_task_from_others() {
    struct Panics;
    impl Wake for Panics {
        fn wake(self: Arc<Self>) {
            panic!("a waker with a bug");
        }
    }
    let remote = Remote::new();
    let locks = remote.locks();
    let panics = Waker::from(Arc::new(Panics));
    let mut attempts = Vec::new();
    for (name, waker) in [("panics", &panics), ("other", Waker::noop())] {
        remote.fail_next(Op::Acquire, Fault::SlowReply(5 * MILLISECOND));
        let mut attempt = Box::pin(locks.lock(name).ttl(SECOND).acquire());
        assert!(attempt.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
        attempts.push(attempt);
    }
    // Asked for and renewed since, by the task of each.
    tokio::time::sleep(10 * SECOND).await;
    for name in ["panics", "other"] {
        assert!(locks.lock(name).try_acquire().await.unwrap().is_none(), "{name} is free");
    }
    for attempt in attempts {
        let guard = attempt.await.unwrap();
        assert!(guard.is_held());
        guard.release().await.unwrap();
    }
    locks.close(SECOND).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_is_parked_while_its_locks_close_is_told_at_once() {
    let closing = Arc::<OnceLock<Locks>>::default();
    let locks = Polled::locks(Clock::tokio(), {
        let closing = Arc::clone(&closing);
        move |_, number, _| {
            if let (1, Some(locks)) = (number, closing.get()) {
                // Its first poll closes them; the rest goes on in the background.
                let mut close = pin!(locks.close(SECOND));
                assert!(close.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            }
            false
        }
    });
    assert!(closing.set(locks.clone()).is_ok());
    let began = tokio::time::Instant::now();
    assert!(matches!(locks.lock("a").acquire().await, Err(Error::Closed)));
    assert!(began.elapsed() <= MILLISECOND, "after {:?}", began.elapsed());
}
