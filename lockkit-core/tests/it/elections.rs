//! Elections: one leads at a time, all can see who, and the work of a leader ends before the next one's begins.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt;
use lockkit_core::{
    Clock, Election, Error, Fence, FencingToken, Leadership, Locks, LossReason, Memory,
};
use tokio::time::Instant;

use crate::support::{Fault, Op, Remote};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn locks(store: &Memory) -> Locks {
    Locks::builder().clock(Clock::tokio()).build(store.clone())
}

/// Leads for so long; the token with which it did.
async fn lead(election: &Election, lasting: Duration) -> FencingToken {
    let leadership = election.campaign().await.unwrap();
    tokio::time::sleep(lasting).await;
    let token = leadership.token();
    leadership.resign().await.unwrap();
    token
}

#[tokio::test(start_paused = true)]
async fn all_see_the_candidates_text_while_it_leads() {
    let store = Memory::new();
    let (ours, theirs) = (locks(&store).election("a"), locks(&store).election("a"));
    let ours = ours.candidate("web-3").ttl(SECOND).margin(SECOND / 5);
    assert_eq!(theirs.leader().await.unwrap(), None);
    let leadership = ours.campaign().await.unwrap();
    let leader = theirs.leader().await.unwrap().expect("a leader");
    assert_eq!((leader.label.as_str(), leader.token), ("web-3", Some(leadership.token())));
    assert_eq!(leadership.ensure(SECOND / 2).unwrap(), leadership.token());
    assert_eq!(leadership.guard().name().as_str(), "a");
    let late = theirs.campaign_within(SECOND).await.expect_err("another leads");
    assert!(matches!(late, Error::TimedOut { .. }), "{late}");
    let (lost, next) = (leadership.lost(), tokio::spawn(theirs.candidate("web-4").campaign()));
    assert!(leadership.leads());
    leadership.resign().await.unwrap();
    assert_eq!(lost.await, LossReason::Released);
    let next = next.await.unwrap().unwrap();
    assert_eq!(ours.leader().await.unwrap().expect("the next one").label, "web-4");
    drop(next);
    tokio::time::sleep(MS).await;
    assert_eq!(ours.leader().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn observers_see_each_leader_once_in_the_order_of_the_tokens() {
    let store = Memory::new();
    let observe = |delay| {
        let leaders = locks(&store).election("a").seen_within(delay).observe();
        tokio::spawn(
            leaders.map(|leader| leader.unwrap().token.unwrap()).take(30).collect::<Vec<_>>(),
        )
    };
    let (prompt, late) = (observe(SECOND), observe(2 * SECOND));
    // One that is always called away from its wait.
    let mut leaders = locks(&store).election("a").seen_within(SECOND).observe();
    let interrupted = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.len() < 30 {
            if let Ok(leader) = tokio::time::timeout(7 * MS, leaders.next()).await {
                seen.push(leader.unwrap().unwrap().token.unwrap());
            }
        }
        seen
    });
    let candidates = [(); 3].map(|()| locks(&store).election("a"));
    let mut led = Vec::new();
    for term in 0..30 {
        led.push(lead(&candidates[term % 3], 2 * SECOND + MS).await);
    }
    for seen in [prompt, late, interrupted] {
        assert_eq!(seen.await.unwrap(), led);
    }
}

#[tokio::test(start_paused = true)]
async fn leaders_of_any_length_are_seen_in_order_and_the_long_ones_all() {
    let (remote, delay) = (Remote::with_delay(20 * MS, 3), SECOND);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let mut leaders = remote.locks().election("a").seen_within(delay).observe();
    let observer = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            while let Some(leader) = leaders.next().await {
                seen.lock().unwrap().push(leader.unwrap().token.unwrap());
            }
        }
    });
    let election = remote.locks().election("a");
    let mut long = Vec::new();
    for _ in 0..300 {
        let lasting = Duration::from_millis(remote.random() % 2000);
        let token = lead(&election, lasting).await;
        if lasting > delay {
            long.push(token);
        }
    }
    observer.abort();
    let seen = seen.lock().unwrap();
    assert!(seen.windows(2).all(|pair| pair[0] < pair[1]), "out of order, or twice: {seen:?}");
    let missed: Vec<_> = long.iter().filter(|token| !seen.contains(token)).collect();
    assert!(long.len() > 100 && missed.is_empty(), "missed: {missed:?}");
}

