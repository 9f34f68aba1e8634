//! The clock that front and supervisor share.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// It goes on while the machine is suspended, as the ttl in the store does.
#[cfg(any(target_os = "linux", target_os = "android"))]
const CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const CLOCK: ClockId = ClockId::Monotonic;

/// The time since the machine started: the same in each process.
pub(super) fn now() -> Duration {
    Duration::try_from(clock_gettime(CLOCK)).unwrap_or_default()
}
