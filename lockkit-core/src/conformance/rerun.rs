//! Whether a run of a case counts, or the case runs once more.

use std::time::Duration;

use super::case::{Stop, Verdict};
use super::stall::stood_still;
use super::{LONG_STALL, Outcome, Time, inconclusive};

/// Why a run says nothing, so that its case runs once more; `None`: it counts.
///
/// That is a time bound that was missed while the machine stood still, and nothing else. In virtual
/// time no bound depends on the machine.
pub(super) fn why_inconclusive(ended: &Verdict, stall: Duration, time: Time) -> Option<String> {
    match ended {
        Err(Stop::Late(why)) if time == Time::Real && stall >= LONG_STALL => {
            Some(format!("{} ({why})", inconclusive(stall)))
        }
        _ => None,
    }
}

/// What a run that counts comes to; a failure tells for how long the machine stood still meanwhile,
/// if that was long.
pub(super) fn outcome(ended: Verdict, stall: Duration) -> Outcome {
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
