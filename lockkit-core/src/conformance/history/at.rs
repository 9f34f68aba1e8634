//! The time of an event.

use std::num::NonZeroU64;
use std::time::Duration;

use crate::Instant;

/// An instant in half the room, for millions of events: one more than its nanoseconds since the
/// origin, so that an [`Option`] takes no more. All that lie further than 584 years are one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(NonZeroU64);

impl At {
    pub(super) const fn saturating_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl From<Instant> for At {
    fn from(instant: Instant) -> Self {
        let nanos = u64::try_from(instant.since_origin().as_nanos()).unwrap_or(u64::MAX);
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }
}

impl From<At> for Instant {
    fn from(At(nanos): At) -> Self {
        Self::from_origin(Duration::from_nanos(nanos.get() - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_is_the_same_in_half_the_room_and_centuries_away_the_last_one() {
        let nanos = |nanos| Instant::from_origin(Duration::from_nanos(nanos));
        for instant in [nanos(0), nanos(1), nanos(1_234_567_890_123), nanos(u64::MAX - 1)] {
            assert_eq!(Instant::from(At::from(instant)), instant);
        }
        let last = At::from(nanos(u64::MAX - 1));
        for far in [nanos(u64::MAX), Instant::from_origin(Duration::MAX)] {
            assert_eq!(At::from(far), last);
        }
        assert_eq!(
            At::from(nanos(7)).saturating_since(At::from(nanos(4))),
            Duration::from_nanos(3)
        );
        assert_eq!(At::from(nanos(4)).saturating_since(At::from(nanos(7))), Duration::ZERO);
        assert_eq!(size_of::<Option<At>>() * 2, size_of::<Option<Instant>>());
    }
}
