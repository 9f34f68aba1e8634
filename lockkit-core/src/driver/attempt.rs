//! The driver's decisions until a lease is held: a pure step function over events.

use std::time::Duration;

use crate::{Error, RequestId};

/// The first pause after a failure; each further one is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(25);
/// The longest pause: a store that comes back is found within a second.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The clean-up of earlier requests leaves room for this one.
    Admitted,
    /// The store granted, but the deadline of the grant had passed on arrival: this error.
    GrantedLate(Error),
    /// The store said that another holds the name, and forgot the request.
    Held,
    /// The call failed.
    Failed(Error),
    /// The pause after a failure is over.
    Rested,
    /// The caller dropped its future.
    Left,
    /// The caller's time limit has passed.
    TimeUp,
    /// The locks are being closed.
    Closing,
}

/// What the driver does next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Ask the store: with the id it knows, or with a `fresh` one.
    Call { fresh: bool },
    /// Wait, then ask again.
    Pause(Duration),
    /// Answer the caller, and have the store forget the request if `withdraw`.
    End { answer: Answer, withdraw: bool },
}

/// How an attempt ended without a lease.
#[derive(Debug)]
pub(crate) enum Answer {
    /// Held by another.
    Held,
    /// The limit passed; [`Error::TimedOut`] if the store last said "held".
    TimeUp,
    Failed(Error),
}

/// One caller's attempt, over all its calls.
#[derive(Debug)]
pub(crate) struct Attempt {
    /// Whether the caller waits, through outages too.
    waits: bool,
    /// Whether the store may know the request although no call is under way (C2, C9).
    uncertain: bool,
    calling: bool,
    failures: u32,
    id: RequestId,
}

impl Attempt {
    pub(crate) const fn new(waits: bool, id: RequestId) -> Self {
        Self { waits, uncertain: false, calling: false, failures: 0, id }
    }

    pub(crate) fn on(&mut self, event: Event) -> Step {
        let was_calling = std::mem::take(&mut self.calling);
        match event {
            Event::Admitted | Event::Rested => self.call(false),
            // Not to be believed in, and released: what follows is a new wish.
            Event::GrantedLate(_) if self.waits => self.call(true),
            Event::GrantedLate(error) => self.end(Answer::Failed(error), false),
            Event::Held => self.end(Answer::Held, false),
            Event::Failed(error) => {
                // A refusal may come once the request waits, or holds: it leaves what it has there.
                let refused = matches!(error, Error::Rejected { .. } | Error::Invalid { .. });
                self.uncertain |= refused || error.is_ambiguous();
                if self.waits && !refused && !matches!(error, Error::Closed) {
                    Step::Pause(self.pause())
                } else {
                    self.end(Answer::Failed(error), false)
                }
            }
            // A call that is under way is never dropped before its withdrawal.
            Event::Left => self.end(Answer::Failed(Error::Closed), was_calling),
            Event::TimeUp => self.end(Answer::TimeUp, was_calling),
            Event::Closing => self.end(Answer::Failed(Error::Closed), was_calling),
        }
    }

    fn call(&mut self, fresh: bool) -> Step {
        self.calling = true;
        self.uncertain &= !fresh;
        Step::Call { fresh }
    }

    fn end(&self, answer: Answer, calling: bool) -> Step {
        Step::End { answer, withdraw: calling || self.uncertain }
    }

