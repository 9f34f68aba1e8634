//! Callers that leave in masses: another caller of the same client goes on beside them.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockkit_core::{
    Clock, Grant, Guarantees, Lease, LockProvider, Locks, LossReason, Memory, Operator, Request,
    Result, Term, async_trait,
};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A memory store that serves one call after the other, each in a tenth of a millisecond.
#[derive(Clone, Debug)]
struct Narrow(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Memory,
    turn: tokio::sync::Mutex<()>,
    served: AtomicUsize,
    withdrawing: AtomicUsize,
    most_withdrawing: AtomicUsize,
}

impl Narrow {
    fn new() -> Self {
        let (turn, served, withdrawing, most_withdrawing) = Default::default();
        Self(Arc::new(Inner { store: Memory::new(), turn, served, withdrawing, most_withdrawing }))
    }

    async fn serve(&self) {
        let _turn = self.0.turn.lock().await;
        self.0.served.fetch_add(1, Ordering::SeqCst);
        // Tokio's timers are no finer than a millisecond: each tenth call takes one.
        if self.0.served.load(Ordering::SeqCst) % 10 == 0 {
            tokio::time::sleep(MILLISECOND).await;
        }
    }
}

#[async_trait]
impl LockProvider for Narrow {
    fn guarantees(&self) -> Guarantees {
        self.0.store.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.serve().await;
        self.0.store.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.serve().await;
        let Grant { token, term, lease, .. } = self.0.store.acquire(request).await?;
        Ok(Grant::new(token, term, NarrowLease { store: self.clone(), lease }))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let asking = self.0.withdrawing.fetch_add(1, Ordering::SeqCst) + 1;
        self.0.most_withdrawing.fetch_max(asking, Ordering::SeqCst);
        self.serve().await;
        self.0.withdrawing.fetch_sub(1, Ordering::SeqCst);
        self.0.store.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.0.store.operator()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

#[derive(Debug)]
struct NarrowLease {
    store: Narrow,
    lease: Box<dyn Lease>,
}

#[async_trait]
impl Lease for NarrowLease {
    async fn renew(&self) -> Result<Term> {
        self.store.serve().await;
        self.lease.renew().await
    }

    async fn lost(&self) -> LossReason {
        self.lease.lost().await
    }

    async fn release(&self) -> Result<()> {
        self.store.serve().await;
        self.lease.release().await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.lease.native()
    }
}

/// How many calls the store serves while another caller takes and releases a name, the most of many times,
/// and how many callers have left meanwhile.
async fn served_during_a_cycle(narrow: &Narrow, leavers: usize, names: bool) -> (usize, usize) {
    let locks = Locks::builder().clock(Clock::tokio()).build(narrow.clone());
    let _held = locks.lock("held").acquire().await.unwrap();
    // How long an answer takes where nothing else is asked is known, as it is in a program that has begun.
    for _ in 0..5 {
        locks.lock("other").acquire().await.unwrap().release().await.unwrap();
    }
    let left = Arc::<AtomicUsize>::default();
    for n in 0..leavers {
        let name = if names { format!("held/{n}") } else { "held".to_owned() };
        let (lock, left) = (locks.lock(name), Arc::clone(&left));
        tokio::spawn(async move {
            loop {
                drop(tokio::time::timeout(MILLISECOND, lock.acquire()).await);
                left.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        });
    }
    // What they asked first is served by then.
    tokio::time::sleep(400 * MILLISECOND).await;
    let mut most = 0;
    for _ in 0..50 {
        let before = narrow.0.served.load(Ordering::SeqCst);
        locks.lock("other").acquire().await.unwrap().release().await.unwrap();
        most = most.max(narrow.0.served.load(Ordering::SeqCst) - before);
        tokio::time::sleep(MILLISECOND).await;
    }
    (most, left.load(Ordering::SeqCst))
}

#[test]
fn sixty_four_that_leave_at_once_do_not_keep_the_store_from_another_caller() {
    for names in [false, true] {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let narrow = Narrow::new();
        let (most, left) = runtime.block_on(served_during_a_cycle(&narrow, 64, names));
        assert!(left > 5_000, "{left} have left: that is no mass");
        // Alone it is 2. Each of its two calls may find some calls of every other caller before it, and the
        // withdrawals that go at once, but not all that is left to do: without turns it is 4,100.
        assert!(most <= 1_000, "{most} calls were served meanwhile");
        let withdrawing = narrow.0.most_withdrawing.load(Ordering::SeqCst);
        assert!(withdrawing <= 64, "{withdrawing} withdrawals at once");
    }
}
