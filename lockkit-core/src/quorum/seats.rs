//! What the members of one round have answered, and what follows from it: pure.

use std::sync::Arc;

use crate::{Error, FencingToken, Holder, Instant, Lease, LossReason, Term};

/// One member's part in a round.
#[derive(Clone, Debug)]
pub(super) enum Seat {
    /// It is not asked: it is silent, or has lost its data.
    Apart(Option<Error>),
    /// It was asked, and has not answered.
    Asked,
    /// It says that another holds there.
    Waits(Option<Holder>),
    /// It says that another holds there, and has forgotten the request.
    Refused,
    /// It granted.
    Held(Held),
    /// It granted, and the grant has ended since.
    Lost(LossReason, Instant),
}

/// A member's grant.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) lease: Arc<dyn Lease>,
    /// The token that it answered; `None`: its tokens do not compare with those of the others.
    pub(super) token: Option<FencingToken>,
    /// The token that it agreed to carry.
    pub(super) agreed: Option<FencingToken>,
    /// The term that ends last.
    pub(super) term: Term,
}

impl Held {
    /// Whether the member surely holds at `now`.
    pub(super) fn is_live(&self, now: Instant) -> bool {
        ends(self.term).is_none_or(|end| now < end)
    }

    /// An acknowledgement never lowers a deadline.
    pub(super) fn extend(&mut self, term: Term) {
        if later(term) > later(self.term) {
            self.term = term;
        }
    }
}

/// When a term ends; `None`: never by itself.
pub(super) fn ends(term: Term) -> Option<Instant> {
    term.ttl.map(|ttl| term.sent.saturating_add(ttl))
}

/// Orders terms by their ends.
fn later(term: Term) -> (bool, Option<Instant>) {
    (term.ttl.is_none(), ends(term))
}

/// The least number that is more than half of the members.
pub(super) const fn majority(members: usize) -> usize {
    members / 2 + 1
}

/// The members' grants, of those that hold.
pub(super) fn held(seats: &[Seat]) -> impl Iterator<Item = &Held> {
    seats.iter().filter_map(|seat| match seat {
        Seat::Held(held) => Some(held),
        _ => None,
    })
}

/// On how many members the request holds at `now`.
pub(super) fn live(seats: &[Seat], now: Instant) -> usize {
    held(seats).filter(|held| held.is_live(now)).count()
}

/// On how many members the request holds, or may come to hold without being asked again.
pub(super) fn possible(seats: &[Seat], now: Instant) -> usize {
    let may = |seat: &&Seat| match seat {
        Seat::Held(held) => held.is_live(now),
        Seat::Asked | Seat::Waits(_) => true,
        Seat::Apart(_) | Seat::Refused | Seat::Lost(..) => false,
    };
    seats.iter().filter(may).count()
}

/// The greatest token of all answers so far: the one to agree on.
pub(super) fn greatest(seats: &[Seat]) -> Option<FencingToken> {
    held(seats).filter_map(|held| held.token).max()
}

/// Whether a majority agrees on `token` and has time left at `now`: the same members for both.
pub(super) fn is_granted(seats: &[Seat], token: FencingToken, now: Instant) -> bool {
    let both = |held: &&Held| {
        (held.agreed == Some(token) || held.token == Some(token)) && held.is_live(now)
    };
    held(seats).filter(both).count() >= majority(seats.len())
}

/// The term of the whole: that of the member whose deadline is the q-th greatest, since at every instant before that a
/// majority surely holds. `None`: no majority holds.
pub(super) fn term(seats: &[Seat]) -> Option<Term> {
    let mut terms: Vec<_> = held(seats).map(|held| held.term).collect();
    terms.sort_by_key(|term| std::cmp::Reverse(later(*term)));
    terms.get(majority(seats.len()) - 1).copied()
}