    /// Doubles from failure to failure, and differs from request to request.
    fn pause(&mut self) -> Duration {
        let longest = FIRST_PAUSE.saturating_mul(1 << self.failures.min(10)).min(LONGEST_PAUSE);
        let spread = self.id.to_bytes()[(self.failures % 16) as usize];
        self.failures = self.failures.saturating_add(1);
        longest / 2 + longest / 2 * u32::from(spread) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Applied;

    const MAYBE: Applied = Applied::Maybe;

    fn attempt(waits: bool) -> Attempt {
        let mut attempt = Attempt::new(waits, RequestId::from_bytes([7; 16]));
        assert!(matches!(attempt.on(Event::Admitted), Step::Call { fresh: false }));
        attempt
    }

    fn withdraws(step: &Step) -> bool {
        matches!(step, Step::End { withdraw: true, .. })
    }

    #[test]
    fn a_call_under_way_is_withdrawn_whoever_ends_it() {
        for event in [Event::Left, Event::TimeUp, Event::Closing] {
            assert!(withdraws(&attempt(true).on(event)));
        }
    }

    #[test]
    fn a_refused_request_is_withdrawn_for_it_may_have_waited_or_held() {
        let refusals = [Error::rejected("role", "grant it"), Error::invalid("token", "lower it")];
        for (refusal, waits) in refusals.into_iter().zip([true, false]) {
            let step = attempt(waits).on(Event::Failed(refusal));
            assert!(withdraws(&step), "{step:?}");
        }
    }

    #[test]
    fn nothing_is_withdrawn_after_a_definite_answer() {
        assert!(!withdraws(&attempt(false).on(Event::Held)));
        assert!(!withdraws(&attempt(true).on(Event::Failed(Error::Closed))));
        let definite = Error::unavailable(Applied::No, "refused");
        assert!(!withdraws(&attempt(false).on(Event::Failed(definite.clone()))));
        let mut waiting = attempt(true);
        assert!(matches!(waiting.on(Event::Failed(definite)), Step::Pause(_)));
        assert!(!withdraws(&waiting.on(Event::Left)));
    }

    #[test]
    fn an_ambiguous_failure_is_withdrawn_even_when_a_later_call_fails_definitely() {
        assert!(withdraws(&attempt(false).on(Event::Failed(Error::unavailable(MAYBE, "reset")))));
        let mut waiting = attempt(true);
        waiting.on(Event::Failed(Error::unavailable(MAYBE, "reset")));
        waiting.on(Event::Rested);
        assert!(withdraws(&waiting.on(Event::Failed(Error::rejected("role", "grant it")))));
    }

    #[test]
    fn a_waiting_caller_asks_again_under_the_same_id_and_a_late_grant_under_a_new_one() {
        let mut waiting = attempt(true);
        waiting.on(Event::Failed(Error::unavailable(MAYBE, "reset")));
        assert!(matches!(waiting.on(Event::Rested), Step::Call { fresh: false }));
        let late = || Event::GrantedLate(Error::unavailable(Applied::No, "late"));
        assert!(matches!(waiting.on(late()), Step::Call { fresh: true }));
        let late = attempt(false).on(late());
        let Step::End { answer: Answer::Failed(error), withdraw: false } = late else {
            panic!("{late:?}")
        };
        assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error}");
    }

    /// The pauses of a request with this id, in microseconds.
    fn pauses(id: [u8; 16], number: usize) -> Vec<u128> {
        let mut waiting = Attempt::new(true, RequestId::from_bytes(id));
        let mut fails = || match waiting.on(Event::Failed(Error::unavailable(MAYBE, "down"))) {
            Step::Pause(pause) => pause.as_micros(),
            step => panic!("{step:?} after a failure"),
        };
        (0..number).map(|_| fails()).collect()
    }

    #[test]
    fn pauses_double_and_spread_over_their_second_half_by_the_requests_id() {
        let longest = [25, 50, 100, 200, 400, 800, 1000, 1000].map(|millis| millis * 1000);
        assert_eq!(pauses([255; 16], 8), longest);
        assert_eq!(pauses([0; 16], 8), longest.map(|pause| pause / 2));
        assert_eq!(pauses([51; 16], 8), longest.map(|pause| pause * 3 / 5));
        // Each of its bytes has its turn.
        let one = std::array::from_fn(|byte| if byte == 3 { 255 } else { 0 });
        let halves: Vec<_> = pauses([0; 16], 20);
        let doubled: Vec<_> =
            halves.iter().zip(pauses(one, 20)).map(|(half, all)| all / half).collect();
        let expected: Vec<_> = (0..20).map(|n| if n % 16 == 3 { 2 } else { 1 }).collect();
        assert_eq!(doubled, expected);
    }

    #[test]
    fn pauses_grow_to_a_second_and_stay_there() {
        let mut waiting = attempt(true);
        let mut longest = Duration::ZERO;
        for _ in 0..100 {
            let Step::Pause(pause) = waiting.on(Event::Failed(Error::unavailable(MAYBE, "down")))
            else {
                panic!("no pause after a failure")
            };
            assert!(pause > Duration::ZERO && pause <= LONGEST_PAUSE);
            longest = longest.max(pause);
            waiting.on(Event::Rested);
        }
        assert!(longest > LONGEST_PAUSE / 2);
    }
}
