//! How long a session lasts for the ttl that it gives, and how often it is proven.

use std::time::Duration;

use lockkit_core::kit::LONGEST_CALL;

/// How many ticks a session lasts longer than the ttl that it gives: half of one passes before a follower
/// tells its leader of a heartbeat, and half of what is left between two heartbeats.
const SPARE: u32 = 1;

/// The session for a ttl, and its pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    tick: Duration,
    pub(crate) timeout: Duration,
}

impl Pace {
    /// The session that gives this ttl.
    pub(crate) fn of(ttl: Duration, tick: Duration) -> Self {
        Self { tick, timeout: ttl.saturating_add(tick * SPARE) }
    }

    /// The session that lasts so long.
    pub(crate) const fn lasting(timeout: Duration, tick: Duration) -> Self {
        Self { tick, timeout }
    }

    /// The ttl that it gives.
    pub(crate) fn ttl(self) -> Duration {
        self.timeout.saturating_sub(self.tick * SPARE).max(self.timeout / 8)
    }

    /// Between two heartbeats while the session is in use.
    pub(crate) fn interval(self) -> Duration {
        (self.ttl() / 8).min(self.tick / 4)
    }

    /// Silence for this long makes the driver try another server. Its own pings, due after three
    /// eighths of it, never come before a heartbeat.
    pub(crate) fn silence(self) -> Duration {
        (self.timeout / 4).min((self.interval() * 3).max(LONGEST_CALL))
    }
}
