//! Whether the machine gave a test's process its time.
//!
//! A machine that stands still, since it is moved, copied or given to others, renews no lease and
//! keeps no time limit. What a test finds out meanwhile about exclusion, tokens, order and residue
//! stands all the same. A time bound that is missed meanwhile says nothing.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::{Clock, Instant};

/// How long a stall must be to explain a missed time bound: half of the slack that the bounds of the
/// suite's cases have.
pub const LONG_STALL: Duration = Duration::from_millis(250);

/// How often the watch looks at the time; a look that is late by less is a scheduler's matter.
const TICK: Duration = Duration::from_millis(20);
/// Stalls that lie so close together add up: no bound of the cases is shorter than half of it.
const TOGETHER: Duration = Duration::from_secs(1);

/// What a test prints when it missed a time bound and its process stood still for `stall` meanwhile.
///
/// ```
/// use std::time::Duration;
///
/// use lockkit_core::conformance::inconclusive;
///
/// let said = inconclusive(Duration::from_millis(312));
/// assert_eq!(said, "inconclusive: the machine stood still for 312 ms");
/// ```
pub fn inconclusive(stall: Duration) -> String {
    format!("inconclusive: {}", stood_still(stall))
}

pub(super) fn stood_still(stall: Duration) -> String {
    format!("the machine stood still for {} ms", stall.as_millis())
}

/// A thread that does nothing but look at the time, to tell for how long its process stood still.
///
/// What holds this thread up holds up every thread of the process. What a test, its store or a client
/// does to other threads does not hold it up.
///
/// ```
/// use lockkit_core::conformance::{LONG_STALL, StallWatch, inconclusive};
///
/// let watch = StallWatch::start();
/// // Here a test measures how long something takes.
/// if watch.longest() >= LONG_STALL {
///     println!("{}", inconclusive(watch.longest()));
/// }
/// ```
#[derive(Debug)]
pub struct StallWatch {
    seen: Arc<Mutex<Seen>>,
    clock: Clock,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl StallWatch {
    /// Starts to watch this process; the watch ends when it is dropped.
    pub fn start() -> Self {
        Self::by(Clock::system())
    }

    fn by(clock: Clock) -> Self {
        let (stop, stopped) = mpsc::channel();
        let seen = Arc::new(Mutex::new(Seen::since(clock.now())));
        let look = {
            let (seen, clock) = (Arc::clone(&seen), clock.clone());
            move || {
                while stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout) {
                    lock(&seen).look(clock.now());
                }
            }
        };
        // Without a thread the watch sees no stall.
        let thread = thread::Builder::new().name("stalls".into()).spawn(look).ok();
        Self { seen, clock, stop: Some(stop), thread }
    }

    /// The longest stall since the start, one that goes on included.
    ///
    /// Stalls within one second count as one: a process that is stopped again and again misses its
    /// bounds as one does that is stopped once.
    pub fn longest(&self) -> Duration {
        if self.thread.is_none() {
            return Duration::ZERO;
        }
        lock(&self.seen).longest_by(self.clock.now())
    }
}

impl Drop for StallWatch {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

fn lock(seen: &Mutex<Seen>) -> std::sync::MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the watch has seen.
#[derive(Debug)]
struct Seen {
    /// The last look at the time.
    looked: Instant,
    /// The stalls that may still add up: when each ended, and how long it was.
    recent: VecDeque<(Instant, Duration)>,
    longest: Duration,
}

impl Seen {
    const fn since(now: Instant) -> Self {
        Self { looked: now, recent: VecDeque::new(), longest: Duration::ZERO }
    }

    fn look(&mut self, now: Instant) {
        let stall = self.stall_by(now);
        self.looked = now;
        while self.recent.front().is_some_and(|(end, _)| now.saturating_since(*end) > TOGETHER) {
            self.recent.pop_front();
        }
        if !stall.is_zero() {
            self.recent.push_back((now, stall));
            let sum = self.recent.iter().map(|(_, stall)| *stall).sum();
            self.longest = self.longest.max(sum);
        }
    }

    /// How late a look is that comes now; zero if that is no stall.
    fn stall_by(&self, now: Instant) -> Duration {
        let late = now.saturating_since(self.looked).saturating_sub(TICK);
        if late < TICK { Duration::ZERO } else { late }
    }

    /// The longest stall, with the one that lasts until now.
    fn longest_by(&self, now: Instant) -> Duration {
        let mut seen =
            Self { looked: self.looked, recent: self.recent.clone(), longest: self.longest };
        seen.look(now);
        seen.longest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest stall of a process that runs and is then stopped, so long each, and again.
    fn longest(times: &[(u64, u64)]) -> Duration {
        let mut now = Instant::from_origin(Duration::from_secs(1));
        let mut seen = Seen::since(now);
        for (runs, stopped) in times {
            for _ in 0..runs / 20 {
                now = now.saturating_add(TICK);
                seen.look(now);
            }
            now = now.saturating_add(TICK + Duration::from_millis(*stopped));
            seen.look(now);
        }
        seen.longest
    }

    #[test]
    fn a_watch_tells_of_the_longest_stall_and_of_one_that_goes_on() {
        let clock = Clock::manual();
        let watch = StallWatch::by(clock.clone());
        assert_eq!(watch.longest(), Duration::ZERO);
        clock.advance(LONG_STALL + TICK);
        assert_eq!(watch.longest(), LONG_STALL);
        assert_eq!(longest(&[(0, 300), (2000, 400), (2000, 200)]), Duration::from_millis(400));
    }

    #[test]
    fn stalls_within_a_second_add_up_and_others_do_not() {
        let ms = Duration::from_millis;
        assert_eq!(longest(&[(100, 100), (100, 100), (100, 100)]), ms(300));
        assert_eq!(longest(&[(100, 100), (2000, 100), (2000, 100)]), ms(100));
        // A thread that has half of the time, in turns of 50 ms.
        assert!(longest(&[(40, 50); 40]) >= LONG_STALL);
    }

    #[test]
    fn looks_that_a_scheduler_delays_a_little_are_no_stalls() {
        assert_eq!(longest(&[(0, 19); 1000]), Duration::ZERO);
    }

    #[test]
    fn a_process_that_is_given_its_time_has_no_stall_of_minutes() {
        let watch = StallWatch::start();
        assert!(watch.longest() < Duration::from_secs(60));
    }
}
