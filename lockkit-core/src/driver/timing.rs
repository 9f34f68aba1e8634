//! The rules of time: which ttls, margins and renewals go together.

use std::time::Duration;

use super::rests::Rests;
use crate::guarantees::{MAX_TTL, MIN_TTL};
use crate::{Error, Expiry, Guarantees, Instant, Result, Term, TtlRange};

/// The ttl of locks that name none: long enough for a slow store, short enough for a crash.
pub(crate) const DEFAULT_TTL: Duration = Duration::from_secs(15);
/// No lease is renewed more often: a thousand names of one client would fill its link otherwise.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(5);
/// No single call waits longer than this for a store.
pub(crate) const CALL_LIMIT: Duration = Duration::from_secs(2);

/// How the driver keeps a lease.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) enum Renewal {
    /// From a third of the granted ttl on.
    #[default]
    Automatic,
    /// This long after the last acknowledged request was sent.
    Every(Duration),
    /// Only when the caller says so.
    Manual,
}

/// What a caller wishes; checked by [`LockOptions::check`] at the first use.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct LockOptions {
    pub(crate) ttl: Option<Duration>,
    pub(crate) margin: Option<Duration>,
    pub(crate) renewal: Renewal,
    pub(crate) max_hold: Option<Duration>,
    pub(crate) rests: Rests,
}

/// A checked wish, fitted to what the store can grant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Timing {
    /// What is asked of the store, a delay after a loss included.
    pub(crate) ttl: Duration,
    pub(crate) margin: Option<Duration>,
    pub(crate) renewal: Renewal,
    pub(crate) max_hold: Option<Duration>,
}

impl LockOptions {
    /// Fits the wish to the store.
    ///
    /// Under manual renewal a ttl above the store's maximum is refused rather than lowered: the
    /// caller's own schedule would come too late. A delay is all that the store is asked for beyond the ttl, whose
    /// steps it may fill.
    pub(crate) fn fitted(
        self,
        default_ttl: Duration,
        guarantees: &Guarantees,
    ) -> Result<(Timing, Rests)> {
        let wished = self.ttl.unwrap_or(default_ttl);
        check_ttl(wished)?;
        let ttl = match guarantees.expiry.range() {
            Some(range) => fit(wished, range, self.renewal)?,
            None => wished,
        };
        let margin = self.margin.unwrap_or_else(|| default_margin(ttl));
        if margin >= ttl {
            return Err(Error::invalid(
                format!("a margin of {margin:?} with a ttl of {ttl:?}"),
                "the margin must be smaller than the ttl: lower it or raise the ttl",
            ));
        }
        match self.renewal {
            Renewal::Every(every)
                if every < SHORTEST_INTERVAL || every.saturating_add(margin) >= ttl =>
            {
                return Err(Error::invalid(
                    format!(
                        "renewal every {every:?} with a ttl of {ttl:?}, a margin of {margin:?}"
                    ),
                    format!(
                        "the interval must be at least {SHORTEST_INTERVAL:?}, and interval and margin \
                         together below the ttl: a third of the ttl is a good interval"
                    ),
                ));
            }
            _ => {}
        }
        let Self { renewal, max_hold, mut rests, .. } = self;
        let mut asked = ttl;
        if let Some(delay) = &mut rests.after_loss {
            asked = with_delay(ttl, *delay, guarantees)?;
            *delay = asked.saturating_sub(ttl);
        }
        let timing = Timing { ttl: asked, margin: self.margin, renewal, max_hold };
        if let Some(latest) = timing.no_room_to_renew(ttl, margin) {
            return Err(Error::invalid(
                format!("a margin of {margin:?} with a ttl of {ttl:?}, renewed after {latest:?}"),
                "margin and renewal together must stay below the ttl, or the lock is lost before \
                 it is renewed: lower the margin or raise the ttl",
            ));
        }
        check_max_hold(max_hold)?;
        check_at_least(rests.at_least, max_hold)?;
        Ok((timing, rests))
    }
}

impl Timing {
    /// The last instant at which a grant of this term is still believed in; `None`: no end.
    ///
    /// The deadline of design and contract: sent + granted ttl - margin (C5).
    pub(crate) fn deadline(&self, term: Term) -> Option<Instant> {
        let ttl = term.ttl?;
        // A store that granted less than was asked may leave the caller's margin no room.
        let fits =
            |margin: &Duration| *margin < ttl && self.no_room_to_renew(ttl, *margin).is_none();
        let margin = self.margin.filter(fits).unwrap_or_else(|| default_margin(ttl));
        Some(term.sent.saturating_add(ttl.saturating_sub(margin)))
    }

