//! The driver's decisions while a lease is held: a pure step function over time and events.

use std::time::Duration;

use crate::timing::Timing;
use crate::{Instant, LossReason, Term};

/// More renewals than this are never under way at once (C12).
const MAX_IN_FLIGHT: u8 = 4;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Time has passed, or may have.
    Tick,
    /// A renewal was acknowledged with this term.
    Renewed(Term),
    /// A renewal ended without an acknowledgement.
    RenewalFailed,
    /// The caller wants a renewal now.
    RenewNow,
    /// The store is out of reach.
    OutOfReach,
    /// The lease has ended for this reason: the store said so, or the driver did.
    Ended(LossReason),
    /// The guard was released or dropped.
    Release,
}

/// What the driver does next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Actions {
    /// Send one more renewal.
    pub(crate) renew: bool,
    /// Tell the watchers that the state has changed.
    pub(crate) tell: bool,
    /// End the lease in the store, and the driver with it.
    pub(crate) release: bool,
}

/// What a guard is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum State {
    Held,
    /// Held, but no renewal was acknowledged for two thirds of the ttl.
    AtRisk,
    Lost(LossReason),
}

/// One held lease. `Lost` is sticky: no event leads out of it (C7).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Machine {
    timing: Timing,
    term: Term,
    /// The end of belief by the newest acknowledged term.
    deadline: Option<Instant>,
    /// The end of belief by `max_hold`.
    cap: Option<Instant>,
    /// When the next renewal is sent, while automatic.
    next_renewal: Option<Instant>,
    /// A fraction of the renewal interval, so that leases taken together do not renew together.
    jitter: Duration,
    in_flight: u8,
    /// Whether the store was out of reach since the last acknowledged renewal.
    out_of_reach: bool,
    lost: Option<LossReason>,
    told: State,
}

impl Machine {
    /// A lease granted with `term`; `None` where its deadline has passed on arrival: such a grant
    /// is not a grant (C5). `spread` is any number that differs from lease to lease.
    pub(crate) fn granted(timing: Timing, term: Term, now: Instant, spread: u8) -> Option<Self> {
        let mut machine = Self {
            timing,
            term,
            deadline: None,
            cap: timing.max_hold.map(|cap| now.saturating_add(cap)),
            next_renewal: None,
            jitter: Duration::ZERO,
            in_flight: 0,
            out_of_reach: false,
            lost: None,
            told: State::Held,
        };
        machine.adopt(term, spread);
        (machine.state(now) != State::Lost(LossReason::Expired)).then_some(machine)
    }

    /// Takes `event` in at `now`, and answers what to do.
    pub(crate) fn on(&mut self, now: Instant, event: Event) -> Actions {
        if self.lost.is_none() {
            // A deadline that has passed wins over whatever arrives after it.
            match (self.state(now), event) {
                (State::Lost(reason), _) | (_, Event::Ended(reason)) => self.lost = Some(reason),
                (_, Event::Release) => self.lost = Some(LossReason::Released),
                (_, Event::Renewed(term)) => {
                    self.in_flight = self.in_flight.saturating_sub(1);
                    self.out_of_reach = false;
                    // Acknowledgements may overtake each other: only a later request counts.
                    if term.sent > self.term.sent {
                        self.adopt(term, 0);
                    }
                }
                (_, Event::RenewalFailed) => self.in_flight = self.in_flight.saturating_sub(1),
                (_, Event::OutOfReach) => self.out_of_reach = true,
                (_, Event::Tick | Event::RenewNow) => {}
            }
        }
        let state = self.state(now);
        let release = matches!(state, State::Lost(_));
        let due = event == Event::RenewNow || self.next_renewal.is_some_and(|due| due <= now);
        let renew = !release && due && self.in_flight < MAX_IN_FLIGHT;
        if renew {
            self.in_flight += 1;
            // An unanswered renewal is followed by another, not replaced: slow is not lost.
            self.next_renewal = self.next_renewal.map(|_| now.saturating_add(self.retry_after()));
        }
        let tell = self.told != state;
        self.told = state;
        Actions { renew, tell, release }
    }

