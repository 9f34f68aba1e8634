//! Upper bounds of time, on a machine that may give this process too little of it.
//!
//! A bound that is missed fails the test. Where the machine stood still meanwhile, or was too busy, the
//! panic says so first: `inconclusive: the machine stood still for 312 ms; ` and then what was missed.
//! Such a miss may run once more. What is waited for has its whole limit again before that, where the machine
//! stood still. What no stall excuses has no place here: two holders at once, a token, an order, and
//! [what must be gone](gone).

use std::fmt::Display;
use std::future::Future;
use std::pin::pin;
use std::time::{Duration, Instant};

use lockkit_core::conformance::{StallWatch, Starved};

use crate::{Error, Result};

/// How often a condition is looked at.
const STEP: Duration = Duration::from_millis(10);
/// How often a limit may begin again, each time after a stall.
const AGAIN: usize = 3;
/// By then a stall that is just over has been noticed, by a thread that stood still too.
const NOTICED: Duration = Duration::from_millis(50);
/// So much of the time of a look counts: the rest is a stall, of this process or of what it asks.
const LOOK: Duration = Duration::from_millis(100);

/// When something began, and whether the machine gave the test its time since.
#[derive(Debug)]
pub struct Stopwatch {
    began: Instant,
    watch: StallWatch,
}

/// Begins to measure, and to watch for stalls.
#[must_use]
pub fn start() -> Stopwatch {
    Stopwatch { began: Instant::now(), watch: StallWatch::start() }
}

impl Stopwatch {
    /// How long ago it was started.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// Whether this process stood still for long since.
    pub(crate) fn stood_still(&self) -> bool {
        matches!(self.watch.starved(), Some(Starved::StoodStill(_)))
    }

    /// Fails: a bound of what is measured is missed, as `text` says.
    ///
    /// # Panics
    /// Always; the message tells first what the machine kept from the test since the start.
    #[track_caller]
    pub fn missed(&self, text: impl Display) -> ! {
        std::thread::sleep(NOTICED);
        panic!("{}{text}", excuse(self.watch.starved()))
    }
}

/// What `future` gives within `limit`, which begins again where this process stood still meanwhile.
///
/// # Panics
/// Where it takes longer.
pub async fn within<F: Future>(limit: Duration, what: &str, future: F) -> F::Output {
    let (began, mut future) = (start(), pin!(future));
    for round in 0..=AGAIN {
        let now = start();
        match tokio::time::timeout(limit, future.as_mut()).await {
            Ok(output) => return output,
            Err(_) => tokio::time::sleep(NOTICED).await,
        }
        if round == AGAIN || !now.stood_still() {
            break;
        }
    }
    began.missed(format_args!("{what}: not within {:?}", began.elapsed()))
}

/// Waits until `holds`, for at most `limit`, which begins again where this process stood still meanwhile.
///
/// # Panics
/// Where it does not hold by then.
pub async fn until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            tokio::time::sleep(STEP).await;
        }
    };
    within(limit, what, held).await;
}

/// Waits for at most `limit` until something is gone, as `is_gone` finds. Time that this process, or what
/// `is_gone` asks, stood still does not count.
///
/// # Panics
/// Where it is left by then. That is a residue, which no stall excuses.
pub async fn gone(limit: Duration, what: &str, mut is_gone: impl AsyncFnMut() -> bool) {
    let mut waited = Duration::ZERO;
    loop {
        let look = Instant::now();
        if is_gone().await {
            return;
        }
        assert!(waited < limit, "{what}: not within {limit:?}");
        tokio::time::sleep(STEP).await;
        waited += look.elapsed().min(LOOK);
    }
}

/// What a call gives that gives up after a limit of its own.
///
/// # Panics
/// Where it is late, or fails in another way.
pub fn kept<T>(call: impl FnOnce() -> Result<T>) -> T {
    let began = start();
    match call() {
        Ok(output) => output,
        // One that cannot come any more is told before the limit.
        Err(Error::Late { what, limit }) if began.elapsed() >= limit => {
            began.missed(Error::Late { what, limit })
        }
        Err(error) => panic!("{error}"),
    }
}

/// Asserts an upper bound of what a [`Stopwatch`] measures.
///
/// ```
/// use std::time::Duration;
/// use testbed::{in_time, timing};
///
/// let began = timing::start();
/// let took = began.elapsed();
/// in_time!(began, took < Duration::from_secs(1), "it took {took:?}");
/// ```
#[macro_export]
macro_rules! in_time {
    ($began:expr, $kept:expr $(,)?) => {
        if !$kept {
            $began.missed(concat!("assertion failed: ", stringify!($kept)));
        }
    };
    ($began:expr, $kept:expr, $($text:tt)+) => {
        if !$kept {
            $began.missed(format_args!($($text)+));
        }
    };
}

/// Asserts that a guard, which is renewed, is held.
///
/// A guard that is lost by its deadline was not renewed in time: a machine that kept threads waiting for a
/// core explains it, as it does every call without an answer.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// let guard = lockkit_core::Locks::memory().lock("a").acquire().await?;
/// testbed::held!(guard);
/// testbed::held!(guard, "lost after {} resets", 3);
/// # Ok(()) }
/// ```
#[macro_export]
macro_rules! held {
    ($guard:expr) => {
        $crate::held!($guard, "a guard that must be held")
    };
    ($guard:expr, $($text:tt)+) => {
        if let Err(error) = $guard.ensure(std::time::Duration::ZERO) {
            panic!("{}: {error:?}", format_args!($($text)+));
        }
    };
}

