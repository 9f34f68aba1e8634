//! The one clock that the driver, the providers and the tests read.

#![allow(clippy::disallowed_methods)] // here, and only here, other clocks are read

use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Notify;

/// A point in time on one [`Clock`]; points of two hosts do not compare.
///
/// All arithmetic saturates, so no duration a caller gives can panic.
///
/// ```
/// use lockkit_core::Instant;
/// use std::time::Duration;
///
/// let start = Instant::from_origin(Duration::from_secs(1));
/// assert!(start.saturating_add(Duration::MAX) > start);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(Duration);

impl Instant {
    /// The instant that lies `since` after the origin of the clock.
    pub const fn from_origin(since: Duration) -> Self {
        Self(since)
    }

    /// How long after the origin of the clock this instant lies.
    pub const fn since_origin(self) -> Duration {
        self.0
    }

    /// The instant `by` later, or the last one there is.
    #[must_use]
    pub const fn saturating_add(self, by: Duration) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// The instant `by` earlier, or the origin.
    #[must_use]
    pub const fn saturating_sub(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(by))
    }

    /// How much later than `earlier` this is; zero if it is not later.
    pub const fn saturating_since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The source of time, injected once and shared by the driver, the provider and the tests.
///
/// Upholds C12: deadlines are judged by one clock, synchronously. [`Clock::system`] is for
/// programs, [`Clock::tokio`] follows a paused test runtime, [`Clock::manual`] moves when told to.
#[derive(Clone)]
pub struct Clock(Source);

#[derive(Clone)]
enum Source {
    System(Arc<Notify>),
    Tokio(Handle),
    Manual(Arc<Manual>),
}

struct Manual {
    now: Mutex<Instant>,
    advanced: Notify,
}

impl Clock {
    /// The clock of the operating system that also counts the time a machine is suspended.
    ///
    /// On Linux this is `CLOCK_BOOTTIME`: `CLOCK_MONOTONIC`, which [`std::time::Instant`] reads,
    /// stands still in suspend (<https://github.com/rust-lang/rust/issues/87906>), and a holder
    /// that slept through its ttl would believe that it still holds.
    pub fn system() -> Self {
        Self(Source::System(Arc::new(Notify::new())))
    }

    /// The clock of the current tokio runtime, which tests can pause.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn tokio() -> Self {
        tokio_origin();
        Self(Source::Tokio(Handle::current()))
    }

    /// A clock that only [`advance`](Self::advance) moves.
    pub fn manual() -> Self {
        Self(Source::Manual(Arc::new(Manual {
            now: Mutex::new(Instant::from_origin(Duration::from_secs(1))),
            advanced: Notify::new(),
        })))
    }

    /// Moves a [`manual`](Self::manual) clock on by `by`; any other clock is left alone.
    pub fn advance(&self, by: Duration) {
        if let Source::Manual(manual) = &self.0 {
            {
                let mut now = manual.now.lock().unwrap_or_else(PoisonError::into_inner);
                *now = now.saturating_add(by);
            }
            manual.advanced.notify_waiters();
        }
    }

    /// Whether instants of this clock and of `other` are known to compare.
    pub fn shares_time_with(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Source::System(_), Source::System(_)) => true,
            (Source::Manual(one), Source::Manual(other)) => Arc::ptr_eq(one, other),
            // Each runtime's time can be paused by itself, and two handles cannot be told apart.
            _ => false,
        }
    }

    /// The present instant.
    pub fn now(&self) -> Instant {
        match &self.0 {
            Source::System(_) => system_now(),
            Source::Tokio(runtime) => {
                let _entered = runtime.enter();
                tokio_to_instant(tokio::time::Instant::now())
            }
            Source::Manual(manual) => *manual.now.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Completes once [`now`](Self::now) has reached `at`; never, if `at` lies centuries ahead.
    ///
    /// Must be polled inside a tokio runtime with time enabled, unless the clock is manual.
    ///
    /// # Cancel safety
    /// Cancel-safe: it holds nothing.
    pub fn sleep_until(&self, at: Instant) -> impl Future<Output = ()> + Send + use<> {
        let clock = self.clone();
        async move {
            loop {
                // Before the look at the time: no change of it goes unseen in between.
                let changed = match &clock.0 {
                    Source::System(changed) => Some(changed.notified()),
                    Source::Manual(manual) => Some(manual.advanced.notified()),
                    Source::Tokio(_) => None,
                };
                let left = at.saturating_since(clock.now());
                match (&clock.0, changed) {
                    _ if left.is_zero() => return,
                    (Source::Manual(_), Some(advanced)) => advanced.await,
                    (_, Some(resumed)) => tokio::select! {
                        () = tokio::time::sleep(left) => {}
                        () = resumed => {}
                    },
                    (_, None) => tokio::time::sleep(left).await,
                }
            }
        }
    }

    /// Completes after `by`; see [`sleep_until`](Self::sleep_until).
    pub fn sleep(&self, by: Duration) -> impl Future<Output = ()> + Send + use<> {
        self.sleep_until(self.now().saturating_add(by))
    }

    /// Whether timers can fall behind this clock, because they stand still in suspend.
    pub(crate) fn outruns_timers(&self) -> bool {
        matches!(self.0, Source::System(_))
    }

    /// Whether this clock goes on by itself, and timers with it.
    pub(crate) fn goes_on(&self) -> bool {
        !matches!(self.0, Source::Manual(_))
    }

    /// Wakes every sleeper of this clock so that it looks at the time again.
    pub(crate) fn wake_sleepers(&self) {
        if let Source::System(resumed) = &self.0 {
            resumed.notify_waiters();
        }
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Source::System(_) => "Clock::system",
            Source::Tokio(_) => "Clock::tokio",
            Source::Manual(_) => "Clock::manual",
        })
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn system_now() -> Instant {
    from_timespec(rustix::time::clock_gettime(rustix::time::ClockId::Boottime))
}

// On Apple's systems CLOCK_MONOTONIC goes on in sleep, other than the clock std reads there.
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
fn system_now() -> Instant {
    from_timespec(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic))
}

#[cfg(unix)]
fn from_timespec(time: rustix::time::Timespec) -> Instant {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(time.tv_nsec).unwrap_or(0);
    Instant::from_origin(Duration::new(seconds, nanos))
}

#[cfg(not(unix))]
fn system_now() -> Instant {
    tokio_to_instant(tokio::time::Instant::from_std(std::time::Instant::now()))
}

/// The origin lies long before the process, so that a paused clock that started earlier than the
/// first use is not cut off at zero.
const BEFORE_PROCESS: Duration = Duration::from_secs(365 * 24 * 3600);

fn tokio_origin() -> std::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}

fn tokio_to_instant(time: tokio::time::Instant) -> Instant {
    let (time, origin) = (time.into_std(), tokio_origin());
    let after = time.saturating_duration_since(origin);
    let before = origin.saturating_duration_since(time);
    Instant::from_origin(BEFORE_PROCESS.saturating_add(after).saturating_sub(before))
}
