//! How long the store's answers take, as the drivers measure it.

use std::collections::VecDeque;
use std::future::Future;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::{Clock, Instant, Result};

/// So many measurements count.
const MOST: usize = 8;
/// For how long a measurement counts: after that a call is sent again, and measured.
const LASTS: Duration = Duration::from_secs(10);

/// The last answers of the store, and how long each took.
#[derive(Debug, Default)]
pub(crate) struct RoundTrips(Mutex<Measured>);

#[derive(Debug, Default)]
struct Measured {
    last: VecDeque<(Instant, Duration)>,
    fastest: Option<Duration>,
}

impl RoundTrips {
    /// Runs a call that the store answers in one round trip, and notes how long a success took.
    pub(crate) async fn measured<T>(
        &self,
        clock: &Clock,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.timed(clock, call, Self::note).await
    }

    /// The same for a call that a client may answer by what it was told before: it says nothing of the fastest.
    pub(crate) async fn measured_lately<T>(
        &self,
        clock: &Clock,
        call: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.timed(clock, call, Self::note_lately).await
    }

    async fn timed<T>(
        &self,
        clock: &Clock,
        call: impl Future<Output = Result<T>>,
        note: impl FnOnce(&Self, Instant, Instant),
    ) -> Result<T> {
        let began = clock.now();
        let answer = call.await;
        if answer.is_ok() {
            note(self, began, clock.now());
        }
        answer
    }

    pub(crate) fn note(&self, began: Instant, ended: Instant) {
        self.note_lately(began, ended);
        let (took, mut measured) = (ended.saturating_since(began), self.measurements());
        measured.fastest = Some(measured.fastest.map_or(took, |fastest| fastest.min(took)));
    }

    fn note_lately(&self, began: Instant, ended: Instant) {
        let mut measured = self.measurements();
        measured.last.truncate(MOST - 1);
        measured.last.push_front((ended, ended.saturating_since(began)));
    }

    /// The shortest of the last ones; zero where nothing was measured lately.
    pub(crate) fn shortest(&self, now: Instant) -> Duration {
        let measured = self.measurements();
        let lately = measured.last.iter().filter(|(ended, _)| now.saturating_since(*ended) < LASTS);
        lately.map(|(_, took)| *took).min().unwrap_or_default()
    }

    /// The shortest of all: as long as the way there and back takes where nothing else is asked. Zero, while
    /// nothing was measured.
    pub(crate) fn fastest(&self) -> Duration {
        self.measurements().fastest.unwrap_or_default()
    }

    fn measurements(&self) -> MutexGuard<'_, Measured> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shortest_of_the_last_answers_counts_for_ten_seconds() {
        let (trips, at) =
            (RoundTrips::default(), |ms| Instant::from_origin(Duration::from_millis(ms)));
        assert_eq!(trips.shortest(at(0)), Duration::ZERO);
        for (began, ended) in [(0, 40), (100, 120), (200, 230)] {
            trips.note(at(began), at(ended));
        }
        assert_eq!(trips.shortest(at(300)), Duration::from_millis(20));
        assert_eq!(trips.shortest(at(10_121)), Duration::from_millis(30));
        assert_eq!(trips.shortest(at(10_230)), Duration::ZERO);
        for n in 0..8 {
            trips.note(at(300 + n), at(400 + n));
        }
        assert_eq!(trips.shortest(at(400)), Duration::from_millis(100), "the last eight count");
        assert_eq!(trips.fastest(), Duration::from_millis(20), "of all");
        trips.note_lately(at(500), at(501));
        assert_eq!(trips.shortest(at(501)), Duration::from_millis(1));
        assert_eq!(trips.fastest(), Duration::from_millis(20), "of those that went to the store");
    }
}
