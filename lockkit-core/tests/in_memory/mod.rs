//! The memory store as the suite takes it.

use std::sync::Arc;

use lockkit_core::conformance::{Fixture, Hook, Time};
use lockkit_core::{LockName, LockProvider, Memory, Result, async_trait};

/// The reference, and the time that it lives by.
#[derive(Debug)]
pub(crate) struct InMemory {
    memory: Memory,
    time: Time,
}

impl InMemory {
    pub(crate) fn new(time: Time) -> Self {
        Self { memory: Memory::new(), time }
    }
}

#[async_trait]
impl Fixture for InMemory {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(self.memory.clone()))
    }

    fn time(&self) -> Time {
        self.time
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        (self.time == Time::Virtual).then(|| Arc::new(Self::new(self.time)) as Arc<dyn Fixture>)
    }

    fn store(&self) -> String {
        if self.time == Time::Virtual { "memory in virtual time" } else { "memory" }.to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        self.memory.expire(name.as_str());
        Ok(())
    }
}
