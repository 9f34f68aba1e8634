//! An unusual store as the suite takes it.

use std::sync::Arc;

use lockkit_core::conformance::{Fixture, Hook, Linked, Served, Time};
use lockkit_core::{LockName, LockProvider, Result, async_trait};

use super::manner::Manner;
use super::provider::Unusual;
use crate::broken::flaw::SmallFixture;

/// A store of this manner, for the suite to acquit.
pub(crate) struct UnusualFixture {
    manner: &'static Manner,
    small: Arc<dyn Fixture>,
}

impl UnusualFixture {
    pub(crate) fn new(manner: &'static Manner, time: Time) -> Self {
        let small = Arc::new(SmallFixture::new(&manner.small, time));
        Self { manner, small }
    }

    fn of(&self, small: Arc<dyn Fixture>) -> Self {
        Self { manner: self.manner, small }
    }

    fn client(&self, small: Arc<dyn LockProvider>) -> Arc<dyn LockProvider> {
        Arc::new(Unusual::new(small, self.manner))
    }
}

#[async_trait]
impl Fixture for UnusualFixture {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(self.client(self.small.connect().await?))
    }

    fn time(&self) -> Time {
        self.small.time()
    }

    fn hooks(&self) -> &[Hook] {
        self.small.hooks()
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        self.small.fresh().map(|small| Arc::new(self.of(small)) as Arc<dyn Fixture>)
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        self.small.remove(name).await
    }

    async fn forget(&self, name: &LockName) -> Result<()> {
        self.small.forget(name).await
    }

    async fn refuse(&self, name: &LockName, refuses: bool) -> Result<()> {
        self.small.refuse(name, refuses).await
    }

    async fn read_only(&self, is_read_only: bool) -> Result<()> {
        self.small.read_only(is_read_only).await
    }

    async fn linked(&self) -> Result<Linked> {
        let mut linked = self.small.linked().await?;
        linked.client = self.client(linked.client);
        Ok(linked)
    }

    async fn served(&self) -> Result<Served> {
        let mut served = self.small.served().await?;
        served.fixture = Arc::new(self.of(served.fixture));
        Ok(served)
    }
}
