//! The fence in memory.

use std::sync::Mutex;

use lockkit_fence::conformance::{Fixture, Resource, failures};
use lockkit_fence::{Access, Fence, Fencing, Result};

/// A number that can be read and written past its fence.
#[derive(Default)]
pub(crate) struct Number {
    fence: Fence,
    value: Mutex<u64>,
}

impl Number {
    fn value(&self) -> std::sync::MutexGuard<'_, u64> {
        self.value.lock().expect("no panic")
    }
}

impl Fencing for Number {
    async fn raise(&self, access: Access) -> Result<()> {
        Ok(self.fence.access_as(access, |()| ())?)
    }

    async fn check(&self, access: Access) -> Result<()> {
        Ok(self.fence.check(access)?)
    }

    fn is_durable(&self) -> bool {
        Fencing::is_durable(&self.fence)
    }
}

impl Resource for Number {
    async fn begin(&self, access: Access) -> Result<u64> {
        Ok(self.fence.access_as(access, |()| *self.value())?)
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        Ok(self.fence.access_as(access, |()| *self.value() = value)?)
    }

    async fn restarted(self) -> Self {
        self
    }
}

#[cfg(unix)]
impl crate::pauses::Open for Number {
    async fn peek(&self) -> u64 {
        *self.value()
    }

    async fn overwrite(&self, value: u64) {
        *self.value() = value;
    }
}

pub(crate) struct Fresh;

impl Fixture for Fresh {
    type Resource = Number;

    async fn fresh(&self) -> Number {
        Number::default()
    }
}

#[test]
fn a_fence_in_memory_passes_every_case() {
    assert_eq!(futures_executor::block_on(failures(&Fresh)), []);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_in_memory_keeps_every_update() {
    crate::pauses::holds(&Fresh).await;
}
