//! How a case's body ends early: for good, or by a time bound that it missed.

use std::fmt;
use std::time::Duration;

use super::outcome::Outcome;
use crate::{Error, Guard, LossReason};

pub(super) type Verdict<T = ()> = Result<T, Stop>;

/// Why a case's body ended early.
#[derive(Debug)]
pub(super) enum Stop {
    /// For good: an overlap, a token, an order, a residue, or whatever else no delay explains.
    Final(Outcome),
    /// A time bound was missed: a machine that stood still explains it.
    Late(String),
}

impl Stop {
    /// What the case says does not hold, whatever the machine did.
    pub(super) fn failed(why: impl Into<String>) -> Self {
        Self::Final(Outcome::Failed(why.into()))
    }

    /// A time bound was missed.
    pub(super) fn late(why: impl Into<String>) -> Self {
        Self::Late(why.into())
    }

    /// An error where none may come.
    pub(super) fn error(error: &Error, what: impl fmt::Display) -> Self {
        let why = format!("{what}: {error}");
        if is_late(error) { Self::late(why) } else { Self::failed(why) }
    }

    /// This stop, told of a part of the case: late stays late, and final stays final.
    pub(super) fn of(self, part: impl fmt::Display) -> Self {
        match self {
            Self::Late(why) => Self::late(format!("{part}: {why}")),
            Self::Final(Outcome::Failed(why)) => Self::failed(format!("{part}: {why}")),
            Self::Final(outcome) => Self::failed(format!("{part}: {outcome:?}")),
        }
    }
}

/// Whether nothing but time explains an error: a limit that passed, a store that did not answer, or
/// a deadline before which no renewal was acknowledged.
pub(super) const fn is_late(error: &Error) -> bool {
    matches!(
        error,
        Error::TimedOut { .. }
            | Error::Unavailable { .. }
            | Error::Lost { reason: LossReason::Expired, .. }
    )
}

/// What the parts of a case that ran side by side came to; a part that failed for good comes before
/// one that is late.
pub(super) fn all<T>(parts: impl IntoIterator<Item = Verdict<T>>) -> Verdict<Vec<T>> {
    let (mut done, mut late) = (Vec::new(), None);
    for part in parts {
        match part {
            Ok(part) => done.push(part),
            Err(stop @ Stop::Final(_)) => return Err(stop),
            Err(stop) => late = late.or(Some(stop)),
        }
    }
    late.map_or(Ok(done), Err)
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::error(&error, "a call that must succeed here did not")
    }
}

impl From<tokio::task::JoinError> for Stop {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::failed(format!("a call of the client panicked, or its task was ended: {error}"))
    }
}

impl From<std::io::Error> for Stop {
    fn from(error: std::io::Error) -> Self {
        Self::failed(format!("a process that the case started did not work: {error}"))
    }
}

/// Fails the case unless the condition holds, whatever the machine did.
macro_rules! require {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::conformance::stop::Stop::failed(format!($($why)+)));
        }
    };
}
pub(super) use require;

/// Fails the case unless the condition holds, which says that something did not take too long: a
/// machine that stood still explains it if it does not hold.
macro_rules! require_in_time {
    ($condition:expr, $($why:tt)+) => {
        if !$condition {
            return Err($crate::conformance::stop::Stop::late(format!($($why)+)));
        }
    };
}
pub(super) use require_in_time;

/// Fails the case unless the guard, which is renewed, is held.
///
/// A guard that is lost by its deadline was not renewed in time. One that the store ended, or that
/// says nothing of a loss, is a mistake.
pub(super) fn require_held(guard: &Guard, why: impl fmt::Display) -> Verdict {
    if guard.is_held() {
        return Ok(());
    }
    match guard.ensure(Duration::ZERO) {
        Ok(_) => Err(Stop::failed(format!("{why}: not held, and ensured all the same"))),
        Err(error) => Err(Stop::error(&error, why)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Applied, Locks, Memory};

    /// Whether a machine that stood still explains it.
    fn is_excused(stop: &Stop) -> bool {
        matches!(stop, Stop::Late(_))
    }

    #[test]
    fn only_errors_that_time_explains_are_late() {
        let cut = |applied| Error::unavailable(applied, "no answer");
        let late = [
            Error::timed_out(None),
            cut(Applied::No),
            cut(Applied::Maybe),
            Error::lost(LossReason::Expired),
        ];
        for error in late {
            assert!(is_excused(&Stop::from(error.clone())), "{error}");
        }
        let lost = [
            LossReason::Removed,
            LossReason::Revoked,
            LossReason::SessionEnded,
            LossReason::MaxHold,
            LossReason::Closed,
            LossReason::DriverStopped,
            LossReason::Released,
        ];
        let others = [Error::rejected("a", "b"), Error::Closed, Error::NoRuntime];
        for error in lost.map(Error::lost).into_iter().chain(others) {
            assert!(!is_excused(&Stop::from(error.clone())), "{error}");
        }
    }

    #[test]
    fn only_a_condition_in_time_is_late_if_it_does_not_hold() {
        let verdict = |holds: bool| -> Verdict {
            require!(holds, "an overlap");
            Ok(())
        };
        let bound = |holds: bool| -> Verdict {
            require_in_time!(holds, "too late");
            Ok(())
        };
        assert!(verdict(true).is_ok() && bound(true).is_ok());
        assert!(verdict(false).is_err_and(|stop| !is_excused(&stop)));
        assert!(bound(false).is_err_and(|stop| is_excused(&stop)));
    }

    #[test]
    fn what_is_said_of_a_part_stays_late_or_final() {
        let of = |stop: Stop| stop.of("round 1");
        assert!(matches!(of(Stop::late("a")), Stop::Late(why) if why == "round 1: a"));
        let failed = Outcome::Failed("round 1: a".to_owned());
        assert!(matches!(of(Stop::failed("a")), Stop::Final(outcome) if outcome == failed));
        let skipped = Stop::Final(Outcome::NotReached("a hook".to_owned()));
        assert!(matches!(of(skipped), Stop::Final(Outcome::Failed(_))));
    }

    #[test]
    fn a_part_that_failed_for_good_comes_before_one_that_is_late() {
        let late = || Err(Stop::late("late"));
        assert!(all([late(), Ok(1)]).is_err_and(|stop| is_excused(&stop)));
        let parts = [late(), Err(Stop::failed("an overlap")), Ok(1)];
        assert!(all(parts).is_err_and(|stop| !is_excused(&stop)));
        assert!(all([Ok(1), Ok(2)]).is_ok_and(|done| done == [1, 2]));
    }

    #[tokio::test(start_paused = true)]
    async fn a_guard_that_its_deadline_ended_is_late_and_one_that_the_store_ended_is_not() {
        let memory = Memory::new();
        let locks = Locks::builder().clock(crate::Clock::tokio()).build(memory.clone());
        let guard = locks.lock("late").renew_manually().acquire().await.expect("free");
        assert!(require_held(&guard, "held").is_ok());
        guard.lost().await;
        assert!(require_held(&guard, "lost").is_err_and(|stop| is_excused(&stop)));

        let guard = locks.lock("removed").acquire().await.expect("free");
        memory.expire("removed");
        guard.lost().await;
        assert!(require_held(&guard, "removed").is_err_and(|stop| !is_excused(&stop)));
    }
}