/// Why the whole has ended, once fewer than a majority can still hold; `None`: it has not.
pub(super) fn lost(seats: &[Seat]) -> Option<LossReason> {
    if held(seats).count() >= majority(seats.len()) {
        return None;
    }
    let reasons = seats.iter().filter_map(|seat| match seat {
        Seat::Lost(reason, _) => Some(*reason),
        _ => None,
    });
    let reasons: Vec<_> = reasons.collect();
    let is_revoked = reasons.contains(&LossReason::Revoked);
    let first = reasons.first().copied().unwrap_or(LossReason::Removed);
    Some(if is_revoked { LossReason::Revoked } else { first })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::async_trait;

    #[derive(Debug)]
    struct Nothing;

    #[async_trait]
    impl Lease for Nothing {
        async fn renew(&self) -> crate::Result<Term> {
            Err(Error::lost(LossReason::Removed))
        }

        async fn lost(&self) -> LossReason {
            LossReason::Removed
        }

        async fn release(&self) -> crate::Result<()> {
            Ok(())
        }

        fn native(&self) -> Option<Arc<dyn std::any::Any + Send + Sync>> {
            None
        }
    }

    fn at(second: u64) -> Instant {
        Instant::from_origin(Duration::from_secs(second))
    }

    fn token(value: u64) -> FencingToken {
        FencingToken::new(value).expect("a token")
    }

    /// A member that answered `token`, agreed to `agreed`, and holds until `end`.
    fn holds(answered: u64, agreed: Option<u64>, end: u64) -> Seat {
        let term = Term { sent: at(0), ttl: Some(Duration::from_secs(end)) };
        let (token, agreed) = (Some(token(answered)), agreed.map(token));
        Seat::Held(Held { lease: Arc::new(Nothing), token, agreed, term })
    }

    #[test]
    fn a_majority_is_more_than_half() {
        assert_eq!([3, 5, 7, 9].map(majority), [2, 3, 4, 5]);
    }

    #[test]
    fn the_term_is_that_of_the_qth_greatest_deadline() {
        let seats = [
            holds(1, None, 9),
            Seat::Apart(None),
            holds(1, None, 3),
            holds(1, None, 7),
            holds(1, None, 5),
        ];
        assert_eq!(ends(term(&seats).expect("four hold")), Some(at(5)));
        assert_eq!(ends(term(&seats[..4]).expect("three of four hold")), Some(at(3)));
        assert_eq!(term(&[holds(1, None, 9), Seat::Refused, Seat::Refused]), None);
        let mut endless = seats.to_vec();
        let Seat::Held(first) = &mut endless[2] else { panic!("it holds") };
        first.term.ttl = None;
        assert_eq!(ends(term(&endless).expect("four hold")), Some(at(7)));
    }

    #[test]
    fn agreement_and_time_are_asked_of_the_same_members() {
        let now = at(4);
        let agreed_and_over = holds(6, Some(6), 3);
        let seats = [
            agreed_and_over,
            holds(6, Some(6), 9),
            holds(7, None, 9),
            Seat::Refused,
            Seat::Refused,
        ];
        assert!(!is_granted(&seats, token(6), now), "two agree and have time, of five");
        let seats = [holds(6, Some(6), 9), holds(6, Some(6), 9), holds(9, Some(9), 9)];
        assert!(is_granted(&seats, token(6), now));
        assert!(!is_granted(&seats, token(6), at(9)), "judged when it is granted");
        assert!(!is_granted(&seats, token(9), now));
        assert_eq!(greatest(&seats), Some(token(9)));
    }

    #[test]
    fn a_deadline_is_never_lowered_by_an_acknowledgement() {
        let Seat::Held(mut held) = holds(1, None, 5) else { panic!("it holds") };
        held.extend(Term { sent: at(0), ttl: Some(Duration::from_secs(3)) });
        assert_eq!(ends(held.term), Some(at(5)));
        held.extend(Term { sent: at(4), ttl: Some(Duration::from_secs(3)) });
        assert_eq!(ends(held.term), Some(at(7)));
        assert!(held.is_live(at(6)) && !held.is_live(at(7)));
    }

    #[test]
    fn it_is_lost_when_fewer_than_a_majority_can_hold_and_revoked_if_one_of_them_was() {
        let gone = |reason| Seat::Lost(reason, at(1));
        let two = [holds(1, None, 9), holds(1, None, 9), gone(LossReason::Removed)];
        assert_eq!(lost(&two), None);
        let one = [holds(1, None, 9), gone(LossReason::Removed), gone(LossReason::Revoked)];
        assert_eq!(lost(&one), Some(LossReason::Revoked));
        assert_eq!(possible(&[Seat::Asked, Seat::Waits(None), Seat::Refused], at(1)), 2);
    }
}
