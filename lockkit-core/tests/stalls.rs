//! What the suite makes of a machine that stands still: a time bound that was missed meanwhile runs
//! once more, and nothing else does.
//!
//! Each test starts this binary again, has it run one case on a store with a mistake, and stops it for
//! 300 ms again and again meanwhile, as a machine does that is given to others.

#[allow(dead_code)] // the programs of the flaws need all of it, and these tests a few flaws
mod broken {
    pub(crate) mod attempt_flaws;
    pub(crate) mod client;
    pub(crate) mod entry;
    pub(crate) mod flaw;
    pub(crate) mod habits;
    pub(crate) mod handed_on;
    pub(crate) mod link;
    pub(crate) mod linked;
    pub(crate) mod rule_flaws;
    pub(crate) mod rules;
    pub(crate) mod store;
    pub(crate) mod twist;
}
#[path = "stalled/late.rs"]
mod late;
#[cfg(unix)]
#[path = "stalled/stopped.rs"]
mod stopped;

use std::env;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use broken::attempt_flaws::attempt_flaws;
use broken::flaw::{Flaw, SmallFixture};
use broken::rule_flaws::RULE_FLAWS;
use late::LateFixture;
use lockkit_core::conformance::{self, Fixture, Time};
use lockkit_core::{LockProvider, Result, async_trait};

/// The environment variable that names the mistake of the store that a child's case runs on.
const MISTAKE: &str = "LOCKKIT_STALLS_MISTAKE";

fn main() -> ExitCode {
    let Ok(mistake) = env::var(MISTAKE) else { return tests() };
    if let Some(times) = mistake.strip_prefix("late-") {
        return conformance::main(LateFixture::new(times.parse().expect("how often it is late")));
    }
    let flaw = attempt_flaws().into_iter().chain(RULE_FLAWS.iter().cloned());
    let flaw = flaw.into_iter().find(|flaw| flaw.name == mistake).expect("a flaw of this name");
    conformance::main(Slow::new(&flaw))
}

#[cfg(unix)]
fn tests() -> ExitCode {
    use libtest_mimic::{Arguments, Trial};
    let trials = vec![
        Trial::test("an_exclusion_bug_fails_at_once", || {
            stopped::fails_at_once("check-then-set", "AT-01", "tasks won round")
        }),
        Trial::test("an_order_bug_fails_at_once", || {
            stopped::fails_at_once("last-in-first-out", "FR-01", "was granted instead of waiter")
        }),
        Trial::test("an_attempt_that_leaves_its_place_fails_at_once", || {
            stopped::fails_at_once("refusal-leaves-place", "C9-03", "ten attempts left")
        }),
        Trial::test("a_withdrawal_that_leaves_its_grant_fails_at_once", || {
            let left = "something is left in the store";
            stopped::fails_at_once("withdrawal-leaves-grant", "AT-09", left)
        }),
        Trial::test("a_withdrawal_that_leaves_its_place_fails_at_once", || {
            let left = "where only the follower waits";
            stopped::fails_at_once("withdrawal-leaves-place", "AT-10", left)
        }),
        Trial::test("a_bound_missed_once_in_a_stall_passes_at_the_second_run", stopped::late_once),
        Trial::test("a_bound_missed_twice_in_a_stall_fails", stopped::late_twice),
        Trial::test("a_bound_missed_without_a_stall_fails_at_once", stopped::late_without_a_stall),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Only on Unix can a process be stopped.
#[cfg(not(unix))]
fn tests() -> ExitCode {
    ExitCode::SUCCESS
}

/// A small store with its flaw, which takes its time to connect at first: long enough for a stall.
#[derive(Debug)]
struct Slow {
    fixture: SmallFixture,
    connected: AtomicUsize,
}

impl Slow {
    fn new(flaw: &Flaw) -> Self {
        Self { fixture: SmallFixture::new(flaw, Time::Real), connected: AtomicUsize::new(0) }
    }
}

#[async_trait]
impl Fixture for Slow {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        // The first one is for the store's claims, the second one is that of the case.
        if self.connected.fetch_add(1, Ordering::SeqCst) == 1 {
            tokio::time::sleep(Duration::from_millis(1000)).await;
        }
        self.fixture.connect().await
    }

    fn time(&self) -> Time {
        self.fixture.time()
    }
}
