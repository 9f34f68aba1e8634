//! Where a provider has no operator, the suite looks into the store past it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lockkit_core::conformance::{Fixture, Outcome, Time, check};
use lockkit_core::{
    Grant, Guarantees, LockName, LockProvider, Memory, Operator, Request, Result, async_trait,
};

/// The memory store, with nothing for operators.
#[derive(Debug)]
struct NoOperator(Memory);

#[async_trait]
impl LockProvider for NoOperator {
    fn guarantees(&self) -> Guarantees {
        self.0.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.0.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.0.acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

/// A store whose own tools see a ghost for the first looks.
struct Haunted {
    store: Memory,
    /// How many looks see it.
    looks: usize,
    looked: AtomicUsize,
}

impl Haunted {
    fn new(looks: usize) -> Arc<Self> {
        Arc::new(Self { store: Memory::new(), looks, looked: AtomicUsize::new(0) })
    }
}

#[async_trait]
impl Fixture for Haunted {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(NoOperator(self.store.clone())))
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    async fn residue(&self, name: &LockName) -> Result<Option<String>> {
        let looked = self.looked.fetch_add(1, Ordering::SeqCst);
        Ok((looked < self.looks).then(|| format!("a ghost at {name}")))
    }
}

#[test]
fn a_ghost_that_stays_fails_each_case_after_which_nothing_may_be_left() {
    for case in ["C9-01", "AT-09", "LV-12", "FR-01"] {
        let outcome = check(case, Haunted::new(usize::MAX));
        let Outcome::Failed(why) = outcome else { panic!("{case}: {outcome:?}") };
        assert!(why.contains("something is left in the store: a ghost at "), "{case}: {why}");
    }
}

#[test]
fn a_ghost_that_goes_in_time_is_none() {
    let haunted = Haunted::new(3);
    let outcome = check("C9-01", Arc::clone(&haunted) as Arc<dyn Fixture>);
    assert!(matches!(outcome, Outcome::Passed), "{outcome:?}");
    assert!(haunted.looked.load(Ordering::SeqCst) > 3, "nobody looked");
}
