//! A quorum of memory stores as the suite takes it.

use std::sync::Arc;

use lockkit_core::conformance::{Fixture, Hook, Time};
use lockkit_core::{LockName, LockProvider, Memory, Quorum, Result, async_trait};

/// Five stores, and the time that they live by.
#[derive(Debug)]
pub(crate) struct OfMembers {
    members: [Memory; 5],
    time: Time,
}

impl OfMembers {
    pub(crate) fn new(time: Time) -> Self {
        Self { members: std::array::from_fn(|_| Memory::new()), time }
    }
}

#[async_trait]
impl Fixture for OfMembers {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        let members = self.members.iter().cloned();
        let members = members.map(|member| Arc::new(member) as Arc<dyn LockProvider>);
        Ok(Arc::new(Quorum::new(members)?))
    }

    fn time(&self) -> Time {
        self.time
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        (self.time == Time::Virtual).then(|| Arc::new(Self::new(self.time)) as Arc<dyn Fixture>)
    }

    fn store(&self) -> String {
        let of = "a quorum of memory stores";
        if self.time == Time::Virtual { format!("{of} in virtual time") } else { of.to_owned() }
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        for member in &self.members {
            member.expire(name.as_str());
        }
        Ok(())
    }
}