    /// How long after an acknowledged request was sent the next renewal is due.
    pub(crate) fn renew_after(&self, granted: Duration) -> Option<Duration> {
        match self.renewal {
            Renewal::Automatic => Some(granted / 3),
            Renewal::Every(every) => Some(every.min(granted / 2)),
            Renewal::Manual => None,
        }
    }

    /// The most by which a renewal that is due `after` this long may be put off, so that
    /// leases taken together do not renew together.
    pub(crate) fn spread(after: Duration) -> Duration {
        after / 8
    }

    /// When the renewal comes at the latest, if that and the margin are together as long as the
    /// ttl: the deadline would pass before it is sent.
    fn no_room_to_renew(&self, ttl: Duration, margin: Duration) -> Option<Duration> {
        let latest = self.renew_after(ttl).map(|after| after.saturating_add(Self::spread(after)));
        latest.filter(|latest| latest.saturating_add(margin) >= ttl)
    }
}

/// The longest that one call about a lease of this ttl may wait for the store.
pub(crate) fn call_limit(ttl: Duration) -> Duration {
    (ttl / 3).min(CALL_LIMIT)
}

/// Refuses a ttl that no store takes.
pub(crate) fn check_ttl(ttl: Duration) -> Result<()> {
    if (MIN_TTL..=MAX_TTL).contains(&ttl) {
        return Ok(());
    }
    Err(Error::invalid(
        format!("a ttl of {ttl:?}"),
        format!("give a ttl from {MIN_TTL:?} to 24 h; {DEFAULT_TTL:?} suits most work"),
    ))
}

/// Refuses a hold that would end as it begins.
pub(crate) fn check_max_hold(max_hold: Option<Duration>) -> Result<()> {
    match max_hold {
        Some(Duration::ZERO) => {
            Err(Error::invalid("a max_hold of zero", "give a max_hold above zero, or none"))
        }
        _ => Ok(()),
    }
}

/// Refuses a minimum hold that is none, or that no guard could reach.
fn check_at_least(at_least: Option<Duration>, max_hold: Option<Duration>) -> Result<()> {
    let Some(least) = at_least else { return Ok(()) };
    check_rest(least, "hold_at_least")?;
    match max_hold {
        Some(most) if most < least => Err(Error::invalid(
            format!("hold_at_least {least:?} with a max_hold of {most:?}"),
            "max_hold must be at least as long: raise it or lower hold_at_least",
        )),
        _ => Ok(()),
    }
}

fn check_rest(rest: Duration, option: &str) -> Result<()> {
    if rest > Duration::ZERO && rest <= MAX_TTL {
        return Ok(());
    }
    let remedy = format!("give {option} a duration above zero and up to 24 h, or leave it out");
    Err(Error::invalid(format!("{option} {rest:?}"), remedy))
}

/// The ttl to ask for, so that the store keeps the name for `delay` after the end of the term.
fn with_delay(ttl: Duration, delay: Duration, guarantees: &Guarantees) -> Result<Duration> {
    check_rest(delay, "delay_after_loss")?;
    let Expiry::Ttl(range) = guarantees.expiry else {
        return Err(Error::rejected(
            "delay_after_loss",
            "a lease of this store ends with its session or its process: use a store where each lease has a ttl \
             of its own, or a resource that checks tokens",
        ));
    };
    let asked = rounded_up(ttl.saturating_add(delay), range);
    if asked <= range.max {
        return Ok(asked);
    }
    Err(Error::invalid(
        format!(
            "a ttl of {ttl:?} and delay_after_loss {delay:?} where the store grants at most {:?}",
            range.max
        ),
        "lower one of them: the store keeps the name for both together",
    ))
}

/// 1 % for the rates of two clocks and 2 ms for their granularity, or a tenth up to 2 s for the
/// caller's own delay between a check and its use, whichever is more.
fn default_margin(ttl: Duration) -> Duration {
    (ttl / 100 + Duration::from_millis(2)).max((ttl / 10).min(Duration::from_secs(2)))
}

/// The ttl that the store can grant for the one wished: rounded up, never down, but for its limit.
fn fit(wished: Duration, range: TtlRange, renewal: Renewal) -> Result<Duration> {
    let rounded = rounded_up(wished, range);
    if rounded <= range.max {
        return Ok(rounded);
    }
    if renewal == Renewal::Manual && wished > range.max {
        return Err(Error::invalid(
            format!("a ttl of {wished:?} where the store grants at most {:?}", range.max),
            "lower the ttl, or let lockkit renew automatically",
        ));
    }
    Ok(range.max)
}

