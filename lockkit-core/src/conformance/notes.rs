//! What a case measures and counts, for the report.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::call_log::CallLog;

/// So many times have a median worth telling.
const ENOUGH: usize = 20;

/// One thing that a case measured or counted.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Figure {
    /// What it is, for example `hand-off, p50`.
    pub what: String,
    /// How much.
    pub value: Measure,
}

/// How much it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measure {
    /// A time.
    Time(Duration),
    /// A number.
    Count(u64),
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(time) => f.pad(&format!("{time:.1?}")),
            Self::Count(count) => f.pad(&count.to_string()),
        }
    }
}

/// The notes of one run of a case; clones share them, so that they outlive its end.
#[derive(Clone, Debug, Default)]
pub(super) struct Notes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    calls: CallLog,
    figures: Mutex<Vec<Figure>>,
    operations: AtomicU64,
    faults: AtomicU64,
}

impl Notes {
    /// Notes a time.
    pub(super) fn time(&self, what: impl Into<String>, time: Duration) {
        self.note(Figure { what: what.into(), value: Measure::Time(time) });
    }

    /// Notes a number.
    pub(super) fn count(&self, what: impl Into<String>, count: u64) {
        self.note(Figure { what: what.into(), value: Measure::Count(count) });
    }

    /// Notes the slowest of some times, with the median and the 99th of a hundred where there are
    /// enough of them; returns the median.
    pub(super) fn times(&self, what: &str, mut times: Vec<Duration>) -> Duration {
        times.sort_unstable();
        let at = |percent: usize| {
            let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(place).copied().unwrap_or_default()
        };
        for (name, percent) in [("p50", 50), ("p99", 99), ("slowest", 100)] {
            if percent == 100 || times.len() >= ENOUGH {
                self.time(format!("{what}, {name}"), at(percent));
            }
        }
        at(50)
    }

    /// The calls of the case.
    pub(super) fn calls(&self) -> &CallLog {
        &self.0.calls
    }

    /// One more call on a client whose link or server the suite disturbs.
    pub(super) fn operation(&self) {
        self.0.operations.fetch_add(1, Ordering::Relaxed);
    }

    /// One more fault that the suite made.
    pub(super) fn fault(&self) {
        self.0.faults.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn operations(&self) -> u64 {
        self.0.operations.load(Ordering::Relaxed)
    }

    pub(super) fn faults(&self) -> u64 {
        self.0.faults.load(Ordering::Relaxed)
    }

    /// All that was noted so far.
    pub(super) fn figures(&self) -> Vec<Figure> {
        self.0.figures.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn note(&self, figure: Figure) {
        self.0.figures.lock().unwrap_or_else(PoisonError::into_inner).push(figure);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_one_of_the_times() {
        let notes = Notes::default();
        let median = notes.times("wait", (1..=200).rev().map(Duration::from_millis).collect());
        assert_eq!(median, Duration::from_millis(100));
        let of = |what: &str, millis| Figure {
            what: what.to_owned(),
            value: Measure::Time(Duration::from_millis(millis)),
        };
        let expected = [of("wait, p50", 100), of("wait, p99", 198), of("wait, slowest", 200)];
        assert_eq!(notes.figures(), expected);
        let few = Notes::default();
        few.times("wait", [3, 1, 2].map(Duration::from_millis).into());
        assert_eq!(few.figures(), [of("wait, slowest", 3)]);
        assert_eq!(Notes::default().times("nothing", Vec::new()), Duration::ZERO);
    }
}
