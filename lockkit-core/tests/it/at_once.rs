//! What a store answers at once: leases without a task of their own, until they need one.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockkit_core::{
    Applied, Clock, Error, Grant, Guarantees, Lease, LockProvider, Locks, LossReason, Memory,
    Operator, Request, Result, Term, async_trait,
};
use tokio::runtime::{Builder, Handle, Runtime};

const SECOND: Duration = Duration::from_secs(1);

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_lease_has_no_task_before_it_was_held_for_a_moment() {
    let locks = Locks::builder().clock(Clock::tokio()).build(Memory::new());
    let before = tasks();
    for n in 0..100 {
        let guard = locks.lock(format!("{n}")).acquire().await.unwrap();
        guard.release().await.unwrap();
    }
    assert!(tasks() - before <= 1, "{} tasks for leases that have ended", tasks() - before);
    let mut held = Vec::new();
    for n in 0..100 {
        held.push(locks.lock(format!("{n}")).ttl(SECOND).acquire().await.unwrap());
    }
    tokio::time::sleep(SECOND / 100).await;
    assert_eq!(tasks() - before, held.len(), "each is kept");
    tokio::time::sleep(5 * SECOND).await;
    assert!(held.iter().all(lockkit_core::Guard::is_held), "and renewed");
    drop(held);
    tokio::time::sleep(SECOND).await;
    assert_eq!(tasks(), before);
}

#[tokio::test(start_paused = true)]
async fn a_guard_that_is_dropped_at_once_frees_its_name() {
    let locks = Locks::builder().clock(Clock::tokio()).build(Memory::new());
    let watch = {
        let guard = locks.lock("a").acquire().await.unwrap();
        guard.watch()
    };
    assert!(!watch.is_held());
    locks.lock("a").acquire_within(SECOND).await.expect("free").renew().await.expect("held");
    locks.close(SECOND).await.expect("nothing is left");
}

#[test]
fn a_runtime_that_stops_right_after_a_grant_frees_it_and_tells_the_guard() {
    for runtime in [one_thread(), Builder::new_multi_thread().enable_all().build().unwrap()] {
        let locks = Locks::memory();
        let guard = runtime.block_on(locks.lock("a").acquire()).unwrap();
        drop(runtime);
        assert!(!guard.is_held());
        let rest = one_thread();
        assert_eq!(rest.block_on(guard.lost()), LossReason::DriverStopped);
        rest.block_on(locks.lock("a").acquire_within(10 * SECOND)).expect("free again").token();
    }
}

#[test]
fn a_lease_is_kept_in_its_own_runtime_while_another_stands_still() {
    let locks = Locks::memory();
    let (still, runs) = (one_thread(), one_thread());
    let _first = still.block_on(locks.lock("a").acquire()).unwrap();
    runs.block_on(async {
        assert_eq!(tasks(), 0);
        let guard = locks.lock("b").acquire().await.unwrap();
        assert_eq!(tasks(), 1, "it does not wait for the other runtime's task");
        guard.renew().await.expect("kept");
    });
}

/// Grants at once, and releases later.
#[derive(Clone, Debug)]
struct SlowEnd {
    store: Memory,
    /// How the next releases begin.
    panics: Arc<AtomicUsize>,
}

#[async_trait]
impl LockProvider for SlowEnd {
    fn guarantees(&self) -> Guarantees {
        self.store.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.store.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let Grant { token, term, lease, .. } = self.store.acquire(request).await?;
        Ok(Grant::new(token, term, SlowLease { panics: Arc::clone(&self.panics), lease }))
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

#[derive(Debug)]
struct SlowLease {
    panics: Arc<AtomicUsize>,
    lease: Box<dyn Lease>,
}

#[async_trait]
impl Lease for SlowLease {
    async fn renew(&self) -> Result<Term> {
        self.lease.renew().await
    }

    async fn lost(&self) -> LossReason {
        self.lease.lost().await
    }

    async fn release(&self) -> Result<()> {
        let left =
            self.panics.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        assert!(left.is_err(), "a bug in the client");
        tokio::time::sleep(SECOND).await;
        self.lease.release().await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}

fn slow_end(panics: usize) -> (Locks, Memory) {
    let store = Memory::new();
    let provider = SlowEnd { store: store.clone(), panics: Arc::new(AtomicUsize::new(panics)) };
    (Locks::builder().clock(Clock::tokio()).build(provider), store)
}

#[tokio::test(start_paused = true)]
async fn a_release_whose_caller_leaves_goes_on() {
    let (locks, store) = slow_end(0);
    let guard = locks.lock("a").acquire().await.unwrap();
    let left = tokio::time::timeout(SECOND / 10, guard.release()).await;
    assert!(left.is_err(), "{left:?}");
    assert!(store.hold("a", "another").is_err(), "the store has not released it yet");
    tokio::time::sleep(2 * SECOND).await;
    drop(store.hold("a", "another").expect("free"));
    let guard = locks.lock("a").acquire().await.unwrap();
    guard.release().await.expect("a release that is waited for");
    locks.close(SECOND).await.expect("nothing is left");
}

#[tokio::test(start_paused = true)]
async fn a_bug_in_a_release_is_an_ambiguous_failure_and_the_release_is_repeated() {
    let (locks, store) = slow_end(1);
    let guard = locks.lock("a").acquire().await.unwrap();
    let error = guard.release().await.expect_err("it panicked");
    assert!(matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }), "{error}");
    tokio::time::sleep(3 * SECOND).await;
    drop(store.hold("a", "another").expect("free"));
}

#[test]
fn a_release_in_another_executor_keeps_its_time_limit() {
    let home = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let provider = SlowEnd { store: Memory::new(), panics: Arc::default() };
    let locks = Locks::builder().runtime(home.handle().clone()).build(provider);
    let guard = futures_executor::block_on(locks.lock("a").acquire()).unwrap();
    futures_executor::block_on(guard.release()).expect("its timers are those of the given runtime");
}

#[test]
fn a_caller_whose_acquires_are_all_granted_at_once_leaves_room_for_other_tasks() {
    let (done, ended) = std::sync::mpsc::channel();
    // A thread of its own: a caller that never gives way would end no test.
    std::thread::spawn(move || {
        one_thread().block_on(async {
            let locks = Locks::memory();
            let turns = async {
                loop {
                    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
                }
            };
            tokio::time::timeout(SECOND / 10, turns).await.expect_err("it goes on for ever");
        });
        done.send(()).unwrap();
    });
    ended.recv_timeout(60 * SECOND).expect("a time limit beside such a caller");
}

#[test]
fn a_manual_clock_needs_no_timers_of_the_runtime() {
    let panicked = Arc::new(AtomicUsize::new(0));
    let (ours, others, counted) =
        (std::thread::current().id(), std::panic::take_hook(), Arc::clone(&panicked));
    std::panic::set_hook(Box::new(move |panic| {
        if std::thread::current().id() == ours {
            counted.fetch_add(1, Ordering::SeqCst);
        }
        others(panic);
    }));
    let locks = Locks::builder().clock(Clock::manual()).build(Memory::new());
    Builder::new_current_thread().build().unwrap().block_on(async {
        for _ in 0..3 {
            let guard = locks.lock("a").acquire().await.unwrap();
            tokio::task::yield_now().await;
            assert!(guard.is_held());
            guard.release().await.unwrap();
        }
    });
    assert_eq!(panicked.load(Ordering::SeqCst), 0, "no task of a lease panicked");
}
