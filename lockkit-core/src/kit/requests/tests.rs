use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Wake, Waker};

use super::*;
use crate::{Clock, LockName};

type Numbers = Arc<Requests<u32>>;

impl Notes for u32 {}

/// Whether a key of the request may be in the store.
#[derive(Debug, Default)]
struct Key(bool);

impl Notes for Key {
    fn are_kept(&self) -> bool {
        self.0
    }
}

fn request(clock: &Clock) -> Request {
    let name = LockName::new("a").expect("a name");
    Request::new(name, Duration::from_secs(3), clock.clone()).expect("an id")
}

fn known(requests: &Numbers) -> usize {
    requests.records().of.len()
}

#[test]
fn only_what_was_never_answered_may_arrive_late() {
    let (requests, clock) = (Numbers::default(), Clock::manual());
    let request = request(&clock);
    let entry = requests.enter(&request);
    let first = entry.send().expect("not withdrawn");
    assert!(entry.may_still_arrive());
    first.answered();
    assert!(!entry.may_still_arrive());
    drop(entry.send().expect("not withdrawn"));
    entry.send().expect("not withdrawn").answered();
    assert!(entry.may_still_arrive(), "the dropped sending is still on its way");
    drop(entry);
    assert!(requests.may_still_arrive(request.id()));
    requests.enter(&request).settle();
    assert!(!requests.may_still_arrive(request.id()) && known(&requests) == 0);
}

#[test]
fn a_withdrawn_request_is_never_sent_again() {
    let (requests, clock) = (Numbers::default(), Clock::manual());
    let request = request(&clock);
    let (first, replay) = (requests.enter(&request), requests.enter(&request));
    let sending = first.send().expect("not withdrawn");
    replay.withdraw();
    assert!(first.is_withdrawn() && first.send().is_err());
    drop(sending);
    drop((first, replay));
    let late = requests.enter(&request);
    assert!(late.send().is_err(), "a sending may still arrive: the flag stays with it");
}

#[test]
fn a_request_is_forgotten_with_its_last_entry_or_when_nothing_of_it_is_delivered_any_more() {
    let (requests, clock) = (Numbers::default(), Clock::manual());
    let entry = requests.enter(&request(&clock));
    let lease = entry.clone();
    drop(entry);
    assert_eq!((known(&requests), requests.in_use().len()), (1, 1));
    drop(lease);
    assert_eq!(known(&requests), 0);
    for _ in 0..10_000 {
        drop(requests.enter(&request(&clock)).send());
        clock.advance(Duration::from_secs(1));
    }
    assert!(known(&requests) <= MANY && requests.in_use().is_empty());
}

#[test]
fn many_records_that_are_in_use_are_looked_through_seldom() {
    let (requests, clock) = (Numbers::default(), Clock::manual());
    let (mut entries, mut looks, mut left) = (Vec::new(), 0, 0);
    for _ in 0..10_000 {
        entries.push(requests.enter(&request(&clock)));
        drop(requests.enter(&request(&clock)));
        let now_left = requests.records().left;
        looks += u32::from(now_left != left);
        left = now_left;
    }
    assert_eq!(looks, 6, "at 256, and at each doubling up to 8192");
}

#[tokio::test]
async fn what_is_noted_is_taken_once_by_whom_it_is_waited_for() {
    let (requests, clock) = (Numbers::default(), Clock::manual());
    let entry = requests.enter(&request(&clock));
    let number = |data: &mut u32| (*data > 0).then(|| std::mem::take(data));
    let waits = entry.wait_for(number);
    let told = async { *entry.data() = 7 };
    assert_eq!(tokio::join!(waits, told).0, 7);
    assert_eq!(*entry.data(), 0);
    *entry.data() = 8;
    assert_eq!(entry.wait_for(number).await, 8, "what is there is not waited for");
    entry.withdraw();
    entry.withdrawn().await;
}

#[test]
fn a_record_that_its_notes_keep_is_forgotten_once_they_do_not_or_are_over() {
    let (requests, clock) = (Arc::<Requests<Key>>::default(), Clock::manual());
    let [first, second] = [request(&clock), request(&clock)];
    for request in [&first, &second] {
        *requests.enter(request).data() = Key(true);
        requests.forget(request.id());
    }
    assert_eq!(requests.all().len(), 2);
    *requests.find(first.id()).expect("kept").data() = Key(false);
    requests.forget(first.id());
    assert!(requests.find(first.id()).is_none());
    let entry = requests.enter(&second);
    requests.prune(|key| key.0);
    assert_eq!(requests.all().len(), 1, "a call works on it");
    drop(entry);
    requests.prune(|key| !key.0);
    assert_eq!(requests.all().len(), 1, "it is not over");
    requests.prune(|key| key.0);
    assert!(requests.all().is_empty());
}

#[test]
fn an_orphan_is_a_record_that_no_call_has_worked_on_for_so_long() {
    let (requests, clock) = (Arc::<Requests<Key>>::default(), Clock::manual());
    let (request, age) = (request(&clock), Duration::from_secs(3));
    let orphans = || requests.orphans(age, |key| key.0).len();
    let entry = requests.enter(&request);
    *entry.data() = Key(true);
    clock.advance(age);
    assert_eq!(orphans(), 0, "in use");
    drop(entry);
    clock.advance(age / 2);
    assert_eq!(orphans(), 0, "left a moment ago");
    drop(requests.enter(&request));
    clock.advance(age - Duration::from_millis(1));
    assert_eq!(orphans(), 0, "a call came back meanwhile");
    clock.advance(Duration::from_millis(1));
    assert_eq!(orphans(), 1);
    assert!(requests.orphans(age, |_| false).is_empty());
    let _entry = requests.enter(&request);
    assert_eq!(orphans(), 0, "a call has come back");
}

#[test]
fn what_was_never_answered_is_unsettled_however_long_ago() {
    let (requests, clock) = (Numbers::default(), Clock::manual());
    let entry = requests.enter(&request(&clock));
    entry.send().expect("not withdrawn").answered();
    assert!(!entry.is_unsettled());
    drop(entry.send().expect("not withdrawn"));
    clock.advance(LATEST_DELIVERY * 2);
    assert!(entry.is_unsettled() && !entry.may_still_arrive());
    entry.settle();
    assert!(!entry.is_unsettled());
}

/// How often a task was woken.
#[derive(Debug, Default)]
struct Woken(AtomicU32);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

#[test]
fn a_change_for_others_wakes_a_second_call_and_not_the_one_that_makes_it() {
    let (requests, clock) = (Numbers::default(), Clock::manual());
    let request = request(&clock);
    let entry = requests.enter(&request);
    let woken = Arc::<Woken>::default();
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let mut waits = pin!(entry.wait_for(|n| (*n == 8).then_some(())));
    assert!(waits.as_mut().poll(&mut context).is_pending());
    *entry.data().for_others() = 7;
    assert_eq!(woken.0.load(Ordering::SeqCst), 0, "its own change");
    // A second call finds what was noted before it came; what follows wakes those that wait.
    let second = requests.enter(&request);
    let mut found = pin!(second.wait_for(|n| (*n == 7).then_some(())));
    assert!(found.as_mut().poll(&mut context).is_ready());
    *entry.data().for_others() = 8;
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(waits.as_mut().poll(&mut context).is_ready());
}
