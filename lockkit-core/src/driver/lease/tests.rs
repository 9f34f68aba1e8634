//! What the driver decides while a lease is held, event by event.

use super::*;
use crate::driver::timing::Renewal;

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
fn a_lease_keeps_its_place_in_the_spread_for_life() {
    let timing = timing(Renewal::Automatic, None);
    let mut machine = Machine::granted(timing, term(0), at(0), 255).expect("granted");
    let first = machine.wake_at(at(0)).expect("automatic").saturating_since(at(0));
    machine.on(at(5), Event::Renewed(term(5)));
    assert_eq!(machine.wake_at(at(5)), Some(at(5).saturating_add(first)));
}

#[test]
fn another_acknowledgement_of_the_term_in_force_brings_no_renewal_forward() {
    let mut machine = held(Renewal::Automatic);
    assert!(machine.on(at(4), Event::Tick).renew);
    assert!(!machine.on(at(5), Event::Renewed(term(0))).renew);
    assert_eq!(machine.wake_at(at(5)), Some(at(6)));
}

#[test]
fn with_four_renewals_under_way_the_next_tick_waits_for_the_risk() {
    let mut machine = held(Renewal::Automatic);
    for _ in 0..4 {
        assert!(machine.on(at(1), Event::RenewNow).renew);
    }
    assert_eq!(machine.wake_at(at(1)), Some(at(8)));
    machine.on(at(2), Event::RenewalFailed);
    assert_eq!(machine.wake_at(at(2)), Some(at(3)));
}

#[test]
fn watchers_are_woken_at_the_risk_and_then_at_the_end() {
    let mut machine = held(Renewal::Manual);
    for next in [Machine::wake_at, Machine::next_change] {
        assert_eq!(next(&machine, at(7)), Some(at(8)));
        assert_eq!(next(&machine, at(8)), end(0));
        assert_eq!(next(&machine, at(9)), end(0));
    }
    machine.on(at(9), Event::Renewed(term(9)));
    assert_eq!(machine.next_change(at(9)), Some(at(17)));
}

#[test]
fn a_lease_tells_its_ttl_and_the_most_that_is_ever_left() {
    let mut machine = held(Renewal::Automatic);
    assert_eq!((machine.ttl(), machine.most_left(at(3))), (Some(TTL), Some(TTL - MARGIN)));
    machine.on(at(5), Event::Renewed(Term { sent: at(5), ttl: Some(TTL / 2) }));
    let most = Some((TTL - MARGIN) / 2);
    assert_eq!((machine.ttl(), machine.most_left(at(6))), (Some(TTL / 2), most));
    let capped = timing(Renewal::Automatic, Some(Duration::from_secs(20)));
    let machine = Machine::granted(capped, term(0), at(0), 0).expect("granted");
    assert_eq!(machine.most_left(at(9)), Some(TTL - MARGIN));
    assert_eq!(machine.most_left(at(10)), Some(Duration::from_secs(10)), "the cap is closer");
    let endless = Term { sent: at(0), ttl: None };
    let timing = timing(Renewal::Automatic, None);
    let machine = Machine::granted(timing, endless, at(0), 0).expect("granted");
    assert_eq!((machine.ttl(), machine.most_left(at(3))), (None, None));
}

#[test]
fn that_the_store_is_out_of_reach_is_news_once_per_renewal() {
    let mut machine = held(Renewal::Automatic);
    assert!(machine.may_be_in_reach());
    machine.on(at(1), Event::OutOfReach);
    assert!(!machine.may_be_in_reach());
    machine.on(at(4), Event::Renewed(term(4)));
    assert!(machine.may_be_in_reach());
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
    while let (State::Held | State::AtRisk, Some(next)) = (machine.state(now), machine.wake_at(now))
    {
        assert!(next > now, "a tick that does nothing would spin");
        now = next;
        machine.on(now, Event::Tick);
        ticks += 1;
    }
    assert_eq!(machine.state(now), State::Lost(LossReason::Expired));
    assert!(ticks <= 6, "{ticks}");
}