    /// What holds at `now`; reads the time, not what a timer last did.
    pub(crate) fn state(&self, now: Instant) -> State {
        if let Some(reason) = self.lost {
            return State::Lost(reason);
        }
        if self.deadline.is_some_and(|end| now >= end) {
            return State::Lost(LossReason::Expired);
        }
        if self.cap.is_some_and(|end| now >= end) {
            return State::Lost(LossReason::MaxHold);
        }
        if self.out_of_reach || self.at_risk_from().is_some_and(|risk| now >= risk) {
            return State::AtRisk;
        }
        State::Held
    }

    /// Whether a signal that the store is out of reach would tell anything new.
    pub(crate) const fn may_be_in_reach(&self) -> bool {
        !self.out_of_reach
    }

    /// When [`on`](Self::on) wants its next `Tick`; `None`: only on events.
    pub(crate) fn wake_at(&self, now: Instant) -> Option<Instant> {
        let renewal = self.next_renewal.filter(|_| self.in_flight < MAX_IN_FLIGHT);
        let risk = self.at_risk_from().filter(|at| *at > now);
        [renewal, risk, self.end()].into_iter().flatten().min()
    }

    /// The last instant of belief, by the term or by `max_hold`; `None`: no end.
    pub(crate) fn end(&self) -> Option<Instant> {
        [self.deadline, self.cap].into_iter().flatten().min()
    }

    /// When the next change comes that watchers are told of, if nothing happens until then.
    pub(crate) fn next_change(&self, now: Instant) -> Option<Instant> {
        [self.at_risk_from().filter(|at| *at > now), self.end()].into_iter().flatten().min()
    }

    /// The ttl as granted; `None` where the store has no expiry.
    pub(crate) const fn ttl(&self) -> Option<Duration> {
        self.term.ttl
    }

    /// When the store itself has ended the lease, whatever became of its release.
    pub(crate) fn gone_from_store_at(&self) -> Option<Instant> {
        self.term.ttl.map(|ttl| self.term.sent.saturating_add(ttl))
    }

    fn adopt(&mut self, term: Term, spread: u8) {
        self.term = term;
        self.deadline = self.timing.deadline(term);
        if let Some(after) = term.ttl.and_then(|ttl| self.timing.renew_after(ttl)) {
            if spread > 0 {
                // Up to an eighth of the interval later, the same for the whole life of a lease.
                self.jitter = (after / 8) * u32::from(spread) / 256;
            }
            self.next_renewal = Some(term.sent.saturating_add(after).saturating_add(self.jitter));
        }
    }

    /// How long after an unanswered renewal the next one is sent: the four that may be under way
    /// at once cover what is left of the ttl.
    fn retry_after(&self) -> Duration {
        let ttl = self.term.ttl.unwrap_or(self.timing.ttl);
        let interval = self.timing.renew_after(ttl).unwrap_or_default();
        ttl.saturating_sub(interval) / u32::from(MAX_IN_FLIGHT)
    }

