//! The conformance suite on the memory provider, in real time.

use std::process::ExitCode;
use std::sync::Arc;

use lockkit_core::conformance::{self, Fixture, Hook};
use lockkit_core::{LockName, LockProvider, Memory, Result, async_trait};

struct RealTime(Memory);

#[async_trait]
impl Fixture for RealTime {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(self.0.clone()))
    }

    fn store(&self) -> String {
        "memory".to_owned()
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
    conformance::main(RealTime(Memory::new()))
}