#[tokio::test(start_paused = true)]
async fn an_observer_goes_on_through_an_outage_and_ends_with_its_locks() {
    let store = Memory::new();
    let (ours, theirs) = (locks(&store), locks(&store));
    let mut leaders = ours.election("a").observe();
    let first = lead(&theirs.election("a"), MS).await;
    store.outage(20 * SECOND);
    let waits = tokio::time::timeout(10 * SECOND, leaders.next()).await;
    assert!(waits.is_err(), "{waits:?}");
    tokio::time::sleep(20 * SECOND).await;
    let second = theirs.election("a").campaign().await.unwrap();
    let seen = leaders.next().await.unwrap().unwrap();
    assert!(seen.token == Some(second.token()) && seen.token > Some(first));
    let waiting = tokio::spawn(async move { (leaders.next().await, leaders.next().await) });
    tokio::time::sleep(10 * SECOND).await;
    assert!(!waiting.is_finished(), "the same leader twice");
    ours.close(SECOND).await.unwrap();
    let (closed, ended) = waiting.await.unwrap();
    assert!(matches!(closed, Some(Err(Error::Closed))) && ended.is_none());
    let mut refused = theirs.election("a").seen_within(Duration::ZERO).observe();
    assert!(matches!(refused.next().await, Some(Err(Error::Invalid { .. }))));
    let mut unnamed = theirs.election("").observe();
    assert!(matches!(unnamed.next().await, Some(Err(Error::Invalid { .. }))));
}