    fn at_risk_from(&self) -> Option<Instant> {
        self.term.ttl.map(|ttl| self.term.sent.saturating_add(ttl / 3 * 2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::timing::Renewal;

    const TTL: Duration = Duration::from_secs(12);
    const MARGIN: Duration = Duration::from_millis(1200);

    fn at(seconds: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(1000 + seconds))
    }

    fn term(sent: u64) -> Term {
        Term { sent: at(sent), ttl: Some(TTL) }
    }

    fn timing(renewal: Renewal, max_hold: Option<Duration>) -> Timing {
        Timing { ttl: TTL, margin: None, renewal, max_hold }
    }

    fn held(renewal: Renewal) -> Machine {
        Machine::granted(timing(renewal, None), term(0), at(0), 0).expect("granted in time")
    }

    fn end(sent: u64) -> Option<Instant> {
        Some(at(sent).saturating_add(TTL).saturating_sub(MARGIN))
    }

    #[test]
    fn a_grant_whose_deadline_has_passed_on_arrival_is_not_a_grant() {
        let arrives = |now| Machine::granted(timing(Renewal::Automatic, None), term(0), now, 0);
        assert!(arrives(at(10)).is_some());
        assert!(arrives(at(11)).is_none());
        assert!(arrives(at(5000)).is_none());
    }

    #[test]
    fn a_renewal_counts_from_its_sending_not_from_its_answer() {
        let mut machine = held(Renewal::Automatic);
        assert!(machine.on(at(4), Event::Tick).renew);
        machine.on(at(9), Event::Renewed(term(4)));
        assert_eq!(machine.end(), end(4));
    }

    #[test]
    fn acknowledgements_out_of_order_never_lower_the_deadline() {
        let mut machine = held(Renewal::Automatic);
        for now in [4, 6, 8] {
            assert!(machine.on(at(now), Event::Tick).renew, "at {now}");
        }
        machine.on(at(9), Event::Renewed(term(8)));
        machine.on(at(9), Event::Renewed(term(4)));
        machine.on(at(10), Event::Renewed(term(6)));
        assert_eq!(machine.end(), end(8));
    }

    #[test]
    fn an_unanswered_renewal_is_followed_by_others_up_to_four() {
        let mut machine = held(Renewal::Automatic);
        let sent: Vec<_> = (0..=10).filter(|now| machine.on(at(*now), Event::Tick).renew).collect();
        assert_eq!(sent, [4, 6, 8, 10]);
        assert!(!machine.on(at(10), Event::RenewNow).renew);
        machine.on(at(10), Event::RenewalFailed);
        assert!(machine.on(at(10), Event::RenewNow).renew);
    }

    #[test]
    fn an_own_interval_is_spread_by_a_part_of_itself() {
        let every = timing(Renewal::Every(Duration::from_millis(80)), None);
        let machine = Machine::granted(every, term(0), at(0), 255).expect("granted in time");
        let due = machine.wake_at(at(0)).map(|due| due.saturating_since(at(0)));
        assert!(due > Some(Duration::from_millis(80)) && due < Some(Duration::from_millis(90)));
    }

    #[test]
    fn an_own_interval_leaves_its_four_attempts_spread_over_the_ttl() {
        let mut machine = held(Renewal::Every(Duration::from_secs(1)));
        let sent: Vec<_> = (0..=10).filter(|now| machine.on(at(*now), Event::Tick).renew).collect();
        assert_eq!(sent, [1, 4, 7, 10]);
    }

    #[test]
    fn renewals_of_leases_taken_together_spread_out() {
        let first = |spread| {
            let timing = timing(Renewal::Automatic, None);
            let machine = Machine::granted(timing, term(0), at(0), spread).expect("granted");
            machine.next_renewal.expect("automatic").saturating_since(at(0))
        };
        assert_eq!(first(0), TTL / 3);
        assert!(first(1) > first(0) && first(255) > first(100));
        assert!(first(255) < TTL / 3 + TTL / 24);
    }

    #[test]
    fn at_risk_at_once_when_the_store_is_out_of_reach_and_back_with_the_next_renewal() {
        let mut machine = held(Renewal::Automatic);
        assert!(machine.on(at(1), Event::OutOfReach).tell);
        assert_eq!(machine.state(at(1)), State::AtRisk);
        assert_eq!(machine.end(), end(0), "no sooner lost than without it");
        assert!(machine.on(at(4), Event::Tick).renew);
        assert!(machine.on(at(5), Event::Renewed(term(4))).tell);
        assert_eq!(machine.state(at(5)), State::Held);
        machine.on(at(6), Event::OutOfReach);
        assert_eq!(machine.state(at(15)), State::Lost(LossReason::Expired));
    }

    #[test]
    fn at_risk_after_two_thirds_and_back_when_a_renewal_gets_through() {
        let mut machine = held(Renewal::Automatic);
        assert!(!machine.on(at(7), Event::Tick).tell);
        assert!(machine.on(at(8), Event::Tick).tell);
        assert_eq!(machine.state(at(8)), State::AtRisk);
        assert!(machine.on(at(9), Event::Renewed(term(6))).tell);
        assert_eq!(machine.state(at(9)), State::Held);
    }

    #[test]
    fn a_late_acknowledgement_never_revives_a_lost_lease() {
        let mut machine = held(Renewal::Automatic);
        machine.on(at(4), Event::Tick);
        let actions = machine.on(at(11), Event::Renewed(term(4)));
        assert!(actions.release && actions.tell && !actions.renew);
        for event in [Event::Renewed(term(10)), Event::Tick, Event::Release] {
            machine.on(at(12), event);
            assert_eq!(machine.state(at(12)), State::Lost(LossReason::Expired));
        }
    }

    #[test]
    fn the_state_is_judged_by_the_clock_even_when_no_tick_came() {
        let machine = held(Renewal::Automatic);
        assert_eq!(machine.state(at(10)), State::AtRisk);
        assert_eq!(machine.state(at(11)), State::Lost(LossReason::Expired));
        assert_eq!(machine.state(at(10_000)), State::Lost(LossReason::Expired));
    }

    #[test]
    fn the_stores_word_ends_the_lease_at_once() {
        let mut machine = held(Renewal::Automatic);
        assert!(machine.on(at(1), Event::Ended(LossReason::Revoked)).release);
        assert_eq!(machine.state(at(1)), State::Lost(LossReason::Revoked));
    }

    #[test]
    fn max_hold_ends_a_lease_that_renews() {
        let timing = timing(Renewal::Automatic, Some(Duration::from_secs(20)));
        let mut machine = Machine::granted(timing, term(0), at(0), 0).expect("granted");
        for now in 1..20 {
            machine.on(at(now), Event::Renewed(term(now)));
        }
        assert_eq!(machine.state(at(19)), State::Held);
        assert!(machine.on(at(20), Event::Tick).release);
        assert_eq!(machine.state(at(20)), State::Lost(LossReason::MaxHold));
    }

    #[test]
    fn manual_renewal_sends_nothing_by_itself() {
        let mut machine = held(Renewal::Manual);
        assert!((0..=10).all(|now| !machine.on(at(now), Event::Tick).renew));
        assert!(machine.on(at(10), Event::RenewNow).renew);
        machine.on(at(10), Event::Renewed(term(10)));
        assert!((11..=20).all(|now| !machine.on(at(now), Event::Tick).renew));
    }

    #[test]
    fn a_lease_without_expiry_is_held_until_it_is_released() {
        let term = Term { sent: at(0), ttl: None };
        let timing = timing(Renewal::Automatic, None);
        let mut machine = Machine::granted(timing, term, at(9999), 0).expect("granted");
        assert_eq!((machine.wake_at(at(9999)), machine.end()), (None, None));
        assert_eq!(machine.on(at(99_999), Event::Tick), Actions::default());
        assert!(machine.on(at(99_999), Event::Release).release);
    }

    #[test]
    fn the_next_tick_is_never_due_before_something_is_to_be_done() {
        let mut machine = held(Renewal::Automatic);
        let mut now = at(0);
        let mut ticks = 0;
        while let (State::Held | State::AtRisk, Some(next)) =
            (machine.state(now), machine.wake_at(now))
        {
            assert!(next > now, "a tick that does nothing would spin");
            now = next;
            machine.on(now, Event::Tick);
            ticks += 1;
        }
        assert_eq!(machine.state(now), State::Lost(LossReason::Expired));
        assert!(ticks <= 6, "{ticks}");
    }
}
