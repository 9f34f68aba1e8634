//! Whether the machine went on while a case ran.
//!
//! A machine that stands still, since it is moved, copied or given to others, renews no lease and
//! keeps no time limit. A case that fails meanwhile has failed all the same, for exclusion holds
//! through every pause; but it says so, for whoever looks for the cause.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::Outcome;
use crate::Clock;

/// How often the time is looked at.
const TICK: Duration = Duration::from_millis(20);
/// So long a stall uses up half the slack of the cases' bounds.
const LONG: Duration = Duration::from_millis(250);

/// A thread that does nothing but look at the time: what holds it up holds everybody up, and what a
/// store or its client does to the threads of a case does not.
pub(super) struct Watch {
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<Duration>>,
}

impl Watch {
    pub(super) fn by(clock: Clock) -> Self {
        let (stop, stopped) = mpsc::channel();
        let (mut longest, mut before) = (Duration::ZERO, clock.now());
        let look = move || {
            loop {
                let goes_on = stopped.recv_timeout(TICK) == Err(RecvTimeoutError::Timeout);
                let now = clock.now();
                longest = longest.max(now.saturating_since(before).saturating_sub(TICK));
                before = now;
                if !goes_on {
                    return longest;
                }
            }
        };
        // Without a thread nothing is seen.
        Self { stop, thread: thread::Builder::new().name("stalls".into()).spawn(look).ok() }
    }

    /// Ends it; a failure tells for how long the machine stood still meanwhile, if that was long.
    pub(super) fn tell(self, outcome: Outcome) -> Outcome {
        let stall = self.longest();
        match outcome {
            Outcome::Failed(why) if stall >= LONG => Outcome::Failed(format!(
                "{why} (the machine stood still for {stall:.1?} meanwhile)"
            )),
            outcome => outcome,
        }
    }

    fn longest(self) -> Duration {
        drop(self.stop);
        self.thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is told of `outcome` where the time leaps by so much.
    fn told(outcome: Outcome, leap: Duration) -> Outcome {
        let clock = Clock::manual();
        let watch = Watch::by(clock.clone());
        clock.advance(leap);
        watch.tell(outcome)
    }

    #[test]
    fn a_failure_stands_and_tells_of_a_long_stall() {
        let failed = |why: &str| Outcome::Failed(why.to_owned());
        let stalled = failed("lost (the machine stood still for 250.0ms meanwhile)");
        assert_eq!(told(failed("lost"), LONG + TICK), stalled);
        assert_eq!(told(failed("lost"), LONG), failed("lost"), "a tick less is too short");
    }

    #[test]
    fn no_other_outcome_is_changed_by_a_stall() {
        for outcome in [Outcome::Passed, Outcome::NotReached("a hook".to_owned())] {
            assert_eq!(told(outcome.clone(), 10 * LONG), outcome);
        }
    }
}