fn rounded_up(wished: Duration, range: TtlRange) -> Duration {
    let step = range.granularity.as_nanos().max(1);
    let steps = wished.max(range.min).as_nanos().div_ceil(step);
    Duration::from_nanos(u64::try_from(steps.saturating_mul(step)).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Exclusion;

    const SECOND: Duration = Duration::from_secs(1);

    fn store(min: Duration, max: Duration, granularity: Duration) -> Guarantees {
        let range = TtlRange { min, max, granularity };
        Guarantees::new(Exclusion::OneServer, Expiry::Ttl(range))
    }

    impl LockOptions {
        fn check(self, default_ttl: Duration, guarantees: &Guarantees) -> Result<Timing> {
            self.fitted(default_ttl, guarantees).map(|(timing, _)| timing)
        }
    }

    fn ttl(wished: Duration) -> LockOptions {
        LockOptions { ttl: Some(wished), ..LockOptions::default() }
    }

    #[test]
    fn a_ttl_is_rounded_up_to_what_the_store_grants() {
        let whole_seconds = store(2 * SECOND, 60 * SECOND, SECOND);
        for (wished, granted) in [(50, 2000), (2000, 2000), (2001, 3000), (60_000, 60_000)] {
            let timing = ttl(Duration::from_millis(wished)).check(DEFAULT_TTL, &whole_seconds);
            assert_eq!(timing.map(|timing| timing.ttl).ok(), Some(Duration::from_millis(granted)));
        }
    }

    #[test]
    fn a_ttl_above_the_stores_maximum_is_lowered_or_under_manual_renewal_refused() {
        let store = store(SECOND, 60 * SECOND, SECOND);
        let wish = ttl(120 * SECOND);
        assert_eq!(
            wish.check(DEFAULT_TTL, &store).map(|timing| timing.ttl).ok(),
            Some(60 * SECOND)
        );
        let manual = LockOptions { renewal: Renewal::Manual, ..wish };
        let refusal = manual.check(DEFAULT_TTL, &store).map_err(|error| error.to_string());
        assert!(matches!(refusal, Err(text) if text.contains("120s") && text.contains("60s")));
    }

    #[test]
    fn a_ttl_up_to_the_stores_maximum_is_granted_where_it_rounds_up_to_more() {
        let store = store(SECOND, Duration::from_millis(60_500), SECOND);
        for renewal in [Renewal::Automatic, Renewal::Manual] {
            for wished in [60_200, 60_500] {
                let wish = LockOptions { renewal, ..ttl(Duration::from_millis(wished)) };
                let granted = wish.check(DEFAULT_TTL, &store).map(|timing| timing.ttl);
                assert_eq!(granted.ok(), Some(Duration::from_millis(60_500)), "{wish:?}");
            }
        }
    }

    #[test]
    fn a_day_is_the_longest_ttl_and_fifty_milliseconds_are_the_shortest() {
        let (shortest, day) = (Duration::from_millis(50), Duration::from_secs(86_400));
        let moment = Duration::from_nanos(1);
        assert!(check_ttl(shortest).is_ok() && check_ttl(day).is_ok());
        assert!(check_ttl(shortest - moment).is_err() && check_ttl(day + moment).is_err());
    }

    #[test]
    fn a_ttl_that_no_store_takes_is_refused() {
        let store = store(MIN_TTL, MAX_TTL, Duration::from_millis(1));
        let too_much = MAX_TTL + Duration::from_nanos(1);
        for wished in [Duration::ZERO, Duration::from_millis(49), too_much, Duration::MAX] {
            assert!(matches!(ttl(wished).check(DEFAULT_TTL, &store), Err(Error::Invalid { .. })));
        }
    }

    #[test]
    fn unsafe_combinations_are_refused_with_both_values_named() {
        let store = store(MIN_TTL, MAX_TTL, Duration::from_millis(1));
        let margin = LockOptions { margin: Some(SECOND), ..ttl(SECOND) };
        let never = LockOptions { renewal: Renewal::Every(Duration::ZERO), ..ttl(SECOND) };
        let flood = LockOptions { renewal: Renewal::Every(Duration::from_nanos(1)), ..ttl(SECOND) };
        let slow = LockOptions { renewal: Renewal::Every(3 * SECOND), ..ttl(2 * SECOND) };
        let late =
            LockOptions { renewal: Renewal::Every(Duration::from_millis(950)), ..ttl(SECOND) };
        // Lost before the first renewal, or before one that is put off to spread renewals.
        let lost = LockOptions { margin: Some(8 * SECOND), ..ttl(12 * SECOND) };
        let every = Renewal::Every(Duration::from_millis(3900));
        let own = LockOptions { margin: Some(6 * SECOND), renewal: every, ..ttl(10 * SECOND) };
        for (wish, values) in [
            (margin, ["1s", "margin"]),
            (never, ["0ns", "1s"]),
            (flood, ["1ns", "5ms"]),
            (slow, ["3s", "2s"]),
            (late, ["950ms", "1s"]),
            (lost, ["8s", "4.5s"]),
            (own, ["6s", "4.3875s"]),
        ] {
            let refusal = wish.check(DEFAULT_TTL, &store).map_err(|error| error.to_string());
            let Err(text) = refusal else { panic!("{wish:?} was accepted") };
            assert!(values.iter().all(|value| text.contains(value)), "{text}");
        }
    }

    #[test]
    fn an_interval_is_accepted_if_it_leaves_room_for_the_margin_and_halved_with_the_ttl() {
        let store = store(MIN_TTL, MAX_TTL, Duration::from_millis(1));
        let every = |millis| {
            let renewal = Renewal::Every(Duration::from_millis(millis));
            LockOptions { renewal, ..ttl(SECOND) }.check(DEFAULT_TTL, &store)
        };
        assert!(every(900).is_err(), "the next renewal would come at the deadline");
        let timing = every(899).expect("a safe wish");
        let after = |millis| timing.renew_after(Duration::from_millis(millis));
        assert_eq!(after(1000), Some(Duration::from_millis(500)));
        assert_eq!(after(2000), Some(Duration::from_millis(899)));
    }

    #[test]
    fn a_margin_is_accepted_up_to_where_the_latest_renewal_still_comes_before_the_deadline() {
        let store = store(MIN_TTL, MAX_TTL, Duration::from_millis(1));
        let margin = |millis| LockOptions {
            margin: Some(Duration::from_millis(millis)),
            ..ttl(Duration::from_secs(24))
        };
        // The renewal is due after 8 s, and 9 s at the latest.
        assert!(margin(14_999).check(DEFAULT_TTL, &store).is_ok());
        assert!(margin(15_000).check(DEFAULT_TTL, &store).is_err());
        let manual = LockOptions { renewal: Renewal::Manual, ..margin(23_999) };
        assert!(manual.check(DEFAULT_TTL, &store).is_ok(), "the caller knows when it renews");
    }

    #[test]
    fn a_call_may_take_a_third_of_the_ttl_and_two_seconds_at_the_most() {
        for (ttl, limit) in [(300, 100), (6000, 2000), (60_000, 2000)] {
            assert_eq!(call_limit(Duration::from_millis(ttl)), Duration::from_millis(limit));
        }
    }

    #[test]
    fn the_margin_covers_clock_rates_and_the_callers_own_delay() {
        assert_eq!(default_margin(MIN_TTL), Duration::from_millis(5));
        assert_eq!(default_margin(10 * SECOND), SECOND);
        assert_eq!(default_margin(60 * SECOND), 2 * SECOND);
        assert_eq!(default_margin(1000 * SECOND), Duration::from_millis(10_002));
    }

    #[test]
    fn a_deadline_follows_the_granted_ttl_even_when_it_is_smaller_than_the_margin() {
        let asked = LockOptions { margin: Some(5 * SECOND), ..ttl(10 * SECOND) };
        let timing =
            asked.check(DEFAULT_TTL, &store(MIN_TTL, MAX_TTL, MIN_TTL)).expect("a safe wish");
        let sent = Instant::from_origin(SECOND);
        let after = |ttl| {
            timing.deadline(Term { sent, ttl: Some(ttl) }).map(|at| at.saturating_since(sent))
        };
        assert_eq!(after(10 * SECOND), Some(5 * SECOND));
        let no_room_to_renew = Duration::from_millis(7500);
        assert_eq!(after(no_room_to_renew), Some(Duration::from_millis(6750)));
        assert_eq!(after(5 * SECOND), Some(Duration::from_millis(4500)));
        assert_eq!(after(SECOND), Some(Duration::from_millis(900)));
        assert_eq!(timing.deadline(Term { sent, ttl: None }), None);
        // Who renews by hand has room for any margin below the ttl, and for none that is all of it.
        let manual = Timing { renewal: Renewal::Manual, ..timing };
        for (granted, left) in [(5001, 1), (5000, 4500)] {
            let term = Term { sent, ttl: Some(Duration::from_millis(granted)) };
            let after = manual.deadline(term).map(|at| at.saturating_since(sent));
            assert_eq!(after, Some(Duration::from_millis(left)));
        }
    }
}
