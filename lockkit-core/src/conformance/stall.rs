//! Whether the machine went on while a case ran.
//!
//! A machine that stands still, since it is moved, copied or given to others, renews no lease and
//! keeps no time limit: a case that fails meanwhile says nothing of the store, and runs again. One
//! that fails while the machine goes on has failed, and so has one that never gets a fair run.

use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::notes::{Figure, Measure};
use super::{CaseRun, Outcome};
use crate::Clock;

/// How often the time is looked at.
const TICK: Duration = Duration::from_millis(20);
/// So long a stall uses up half the slack of the cases' bounds.
const LONG: Duration = Duration::from_millis(250);
/// How often a case runs again.
const AGAIN: u64 = 2;

/// A thread that does nothing but look at the time: what holds it up holds everybody up, and what a
/// store or its client does to the threads of a case does not.
struct Watch {
    stop: mpsc::Sender<()>,
    thread: Option<JoinHandle<Duration>>,
}

impl Watch {
    fn by(clock: Clock) -> Self {
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
        // Without a thread nothing is seen, and every failure counts.
        Self { stop, thread: thread::Builder::new().name("stalls".into()).spawn(look).ok() }
    }

    /// Ends it: the longest that the machine stood still.
    fn longest(self) -> Duration {
        drop(self.stop);
        self.thread.and_then(|thread| thread.join().ok()).unwrap_or_default()
    }
}

/// The first run of a case that counts.
pub(super) fn fair_run(mut run: impl FnMut() -> CaseRun) -> CaseRun {
    first_fair(|| {
        let watch = Watch::by(Clock::system());
        let run = run();
        (run, watch.longest())
    })
}

fn first_fair(mut run: impl FnMut() -> (CaseRun, Duration)) -> CaseRun {
    let mut unfair = 0;
    loop {
        let (mut run, stall) = run();
        if let Outcome::Failed(why) = &mut run.outcome
            && stall >= LONG
        {
            if unfair < AGAIN {
                unfair += 1;
                continue;
            }
            why.push_str(&format!(
                " (the machine stood still for {stall:.1?}, as in {unfair} runs before)"
            ));
        }
        if unfair > 0 {
            let what = "runs that failed while the machine stood still".to_owned();
            run.figures.push(Figure { what, value: Measure::Count(unfair) });
        }
        return run;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::cases;
    use crate::conformance::notes::Notes;

    const FAIR: Duration = Duration::from_millis(249);

    fn failed(why: &str) -> Outcome {
        Outcome::Failed(why.to_owned())
    }

    /// The outcome of runs that end like this one after the other, and how many there were.
    fn settled(runs: &[(Outcome, Duration)]) -> (CaseRun, usize) {
        let mut left = runs.iter();
        let run = first_fair(|| {
            let (outcome, stall) = left.next().expect("no more runs than are wanted").clone();
            (CaseRun::new(&cases()[0], outcome, Duration::ZERO, &Notes::default()), stall)
        });
        (run, runs.len() - left.len())
    }

    #[test]
    fn a_failure_counts_unless_the_machine_stood_still() {
        let passes = (Outcome::Passed, Duration::ZERO);
        let (run, runs) = settled(&[(failed("lost"), FAIR), passes.clone()]);
        assert_eq!((run.outcome, run.figures.len(), runs), (failed("lost"), 0, 1));

        let (run, runs) = settled(&[(failed("lost"), LONG), passes.clone(), passes]);
        assert_eq!((run.outcome, run.figures.len(), runs), (Outcome::Passed, 1, 2));
        assert_eq!(run.figures[0].value, Measure::Count(1));

        let (run, runs) = settled(&[(failed("lost"), LONG), (failed("again"), FAIR)]);
        assert_eq!((run.outcome, runs), (failed("again"), 2));
    }

    #[test]
    fn what_is_no_failure_counts_in_any_case() {
        let not_reached = Outcome::NotReached("a hook".to_owned());
        for outcome in [Outcome::Passed, not_reached] {
            let (run, runs) = settled(&[(outcome.clone(), 10 * LONG)]);
            assert_eq!((run.outcome, run.figures.len(), runs), (outcome, 0, 1));
        }
    }

    #[test]
    fn a_case_that_never_gets_a_fair_run_has_failed() {
        let (run, runs) = settled(&[(failed("a"), LONG), (failed("b"), LONG), (failed("c"), LONG)]);
        let why = "c (the machine stood still for 250.0ms, as in 2 runs before)";
        assert_eq!((run.outcome, run.figures.len(), runs), (failed(why), 1, 3));
    }

    #[test]
    fn a_leap_of_the_time_is_a_stall() {
        let clock = Clock::manual();
        let watch = Watch::by(clock.clone());
        clock.advance(Duration::from_secs(3));
        assert_eq!(watch.longest(), Duration::from_secs(3) - TICK);
    }
}
