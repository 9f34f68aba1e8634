//! Runs a case, and once more where the machine gave it too little time.

use std::env;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use super::case::Case;
use super::fixture::{Fixture, Time};
use super::notes::Notes;
use super::one_run::ended;
use super::outcome::Outcome;
use super::report::CaseRun;
use super::stall::StallWatch;
use super::starved::Starved;
use super::stop::{Stop, Verdict};

/// First runs share it; a second run has it alone, so that no other case of the process takes time
/// from it.
static TURN: RwLock<()> = RwLock::new(());

/// The environment variable of a runner that runs inconclusive cases once more itself.
const LATER: &str = "LOCKKIT_RERUN_LATER";

/// Runs a case, and once more if the first run says nothing; the second run counts.
pub(super) fn run_case(case: &'static Case, fixture: Arc<dyn Fixture>) -> CaseRun {
    let first = {
        let _shared = TURN.read().unwrap_or_else(PoisonError::into_inner);
        Run::of(case, Arc::clone(&fixture))
    };
    let Some(why) = why_inconclusive(&first.ended, first.starved, fixture.time()) else {
        return first.counts(case, None);
    };
    if env::var_os(LATER).is_some() {
        let inconclusive = Err(Stop::failed(why));
        return Run { ended: inconclusive, starved: None, ..first }.counts(case, None);
    }
    println!("{}: {why}; it runs once more", case.id);
    let _alone = TURN.write().unwrap_or_else(PoisonError::into_inner);
    Run::of(case, fixture).counts(case, Some((why, first.took)))
}

/// One run of a case.
struct Run {
    ended: Verdict,
    notes: Notes,
    /// How long it took by the machine's clock.
    took: Duration,
    /// What the machine kept from it.
    starved: Option<Starved>,
}

impl Run {
    fn of(case: &'static Case, fixture: Arc<dyn Fixture>) -> Self {
        let (notes, started, watch) = (Notes::default(), Instant::now(), StallWatch::start());
        let ended = ended(case, fixture, &notes)
            .and_then(|()| did_enough(case, notes.operations(), notes.faults()));
        Self { ended, notes, took: started.elapsed(), starved: watch.starved() }
    }

    /// What the case comes to if this run counts; `before` is a run that said nothing.
    fn counts(self, case: &'static Case, before: Option<(String, Duration)>) -> CaseRun {
        let Self { ended, notes, took, starved } = self;
        let (rerun, took_before) = before.unzip();
        let took = took + took_before.unwrap_or_default();
        let outcome = match outcome(ended, starved) {
            Outcome::Failed(why) => {
                let calls = notes.calls();
                Outcome::Failed(calls.short(why) + &calls.story())
            }
            outcome => outcome,
        };
        CaseRun { rerun, ..CaseRun::new(case, outcome, took, &notes) }
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
/// That is a time bound that was missed while the machine gave it too little time, and nothing else. In
/// virtual time no bound depends on the machine.
fn why_inconclusive(ended: &Verdict, starved: Option<Starved>, time: Time) -> Option<String> {
    match (ended, starved) {
        (Err(Stop::Late(why)), Some(starved)) if time == Time::Real => {
            Some(format!("{} ({why})", starved.inconclusive()))
        }
        _ => None,
    }
}

/// What a run that counts comes to; a failure tells what the machine kept from it.
fn outcome(ended: Verdict, starved: Option<Starved>) -> Outcome {
    let outcome = match ended {
        Ok(()) => Outcome::Passed,
        Err(Stop::Late(why)) => Outcome::Failed(why),
        Err(Stop::Final(outcome)) => outcome,
    };
    match (outcome, starved) {
        (Outcome::Failed(why), Some(starved)) => {
            Outcome::Failed(format!("{why} ({starved} meanwhile)"))
        }
        (outcome, _) => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STALL: Starved = Starved::StoodStill(Duration::from_millis(250));
    const CROWD: Starved = Starved::Crowded(Duration::from_millis(940));

    fn failed(why: &str) -> Outcome {
        Outcome::Failed(why.to_owned())
    }

    #[test]
    fn only_a_time_bound_that_is_missed_for_want_of_time_is_inconclusive() {
        let late = Err(Stop::late("granted: not within 1s"));
        for starved in [STALL, CROWD] {
            let why = why_inconclusive(&late, Some(starved), Time::Real);
            let said = format!("inconclusive: {starved} (granted: not within 1s)");
            assert_eq!(why, Some(said));
            assert_eq!(why_inconclusive(&late, Some(starved), Time::Virtual), None);
        }
        assert_eq!(why_inconclusive(&late, None, Time::Real), None);
    }

    #[test]
    fn every_other_end_counts_however_little_time_there_was() {
        let skipped = Stop::Final(Outcome::NotReached("a hook".to_owned()));
        for ended in [Ok(()), Err(Stop::failed("two guards held")), Err(skipped)] {
            for starved in [STALL, CROWD] {
                assert_eq!(why_inconclusive(&ended, Some(starved), Time::Real), None);
            }
        }
    }

    #[test]
    fn a_failure_stands_and_tells_of_a_long_stall() {
        for stop in [Stop::failed, Stop::late] {
            let stalled = failed("lost (the machine stood still for 250 ms meanwhile)");
            assert_eq!(outcome(Err(stop("lost")), Some(STALL)), stalled);
            assert_eq!(outcome(Err(stop("lost")), None), failed("lost"));
        }
    }

    #[test]
    fn no_other_outcome_is_changed_by_a_stall() {
        assert_eq!(outcome(Ok(()), Some(STALL)), Outcome::Passed);
        let skipped = Outcome::NotReached("a hook".to_owned());
        let ended = Err(Stop::Final(skipped.clone()));
        assert_eq!(outcome(ended, Some(CROWD)), skipped);
    }
}
