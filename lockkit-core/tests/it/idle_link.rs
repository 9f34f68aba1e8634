//! Cases at the link prove nothing at one that nobody goes through, and say so.

use std::sync::Arc;
use std::time::Duration;

use lockkit_core::conformance::{
    Fixture, Hook, Level, Link, Linked, Outcome, Time, Traffic, Way, cases, check,
};
use lockkit_core::{LockProvider, Memory, Result, async_trait};

/// A fixture that forgot to send its client through the link.
struct PastTheLink(Memory);

#[async_trait]
impl Fixture for PastTheLink {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        Ok(Arc::new(self.0.clone()))
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        Some(Arc::new(Self(Memory::new())))
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Link]
    }

    async fn linked(&self) -> Result<Linked> {
        Ok(Linked::new(self.connect().await?, Idle))
    }
}

/// A link that carries nothing.
struct Idle;

#[async_trait]
impl Link for Idle {
    async fn pass(&self) -> Result<()> {
        Ok(())
    }

    async fn refuse(&self) -> Result<()> {
        Ok(())
    }

    async fn reset(&self) -> Result<()> {
        Ok(())
    }

    async fn blackhole(&self) -> Result<()> {
        Ok(())
    }

    async fn blackhole_old(&self) -> Result<()> {
        Ok(())
    }

    async fn lose(&self, _: Way) -> Result<()> {
        Ok(())
    }

    async fn hold(&self, _: Way) -> Result<()> {
        Ok(())
    }

    async fn hold_old(&self, _: Way) -> Result<()> {
        Ok(())
    }

    async fn deliver(&self) -> Result<()> {
        Ok(())
    }

    async fn delay(&self, _: Duration) -> Result<()> {
        Ok(())
    }

    async fn cut(&self, _: Way, _: u64) -> Result<()> {
        Ok(())
    }

    async fn traffic(&self) -> Result<Traffic> {
        Ok(Traffic::default())
    }
}

#[test]
fn no_case_passes_at_a_link_that_carries_nothing() {
    let mut failed = 0;
    for case in cases().iter().filter(|case| case.level() == Level::Link) {
        match check(case.id, Arc::new(PastTheLink(Memory::new()))) {
            Outcome::Failed(_) => failed += 1,
            other => panic!("{case}: {other:?}"),
        }
    }
    assert!(failed >= 20, "there are only {failed} cases at the link");
}
