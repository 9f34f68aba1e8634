//! Runs a case, and once more where the machine gave it too little time.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::notes::Notes;
use super::stall::stood_still;
use super::stop::{Stop, Verdict};
use super::{Case, CaseRun, Fixture, LONG_STALL, Outcome, StallWatch, Time, inconclusive, runner};

/// Runs a case, and once more if the first run says nothing; the second run counts.
pub(super) fn run_case(case: &'static Case, fixture: Arc<dyn Fixture>) -> CaseRun {
    let first = Run::of(case, Arc::clone(&fixture));
    let Some(why) = why_inconclusive(&first.ended, first.stall, fixture.time()) else {
        return first.counts(case, None);
    };
    println!("{}: {why}; it runs once more", case.id);
    Run::of(case, fixture).counts(case, Some((why, first.took)))
}

/// One run of a case.
struct Run {
    ended: Verdict,
    notes: Notes,
    /// How long it took by the machine's clock.
    took: Duration,
    /// The longest stall meanwhile.
    stall: Duration,
}

impl Run {
    fn of(case: &'static Case, fixture: Arc<dyn Fixture>) -> Self {
        let (notes, started, watch) = (Notes::default(), Instant::now(), StallWatch::start());
        let ended = runner::ended(case, fixture, &notes)
            .and_then(|()| did_enough(case, notes.operations(), notes.faults()));
        Self { ended, notes, took: started.elapsed(), stall: watch.longest() }
    }

    /// What the case comes to if this run counts; `before` is a run that said nothing.
    fn counts(self, case: &'static Case, before: Option<(String, Duration)>) -> CaseRun {
        let Self { ended, notes, took, stall } = self;
        let (rerun, took_before) = before.unzip();
        let took = took + took_before.unwrap_or_default();
        CaseRun { rerun, ..CaseRun::new(case, outcome(ended, stall), took, &notes) }
    }
}

fn did_enough(case: &Case, operations: u64, faults: u64) -> Verdict {
    if operations >= case.least_operations && faults >= case.least_faults {
        return Ok(());
    }
    Err(Stop::failed(format!(
        "it did {operations} operations under {faults} faults, and proves nothing with fewer than \
         {} under {}",
        case.least_operations, case.least_faults
    )))
}

/// Why a run says nothing, so that its case runs once more; `None`: it counts.
///
/// That is a time bound that was missed while the machine stood still, and nothing else. In virtual
/// time no bound depends on the machine.
fn why_inconclusive(ended: &Verdict, stall: Duration, time: Time) -> Option<String> {
    match ended {
        Err(Stop::Late(why)) if time == Time::Real && stall >= LONG_STALL => {
            Some(format!("{} ({why})", inconclusive(stall)))
        }
        _ => None,
    }
}

/// What a run that counts comes to; a failure tells for how long the machine stood still meanwhile,
/// if that was long.
fn outcome(ended: Verdict, stall: Duration) -> Outcome {
    let outcome = match ended {
        Ok(()) => Outcome::Passed,
        Err(Stop::Late(why)) => Outcome::Failed(why),
        Err(Stop::Final(outcome)) => outcome,
    };
    match outcome {
        Outcome::Failed(why) if stall >= LONG_STALL => {
            Outcome::Failed(format!("{why} ({} meanwhile)", stood_still(stall)))
        }
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = LONG_STALL.saturating_sub(Duration::from_millis(1));

    fn failed(why: &str) -> Outcome {
        Outcome::Failed(why.to_owned())
    }

    #[test]
    fn only_a_time_bound_that_is_missed_in_a_long_stall_is_inconclusive() {
        let late = Err(Stop::late("granted: not within 1s"));
        let why = why_inconclusive(&late, LONG_STALL, Time::Real);
        let said = "inconclusive: the machine stood still for 250 ms (granted: not within 1s)";
        assert_eq!(why.as_deref(), Some(said));
        assert_eq!(why_inconclusive(&late, SHORT, Time::Real), None);
        assert_eq!(why_inconclusive(&late, 10 * LONG_STALL, Time::Virtual), None);
    }

    #[test]
    fn every_other_end_counts_however_long_the_machine_stood_still() {
        let skipped = Stop::Final(Outcome::NotReached("a hook".to_owned()));
        for ended in [Ok(()), Err(Stop::failed("two guards held")), Err(skipped)] {
            assert_eq!(why_inconclusive(&ended, 10 * LONG_STALL, Time::Real), None);
        }
    }

    #[test]
    fn a_failure_stands_and_tells_of_a_long_stall() {
        for stop in [Stop::failed, Stop::late] {
            let stalled = failed("lost (the machine stood still for 250 ms meanwhile)");
            assert_eq!(outcome(Err(stop("lost")), LONG_STALL), stalled);
            assert_eq!(outcome(Err(stop("lost")), SHORT), failed("lost"));
        }
    }

    #[test]
    fn no_other_outcome_is_changed_by_a_stall() {
        assert_eq!(outcome(Ok(()), 10 * LONG_STALL), Outcome::Passed);
        let skipped = Outcome::NotReached("a hook".to_owned());
        assert_eq!(outcome(Err(Stop::Final(skipped.clone())), 10 * LONG_STALL), skipped);
    }
}
