use lockkit_core::LockName;

use super::*;
use crate::protocol::Keys;

const KIND: Kind = Kind::Exclusive;

pub(super) fn replica() -> Arc<Replica> {
    let name = LockName::new("a").expect("a name");
    Arc::new(Replica::new(Keys::new("lockkit").directory(&name)))
}

pub(super) fn contender(created: i64) -> Contender {
    let (key, label) = (format!("k{created}").into_bytes(), format!("l{created}"));
    Contender { key, created, lease: 1, label, kind: KIND, is_ours: true }
}

fn put(created: i64) -> Change {
    let contender = contender(created);
    Change { key: contender.key.clone(), now: created, contender: Some(contender) }
}

pub(super) fn deleted(created: i64, now: i64) -> Change {
    Change { key: contender(created).key, now, contender: None }
}

pub(super) fn place(replica: &Arc<Replica>, created: i64) -> Place {
    replica.place(&contender(created).key, created)
}

fn behind(created: i64) -> Standing {
    Standing::Behind { holder: Holder::new(format!("l{created}")) }
}

#[test]
fn no_waiter_is_first_before_the_directory_was_read_on_this_stream() {
    let replica = replica();
    let waiter = place(&replica, 3);
    assert_eq!(waiter.standing(KIND), Standing::Unknown);
    assert!(replica.asks() && !replica.asks());
    replica.follow([put(3)]);
    replica.stands();
    let Standing::Unread { stream } = waiter.standing(KIND) else { panic!("read too early") };
    // Told before the reading is taken in, and partly after it was made.
    replica.follow([put(4), deleted(1, 5)]);
    assert_eq!(waiter.standing(KIND), Standing::Unread { stream });
    replica.take_in(stream, [1, 2, 3].map(contender).to_vec(), 3);
    assert_eq!(waiter.standing(KIND), behind(2));
    replica.follow([deleted(2, 6)]);
    assert_eq!(waiter.standing(KIND), Standing::First { known: 6 });
    // The stream ends, and what a reading of before it found counts no more.
    replica.close();
    assert_eq!(waiter.standing(KIND), Standing::Unknown);
    assert!(replica.asks());
    replica.stands();
    replica.take_in(stream, vec![contender(3)], 6);
    let Standing::Unread { stream } = waiter.standing(KIND) else { panic!("an old reading") };
    replica.take_in(stream, vec![], 9);
    assert_eq!(waiter.standing(KIND), Standing::Gone);
}

#[test]
fn a_place_is_known_once_the_replica_has_reached_it_and_what_was_read_is_not_told_again() {
    let replica = replica();
    assert!(replica.asks());
    replica.stands();
    replica.take_in(0, vec![contender(2)], 4);
    let waiter = place(&replica, 6);
    assert_eq!(waiter.standing(KIND), Standing::Unknown);
    // Of before the reading: a put of what is gone by now.
    replica.follow([put(1), put(5)]);
    assert_eq!(waiter.standing(KIND), Standing::Unknown);
    replica.follow([put(6)]);
    assert_eq!(waiter.standing(KIND), behind(2));
    replica.follow([deleted(2, 7)]);
    assert_eq!(waiter.standing(KIND), behind(5));
    // Made again, it is behind; the waiter's own key is another one when it is made again.
    let again =
        Change { now: 8, contender: Some(Contender { created: 8, ..contender(5) }), ..put(5) };
    replica.follow([deleted(5, 7), again]);
    assert_eq!(waiter.standing(KIND), Standing::First { known: 8 });
    let again =
        Change { now: 9, contender: Some(Contender { created: 9, ..contender(6) }), ..put(6) };
    replica.follow([deleted(6, 9), again]);
    assert_eq!(waiter.standing(KIND), Standing::Gone);
}

#[tokio::test]
async fn only_those_are_woken_whose_standing_may_have_changed() {
    let replica = replica();
    assert!(replica.asks());
    replica.stands();
    replica.take_in(0, (1..=4).map(contender).collect(), 4);
    let waiters: Vec<_> = (2..=4).map(|created| place(&replica, created)).collect();
    let woken = |changes: Vec<Change>| {
        let mut changed: Vec<_> = waiters.iter().map(|it| Box::pin(it.changed())).collect();
        replica.follow(changes);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let mut is_woken = |it: &mut std::pin::Pin<Box<_>>| {
            Future::poll(std::pin::Pin::as_mut(it), &mut context).is_ready()
        };
        changed.iter_mut().map(&mut is_woken).collect::<Vec<bool>>()
    };
    assert_eq!(woken(vec![put(5)]), [false, false, false]);
    assert_eq!(woken(vec![deleted(3, 6)]), [false, true, false]);
    assert_eq!(woken(vec![deleted(1, 7)]), [true, false, false]);
    assert_eq!(woken(vec![deleted(2, 8)]), [true, false, true]);
}

#[tokio::test]
async fn shared_waiters_are_told_together_and_do_not_pass_an_exclusive_one() {
    let replica = replica();
    assert!(replica.asks());
    replica.stands();
    let kinds = [KIND, Kind::Shared, Kind::Shared, KIND, Kind::Shared];
    let contenders: Vec<_> =
        (1..).zip(kinds).map(|(created, kind)| Contender { kind, ..contender(created) }).collect();
    replica.take_in(0, contenders, 5);
    let waiters: Vec<_> = (2..=5).map(|created| place(&replica, created)).collect();
    let standings = || {
        let kinds = kinds[1..].iter().copied();
        let is_first =
            |(place, kind): (&Place, Kind)| matches!(place.standing(kind), Standing::First { .. });
        waiters.iter().zip(kinds).map(is_first).collect::<Vec<_>>()
    };
    assert_eq!(standings(), [false; 4]);
    let mut changed: Vec<_> = waiters.iter().map(|it| Box::pin(it.changed())).collect();
    replica.follow([deleted(1, 6)]);
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    let woken: Vec<_> =
        changed.iter_mut().map(|it| it.as_mut().poll(&mut context).is_ready()).collect();
    assert_eq!(woken, [true, true, false, false]);
    assert_eq!(standings(), [true, true, false, false]);
    // The first of them leaves, then the exclusive one.
    replica.follow([deleted(2, 7)]);
    assert_eq!(standings()[1..], [true, false, false]);
    replica.follow([deleted(4, 8)]);
    assert_eq!(standings()[3..], [true]);
}
