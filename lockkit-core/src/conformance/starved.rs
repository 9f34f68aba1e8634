//! What the machine kept from a test.

use std::fmt;
use std::time::Duration;

/// How much time must be missing within one second to explain a missed time bound: half of the slack
/// that the bounds of the suite's cases have.
pub const LONG_STALL: Duration = Duration::from_millis(250);

/// What the machine kept from a test: so much time that a missed time bound says nothing.
///
/// ```
/// use std::time::Duration;
///
/// use lockkit_core::conformance::Starved;
///
/// let starved = Starved::StoodStill(Duration::from_millis(312));
/// assert_eq!(starved.to_string(), "the machine stood still for 312 ms");
/// assert_eq!(starved.inconclusive(), "inconclusive: the machine stood still for 312 ms");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Starved {
    /// The test's own process did not run for so long within one second.
    StoodStill(Duration),
    /// For so long within one second, and for at least half of it, some thread was ready to run and had
    /// no core: one of the store's server, maybe. Linux tells it (`/proc/pressure/cpu`).
    Crowded(Duration),
}

impl Starved {
    /// What a test prints that missed a time bound meanwhile.
    pub fn inconclusive(self) -> String {
        format!("inconclusive: {self}")
    }
}

impl fmt::Display for Starved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StoodStill(stall) => {
                write!(f, "the machine stood still for {} ms", stall.as_millis())
            }
            Self::Crowded(waited) => {
                let waited = waited.as_millis();
                write!(f, "the machine kept threads waiting for a core for {waited} ms of a second")
            }
        }
    }
}
