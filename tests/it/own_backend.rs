//! The example backend passes its suite; broken, it fails exactly the cases that are about that.

use std::collections::BTreeSet;
use std::sync::Arc;

use lockkit_core::conformance::{Fixture, Outcome, Report, Time, run};
use lockkit_core::{LockProvider, Result, async_trait};

#[allow(dead_code, unreachable_pub)] // it is a program of its own
#[path = "../../examples/own_backend.rs"]
mod example;

use example::OwnFixture;

/// The same backend in virtual time, where every run goes the same way.
struct InVirtualTime {
    fixture: OwnFixture,
    is_broken: bool,
}

impl InVirtualTime {
    fn new(is_broken: bool) -> Self {
        Self { fixture: OwnFixture::new(is_broken), is_broken }
    }
}

#[async_trait]
impl Fixture for InVirtualTime {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        self.fixture.connect().await
    }

    fn time(&self) -> Time {
        Time::Virtual
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        Some(Arc::new(Self::new(self.is_broken)))
    }
}

fn report(is_broken: bool) -> Report {
    run(&Arc::new(InVirtualTime::new(is_broken))).expect("the fixture connects")
}

/// What a release that ends the first request of the queue must fail, and nothing else.
const EXPECTED: [&str; 5] = ["C6-04", "PW-01", "RW-01", "SF-01", "SF-03"];

#[test]
fn the_example_passes() {
    let report = report(false);
    assert!(report.is_passed(), "{report}");
    let passed = report.runs().iter().filter(|run| run.outcome == Outcome::Passed).count();
    assert!(passed > 70, "only {passed} cases passed\n{report}");
}

#[test]
fn a_release_without_a_look_at_the_id_fails_exactly_the_expected_cases() {
    for run in 1..=3 {
        let report = report(true);
        let failed: BTreeSet<_> = report.failed().map(|run| run.case.id).collect();
        assert_eq!(failed, BTreeSet::from(EXPECTED), "in run {run}\n{report}");
    }
}
