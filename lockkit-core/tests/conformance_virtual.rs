//! The conformance suite on the memory provider, in virtual time.

use std::process::ExitCode;
use std::sync::Arc;

use lockkit_core::conformance::{self, Fixture, Hook, Time};
use lockkit_core::{LockName, LockProvider, Memory, Result, async_trait};

struct VirtualTime(Memory);

#[async_trait]
impl Fixture for VirtualTime {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(self.0.clone()))
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        Some(Arc::new(Self(Memory::new())))
    }

    fn store(&self) -> String {
        "memory in virtual time".to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        self.0.expire(name.as_str());
        Ok(())
    }
}

fn main() -> ExitCode {
    conformance::main(VirtualTime(Memory::new()))
}
