//! For how long threads of the whole machine waited for a core.
//!
//! A test's own threads may run while those of the store's server wait: what the kernel counts over
//! all threads tells of both.

use std::collections::VecDeque;
use std::fs;
use std::time::Duration;

use super::starved::LONG_STALL;
use crate::Instant;

/// Where Linux tells it; a kernel without `CONFIG_PSI`, and every other system, tells nothing.
const FILE: &str = "/proc/pressure/cpu";
/// How often it is read.
const EVERY: Duration = Duration::from_millis(100);
/// The time over which it is judged.
const WINDOW: Duration = Duration::from_secs(1);

/// For how long, since the machine started, at least one thread was ready to run and had no core;
/// `None` where the system does not tell.
pub(super) fn total() -> Option<Duration> {
    parsed(&fs::read_to_string(FILE).ok()?)
}

/// The total of a line such as `some avg10=0.00 avg60=0.89 avg300=13.77 total=8258516853`.
fn parsed(text: &str) -> Option<Duration> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    let total = some.split(' ').find_map(|field| field.strip_prefix("total="))?;
    total.parse().ok().map(Duration::from_micros)
}

/// How long threads waited for a core within the worst second since the start.
#[derive(Clone, Debug)]
pub(super) struct Pressure {
    waited: fn() -> Option<Duration>,
    /// What was read within the window, and when, the newest last.
    read: VecDeque<(Instant, Duration)>,
    longest: Option<Duration>,
}

impl Pressure {
    pub(super) fn since(now: Instant, waited: fn() -> Option<Duration>) -> Self {
        let read = waited().map(|total| (now, total)).into_iter().collect();
        Self { waited, read, longest: None }
    }

    pub(super) fn look(&mut self, now: Instant) {
        if self.read.back().is_none_or(|(last, _)| now.saturating_since(*last) < EVERY) {
            return;
        }
        if let Some(total) = (self.waited)() {
            self.note(now, total);
        }
    }

    fn note(&mut self, now: Instant, total: Duration) {
        // The oldest reading stays that is at least a window old.
        while self.read.get(1).is_some_and(|(next, _)| now.saturating_since(*next) >= WINDOW) {
            self.read.pop_front();
        }
        self.read.push_back((now, total));
        let Some((from, before)) = self.read.front() else { return };
        let (time, waited) = (now.saturating_since(*from), total.saturating_sub(*before));
        // A look that came late has seen more than a window.
        let share = WINDOW.as_secs_f64() / time.max(WINDOW).as_secs_f64();
        let (time, waited) = (time.mul_f64(share), waited.mul_f64(share));
        if waited >= LONG_STALL && 2 * waited >= time {
            self.longest = self.longest.max(Some(waited));
        }
    }

    /// For how long threads waited in the worst second; `None`: never for long.
    pub(super) const fn longest(&self) -> Option<Duration> {
        self.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// The worst second where the readings come after these times, and grow by so much each.
    fn longest(readings: &[(u64, u64)]) -> Option<Duration> {
        let (mut now, mut total) = (Instant::from_origin(ms(1_000)), ms(5_000));
        let mut pressure = Pressure::since(now, || Some(ms(5_000)));
        for (after, waited) in readings {
            (now, total) = (now.saturating_add(ms(*after)), total + ms(*waited));
            pressure.note(now, total);
        }
        pressure.longest()
    }

    #[test]
    fn half_a_second_of_waiting_within_a_second_is_long() {
        assert_eq!(longest(&[(100, 50); 10]), Some(ms(500)));
        assert_eq!(longest(&[(100, 49); 100]), None);
        assert_eq!(
            longest(&[[(100, 20); 20], [(100, 90); 20], [(100, 0); 20]].concat()),
            Some(ms(900))
        );
    }

    #[test]
    fn a_short_time_is_judged_by_its_half_and_never_by_less_than_a_long_stall() {
        assert_eq!(longest(&[(100, 100); 2]), None);
        assert_eq!(longest(&[(100, 100); 3]), Some(ms(300)));
        assert_eq!(longest(&[(300, 140)]), None);
    }

    #[test]
    fn readings_that_come_late_count_by_the_second() {
        assert_eq!(longest(&[(5_000, 4_000)]), Some(ms(800)));
        assert_eq!(longest(&[(5_000, 2_000)]), None);
    }

    #[test]
    fn a_system_that_tells_nothing_has_no_pressure() {
        let mut pressure = Pressure::since(Instant::from_origin(ms(0)), || None);
        pressure.look(Instant::from_origin(ms(5_000)));
        assert_eq!(pressure.longest(), None);
        assert_eq!(parsed(""), None);
        let told =
            "some avg10=0.00 avg60=0.89 avg300=13.77 total=8258516853\nfull avg10=0.00 total=0\n";
        assert_eq!(parsed(told), Some(Duration::from_micros(8_258_516_853)));
    }
}
