//! Whether the machine gave a test its time.
//!
//! A machine that stands still, since it is moved, copied or given to others, renews no lease and
//! keeps no time limit; nor does a store whose threads wait for a core. What a test finds out meanwhile
//! about exclusion, tokens, order and residue stands all the same. A time bound that is missed
//! meanwhile says nothing.

use std::collections::VecDeque;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::pressure::{self, Pressure};
use super::starved::{LONG_STALL, Starved};
use crate::{Clock, Instant};

/// How often the watch looks at the time; a look that is late by less is a scheduler's matter.
const TICK: Duration = Duration::from_millis(20);
/// Stalls that lie so close together add up: no bound of the cases is shorter than half of it.
const TOGETHER: Duration = Duration::from_secs(1);

/// A thread that does nothing but look at the time, to tell whether the machine gave a test too little
/// of it.
///
/// What holds this thread up holds up every thread of the process. What a test, its store or a client
/// does to other threads does not hold it up.
///
/// ```
/// use lockkit_core::conformance::StallWatch;
///
/// let watch = StallWatch::start();
/// // Here a test measures how long something takes.
/// if let Some(starved) = watch.starved() {
///     println!("{}", starved.inconclusive());
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
        Self::by(Clock::system(), pressure::total)
    }

    fn by(clock: Clock, waited: fn() -> Option<Duration>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let seen = Arc::new(Mutex::new(Seen::since(clock.now(), waited)));
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
        self.now().map_or(Duration::ZERO, |seen| seen.longest)
    }

    /// What the machine kept from this test since the start, if that was enough to explain a missed
    /// time bound.
    pub fn starved(&self) -> Option<Starved> {
        let Seen { longest, pressure, .. } = self.now()?;
        if longest >= LONG_STALL {
            return Some(Starved::StoodStill(longest));
        }
        pressure.longest().map(Starved::Crowded)
    }

    /// What it has seen until now; `None` without a thread that looks.
    fn now(&self) -> Option<Seen> {
        self.thread.as_ref()?;
        let mut seen = lock(&self.seen).clone();
        seen.look(self.clock.now());
        Some(seen)
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
#[derive(Clone, Debug)]
struct Seen {
    /// The last look at the time.
    looked: Instant,
    /// The stalls that may still add up: when each ended, and how long it was.
    recent: VecDeque<(Instant, Duration)>,
    longest: Duration,
    pressure: Pressure,
}

impl Seen {
    fn since(now: Instant, waited: fn() -> Option<Duration>) -> Self {
        let pressure = Pressure::since(now, waited);
        Self { looked: now, recent: VecDeque::new(), longest: Duration::ZERO, pressure }
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
        self.pressure.look(now);
    }

    /// How late a look is that comes now; zero if that is no stall.
    fn stall_by(&self, now: Instant) -> Duration {
        let late = now.saturating_since(self.looked).saturating_sub(TICK);
        if late < TICK { Duration::ZERO } else { late }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The longest stall of a process that runs and is then stopped, so long each, and again.
    fn longest(times: &[(u64, u64)]) -> Duration {
        let mut now = Instant::from_origin(Duration::from_secs(1));
        let mut seen = Seen::since(now, || None);
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
        let watch = StallWatch::by(clock.clone(), || None);
        assert_eq!((watch.longest(), watch.starved()), (Duration::ZERO, None));
        clock.advance(LONG_STALL + TICK);
        assert_eq!(watch.longest(), LONG_STALL);
        assert_eq!(watch.starved(), Some(Starved::StoodStill(LONG_STALL)));
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
    fn a_stall_is_told_before_a_crowd() {
        let clock = Clock::manual();
        let watch = StallWatch::by(clock.clone(), || Some(Duration::ZERO));
        clock.advance(LONG_STALL + TICK);
        assert_eq!(watch.starved(), Some(Starved::StoodStill(LONG_STALL)));
        let crowded = Starved::Crowded(Duration::from_millis(940)).inconclusive();
        let said =
            "inconclusive: the machine kept threads waiting for a core for 940 ms of a second";
        assert_eq!(crowded, said);
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
