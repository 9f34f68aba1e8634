//! The fence in memory.

use lockkit_fence::conformance::{Fixture, Resource, failures};
use lockkit_fence::{Access, Fenced, Fencing, Result};

#[derive(Default)]
struct Counter(Fenced<u64>);

impl Fencing for Counter {
    async fn raise(&self, access: Access) -> Result<()> {
        Ok(self.0.access_as(access, |_| ())?)
    }

    async fn check(&self, access: Access) -> Result<()> {
        Ok(self.0.check(access)?)
    }

    fn is_durable(&self) -> bool {
        false
    }
}

impl Resource for Counter {
    async fn begin(&self, access: Access) -> Result<u64> {
        Ok(self.0.access_as(access, |value| *value)?)
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        Ok(self.0.access_as(access, |kept| *kept = value)?)
    }

    async fn restarted(self) -> Self {
        self
    }
}

struct Fresh;

impl Fixture for Fresh {
    type Resource = Counter;

    async fn fresh(&self) -> Counter {
        Counter::default()
    }
}

#[test]
fn a_fenced_value_passes_every_case() {
    assert_eq!(futures_executor::block_on(failures(&Fresh)), []);
}