/// What is said before the text of a missed bound: nothing, unless the machine gave too little time.
fn excuse(starved: Option<Starved>) -> String {
    starved.map(|starved| format!("{}; ", starved.inconclusive())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::panic::{self, AssertUnwindSafe};
    use std::thread;

    use super::*;
    use crate::children::{self, Child};

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// In a child, which is stopped meanwhile: what a missed bound says.
    fn say_what_is_missed() -> ! {
        let began = start();
        children::say("measures");
        while began.elapsed() < ms(1_000) {
            thread::sleep(ms(5));
        }
        let late = || in_time!(began, began.elapsed() < ms(500), "too late");
        let missed = panic::catch_unwind(AssertUnwindSafe(late)).expect_err("a missed bound");
        children::say(missed.downcast_ref::<String>().expect("a text"));
        children::wait_for_the_end()
    }

    #[test]
    fn a_bound_that_is_missed_by_a_process_that_was_stopped_is_inconclusive() {
        if children::role().is_some() {
            say_what_is_missed();
        }
        let name = "a_bound_that_is_missed_by_a_process_that_was_stopped_is_inconclusive";
        let child = Child::test(&format!("timing::tests::{name}"), "late").start();
        let child = child.expect("a child");
        assert_eq!(kept(|| child.line(ms(20_000))), "measures");
        child.pause().expect("it is stopped");
        thread::sleep(ms(600));
        child.resume().expect("it goes on");
        let said = kept(|| child.line(ms(20_000)));
        let stall = said.strip_prefix("inconclusive: the machine stood still for ");
        let stall = stall.and_then(|rest| rest.strip_suffix(" ms; too late"));
        let stall: u64 = stall.and_then(|stall| stall.parse().ok()).expect(&said);
        assert!(stall >= 250, "{said}");
    }

    /// In a child, which is stopped for longer than the limit: what it waits for comes a moment later.
    #[tokio::main(flavor = "current_thread")]
    async fn wait_for_what_comes_after_a_stop() {
        // From before it is told: the stop may come before the first look.
        let mut last = Instant::now();
        let comes = async {
            while last.elapsed() < ms(2_000) {
                last = Instant::now();
                tokio::time::sleep(ms(5)).await;
            }
            tokio::time::sleep(ms(200)).await;
        };
        children::say("waits");
        within(ms(2_000), "what comes after a stop", comes).await;
        children::say("it came");
        children::wait_for_the_end()
    }

    #[test]
    fn a_limit_begins_again_where_the_process_stood_still() {
        if children::role().is_some() {
            return wait_for_what_comes_after_a_stop();
        }
        let name = "timing::tests::a_limit_begins_again_where_the_process_stood_still";
        let child = Child::test(name, "waits").start().expect("a child");
        assert_eq!(kept(|| child.line(ms(20_000))), "waits");
        child.pause().expect("it is stopped");
        thread::sleep(ms(2_300));
        child.resume().expect("it goes on");
        assert_eq!(kept(|| child.line(ms(20_000))), "it came");
    }

    #[tokio::test]
    #[should_panic(expected = "what must be gone: not within")]
    async fn what_is_left_is_named() {
        gone(ms(20), "what must be gone", async || false).await;
    }

    #[tokio::test]
    async fn a_look_that_takes_long_takes_little_of_the_limit() {
        let mut looks = 0;
        let is_gone = async || {
            looks += 1;
            tokio::time::sleep(ms(300)).await;
            looks > 2
        };
        gone(ms(250), "what goes soon", is_gone).await;
    }

    #[test]
    fn what_the_machine_kept_from_the_test_is_told_first() {
        assert_eq!(excuse(None), "");
        let stall = Starved::StoodStill(ms(312));
        assert_eq!(excuse(Some(stall)), "inconclusive: the machine stood still for 312 ms; ");
    }

    #[tokio::test]
    #[should_panic(expected = "what must come: not within")]
    async fn what_does_not_come_in_time_is_named() {
        within(ms(1), "what must come", std::future::pending::<()>()).await;
    }

    fn late(limit: Duration) -> Result<()> {
        Err(Error::Late { what: "a line".to_owned(), limit })
    }

    #[test]
    #[should_panic(expected = "waited 0ns in vain for a line")]
    fn what_gave_up_at_its_limit_has_missed_it() {
        kept(|| late(ms(0)));
    }

    #[test]
    #[should_panic(expected = "waited 10s in vain for a line")]
    fn what_gave_up_before_its_limit_has_failed() {
        kept(|| late(ms(10_000)));
    }

    #[tokio::test]
    #[should_panic(expected = "what must hold: not within")]
    async fn what_does_not_hold_in_time_is_named() {
        until(ms(1), "what must hold", || false).await;
    }

    #[test]
    #[should_panic(expected = "assertion failed: took < ms(1)")]
    fn a_bound_without_a_text_is_shown_as_it_stands() {
        let (began, took) = (start(), ms(2));
        in_time!(began, took < ms(1));
    }
}
