//! The driver's decisions while a lease is held: a pure step function over time and events.

use std::time::Duration;

use super::timing::Timing;
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

    /// Ends belief at `end` at the latest, as `max_hold` does.
    pub(crate) fn end_by(&mut self, end: Instant) {
        self.cap = Some(self.cap.map_or(end, |cap| cap.min(end)));
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

    /// Whether an event has ended it: from then on none changes anything.
    pub(crate) const fn has_ended(&self) -> bool {
        self.lost.is_some()
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

    /// The newest acknowledged term.
    pub(crate) const fn term(&self) -> Term {
        self.term
    }

    /// The ttl that the store was asked for, which may be more than the term's.
    pub(crate) const fn asked_ttl(&self) -> Duration {
        self.timing.ttl
    }

    /// The most that is ever left at `now`, right after a renewal; `None`: no end.
    pub(crate) fn most_left(&self, now: Instant) -> Option<Duration> {
        let by_term = self.deadline.map(|end| end.saturating_since(self.term.sent));
        let by_cap = self.cap.map(|end| end.saturating_since(now));
        [by_term, by_cap].into_iter().flatten().min()
    }

    fn adopt(&mut self, term: Term, spread: u8) {
        self.term = term;
        self.deadline = self.timing.deadline(term);
        if let Some(after) = term.ttl.and_then(|ttl| self.timing.renew_after(ttl)) {
            if spread > 0 {
                // Up to an eighth of the interval later, the same for the whole life of a lease.
                self.jitter = Timing::spread(after) * u32::from(spread) / 256;
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
mod tests;