#[tokio::test(start_paused = true)]
async fn it_stands_again_after_a_loss_and_after_it_resigned() {
    let store = Memory::new();
    let election = locks(&store).election("a").ttl(SECOND);
    let (mut terms, mut tokens, ended) = (0, Vec::new(), AtomicUsize::new(0));
    let value = election.run(async |leadership: &Leadership| {
        terms += 1;
        tokens.push((leadership.token(), Instant::now()));
        match terms {
            1..=3 => {
                store.expire("a");
                tokio::time::sleep(SECOND).await;
                ended.fetch_add(1, Ordering::SeqCst);
                ControlFlow::Continue(())
            }
            4..=6 => ControlFlow::Continue(()),
            7 => {
                tokio::time::sleep(5 * SECOND).await;
                ControlFlow::Continue(())
            }
            8 => ControlFlow::Continue(()),
            _ => ControlFlow::Break("done"),
        }
    });
    assert_eq!(value.await.unwrap(), "done");
    assert_eq!(ended.load(Ordering::SeqCst), 0, "the work is stopped where the leadership is lost");
    assert!(tokens.windows(2).all(|pair| pair[0].0 < pair[1].0), "{tokens:?}");
    let pauses: Vec<_> = tokens.windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
    // 50, 100, 200, ... ms; after a long term it begins again.
    assert!(pauses[0] >= 50 * MS && pauses[5] >= 1600 * MS, "{pauses:?}");
    assert!((50 * MS..100 * MS).contains(&(pauses[6] - 5 * SECOND)), "{pauses:?}");
    assert_eq!(election.leader().await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn it_ends_where_standing_is_useless_and_resigns_when_dropped() {
    let store = Memory::new();
    let (ours, theirs) = (locks(&store), locks(&store));
    let unnamed = ours.election("").run(async |_| ControlFlow::Break(())).await;
    assert!(matches!(unnamed, Err(Error::Invalid { .. })));
    let forever = |locks: &Locks| {
        locks.election("a").run(async |_: &Leadership| -> ControlFlow<()> {
            tokio::time::sleep(1000 * SECOND).await;
            ControlFlow::Continue(())
        })
    };
    let dropped = tokio::time::timeout(SECOND, forever(&ours)).await;
    assert!(dropped.is_err());
    tokio::time::sleep(MS).await;
    assert_eq!(theirs.election("a").leader().await.unwrap(), None);
    let (leads, stands) = (tokio::spawn(forever(&ours)), tokio::spawn(forever(&ours)));
    tokio::time::sleep(SECOND).await;
    ours.close(SECOND).await.unwrap();
    for ended in [leads, stands] {
        assert!(matches!(ended.await.unwrap(), Err(Error::Closed)));
    }
    store.outage(30 * SECOND);
    let through = theirs.election("a").run(async |_| ControlFlow::Break(7)).await;
    assert_eq!(through.unwrap(), 7);
}

/// Counts who leads.
struct Term<'a>(&'a AtomicUsize);

impl<'a> Term<'a> {
    fn begin(leading: &'a AtomicUsize) -> Self {
        assert_eq!(leading.fetch_add(1, Ordering::SeqCst), 0, "two lead at once");
        Self(leading)
    }
}

impl Drop for Term<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

#[tokio::test(start_paused = true)]
async fn the_work_of_a_leader_that_is_not_heard_of_ends_before_another_leads() {
    let remote = Remote::with_delay(10 * MS, 5);
    let (leading, terms) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let stand = |_| {
        let (leading, terms) = (Arc::clone(&leading), Arc::clone(&terms));
        let election = remote.locks().election("a").ttl(SECOND);
        tokio::spawn(election.run(async move |_: &Leadership| {
            let _term = Term::begin(&leading);
            if terms.fetch_add(1, Ordering::SeqCst) == 20 {
                return ControlFlow::Break(());
            }
            tokio::time::sleep(100 * SECOND).await;
            ControlFlow::Continue(())
        }))
    };
    let candidates: Vec<_> = (0..3).map(stand).collect();
    while terms.load(Ordering::SeqCst) < 20 {
        // All renewals of the leader are lost, and so is its release.
        for _ in 0..8 {
            remote.fail_next(Op::Renew, Fault::Hang);
        }
        remote.fail_next(Op::Release, Fault::LostRequest);
        tokio::time::sleep(5 * SECOND).await;
    }
    assert!(terms.load(Ordering::SeqCst) >= 20);
    candidates.iter().for_each(tokio::task::JoinHandle::abort);
}

#[test]
fn a_leader_whose_thread_stood_still_changes_nothing_and_stops() {
    const TTL: Duration = Duration::from_millis(200);
    let (store, followers) = (Memory::new(), Arc::new(Fence::default()));
    let stalled = std::thread::spawn({
        let (store, followers) = (store.clone(), Arc::clone(&followers));
        move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                let election = Locks::new(store).election("a").candidate("stalled").ttl(TTL);
                let leadership = election.campaign().await.unwrap();
                let token = leadership.token();
                followers.raise(token).unwrap();
                let after = AtomicUsize::new(0);
                let ran = leadership.run(async |_: &Leadership| {
                    // A pause that no program sees coming, right before an order.
                    while followers.newest() == Some(token) {
                        std::thread::sleep(TTL);
                    }
                    let refused = followers.raise(token).is_err();
                    tokio::task::yield_now().await;
                    after.fetch_add(1, Ordering::SeqCst);
                    refused
                });
                let ran = ran.await;
                assert!(matches!(ran, Err(Error::Lost { .. })), "{ran:?}");
                assert_eq!(after.load(Ordering::SeqCst), 0, "the work went on after the loss");
                token
            })
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let election = Locks::new(store).election("a").candidate("next").ttl(TTL);
        while followers.newest().is_none() {
            tokio::time::sleep(MS).await;
        }
        let leadership = election.campaign().await.unwrap();
        followers.raise(leadership.token()).expect("the newest");
        let stalled = tokio::task::spawn_blocking(move || stalled.join().unwrap()).await.unwrap();
        assert!(stalled < leadership.token());
    });
}
