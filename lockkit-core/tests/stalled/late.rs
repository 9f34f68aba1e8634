//! The memory store, with a client that is late for the first waits.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use lockkit_core::conformance::Fixture;
use lockkit_core::{
    Grant, Guarantees, LockProvider, Memory, Operator, Request, Result, StoreSays, async_trait,
};

/// Longer than any waiter of the suite may wait for a name that is free, by so much that a bound which
/// begins late in a stall is missed too.
const LATE: Duration = Duration::from_secs(5);

/// A store whose waiters are told of their grants late.
#[derive(Debug)]
pub(crate) struct LateFixture(LateClient);

impl LateFixture {
    /// One that is late for the first `times` waits, over all runs of a case.
    pub(crate) fn new(times: usize) -> Self {
        Self(LateClient { memory: Memory::new(), times: Arc::new(AtomicUsize::new(times)) })
    }
}

#[async_trait]
impl Fixture for LateFixture {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(self.0.clone()))
    }
}

#[derive(Clone, Debug)]
struct LateClient {
    memory: Memory,
    /// How many waits are still to be late.
    times: Arc<AtomicUsize>,
}

impl LateClient {
    fn is_late(&self) -> bool {
        let less = |times: usize| times.checked_sub(1);
        self.times.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok()
    }
}

#[async_trait]
impl LockProvider for LateClient {
    fn guarantees(&self) -> Guarantees {
        self.memory.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.memory.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let grant = self.memory.acquire(request).await?;
        let waited = matches!(request.last_word(), Some(StoreSays::Held(_)));
        if waited && self.is_late() {
            request.clock().sleep(LATE).await;
        }
        Ok(grant)
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.memory.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.memory.operator()
    }

    async fn close(&self) -> Result<()> {
        self.memory.close().await
    }
}
