//! The cases that every fence must pass, with which the author of one shows that it refuses stale holders.
//!
//! Implement [`Resource`] for a fence with a number behind it, and [`Fixture`] for what makes fresh ones; then
//! [`failures`] must give none. It needs no runtime of its own.
//!
//! ```
//! # futures_executor::block_on(async {
//! use lockkit_fence::conformance::{Fixture, Resource, failures};
//! use lockkit_fence::{Access, Fenced, Fencing, Result};
//!
//! #[derive(Default)]
//! struct Counter(Fenced<u64>);
//!
//! impl Fencing for Counter {
//!     async fn raise(&self, access: Access) -> Result<()> {
//!         Ok(self.0.access_as(access, |_| ())?)
//!     }
//!
//!     async fn check(&self, access: Access) -> Result<()> {
//!         Ok(self.0.check(access)?)
//!     }
//!
//!     fn is_durable(&self) -> bool {
//!         false
//!     }
//! }
//!
//! impl Resource for Counter {
//!     async fn begin(&self, access: Access) -> Result<u64> {
//!         Ok(self.0.access_as(access, |value| *value)?)
//!     }
//!
//!     async fn write(&self, access: Access, value: u64) -> Result<()> {
//!         Ok(self.0.access_as(access, |kept| *kept = value)?)
//!     }
//!
//!     async fn restarted(self) -> Self {
//!         self
//!     }
//! }
//!
//! struct Fresh;
//!
//! impl Fixture for Fresh {
//!     type Resource = Counter;
//!
//!     async fn fresh(&self) -> Counter {
//!         Counter::default()
//!     }
//! }
//!
//! assert_eq!(failures(&Fresh).await, []);
//! # });
//! ```

mod cases;
mod resource;
mod together;

use std::fmt;
use std::future::Future;

pub use resource::Resource;

/// Makes fresh resources, one for each case.
pub trait Fixture: Sync {
    /// What the cases are about.
    type Resource: Resource;

    /// A resource that has seen no token, apart from every other.
    fn fresh(&self) -> impl Future<Output = Self::Resource> + Send;
}

/// A case that a fence did not pass.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The case, by its id.
    pub case: &'static str,
    /// What was seen, and what the rule expects.
    pub why: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.case, self.why)
    }
}

/// Runs every case on fresh resources, and gives those that failed.
pub async fn failures<F: Fixture>(fixture: &F) -> Vec<Failure> {
    let mut failures = Vec::new();
    macro_rules! run {
        ($($id:literal $case:path;)*) => {$(
            if let Err(why) = $case(fixture.fresh().await).await {
                failures.push(Failure { case: $id, why });
            }
        )*};
    }
    run! {
        "FN-01 older tokens are refused" cases::older_tokens_are_refused;
        "FN-02 a check remembers nothing" cases::a_check_remembers_nothing;
        "FN-03 tokens compare as numbers" cases::tokens_compare_as_numbers;
        "FN-04 shared grants pass in any order" cases::shared_grants_pass_in_any_order;
        "FN-05 each slot has its own fence" cases::each_slot_has_its_own_fence;
        "FN-06 a refused write changes nothing" cases::a_refused_write_changes_nothing;
        "FN-07 a new holder's read is not undone" cases::a_new_holders_read_is_not_undone;
        "FN-08 the newest of two raises stays" cases::the_newest_of_two_raises_stays;
        "FN-09 a durable fence survives a restart" cases::a_durable_fence_survives_a_restart;
        "FN-10 a random walk follows the rule" cases::a_random_walk_follows_the_rule;
    }
    failures
}
