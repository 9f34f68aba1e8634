//! Requests that leave: what their removal asks of the servers, and what it costs those that stay.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::{
    BUSY, by, client, linked, ms, nodes, provider, queued, request, server, spectator,
};
use futures_util::FutureExt;
use futures_util::future::join_all;
use lockkit_core::{LockProvider, Locks};
use testbed::{Fault, Way, in_time, timing};
use tokio::task::JoinSet;

const TTL: Duration = ms(30_000);

fn of(counts: &BTreeMap<String, u64>, name: &str) -> u64 {
    counts.get(name).copied().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_that_leave_list_nothing_and_each_sends_one_deletion() {
    const WAITERS: usize = 200;
    let server = server();
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let (ours, link) = linked(&server).await;
    let operator = client(&server).await.lock("a");
    let mut waiting = Vec::new();
    for count in 1..=WAITERS {
        let request = request("a", TTL);
        let (ours, asked) = (Arc::clone(&ours), request.clone());
        waiting.push((request, tokio::spawn(async move { ours.acquire(&asked).await })));
        if count % 50 == 0 {
            queued(&operator, count).await;
        }
    }
    // Each has set its watches.
    tokio::time::sleep(ms(1_500)).await;
    let before = link.counts();
    let ours = &ours;
    let withdrawn = waiting.iter().map(|(request, _)| ours.withdraw(request));
    for withdrawn in by(ms(10_000), "the withdrawals", join_all(withdrawn)).await {
        withdrawn.unwrap();
    }
    for (_, call) in waiting {
        assert!(call.await.unwrap().is_err());
    }
    queued(&operator, 0).await;
    let (requests, _) = link.since(&before);
    println!("{WAITERS} leave: {requests:?}");
    assert_eq!(of(&requests, "delete"), WAITERS as u64, "{requests:?}");
    assert_eq!([of(&requests, "list"), of(&requests, "sync")], [0, 0], "{requests:?}");
    holder.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_leaves_before_its_answer_is_removed_by_the_name_that_it_was_given() {
    const ROUNDS: u64 = 20;
    let server = server();
    let spectator = spectator(&server).await;
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let (ours, link) = linked(&server).await;
    ours.try_acquire(&request("other", TTL)).await.unwrap().unwrap().lease.release().await.unwrap();
    let before = link.counts();
    for _ in 0..ROUNDS {
        let request = request("a", TTL);
        // Its first poll sends.
        assert!(pin!(ours.acquire(&request)).as_mut().now_or_never().is_none());
        by(ms(2_000), "the withdrawal", ours.withdraw(&request)).await.unwrap();
        let left = nodes(&spectator, "/lockkit/a").await;
        assert_eq!(left.len(), 1, "{left:?}");
    }
    let (requests, _) = link.since(&before);
    println!("{ROUNDS} gave up: {requests:?}");
    for name in ["create", "list", "delete"] {
        assert_eq!(of(&requests, name), ROUNDS, "{name}: {requests:?}");
    }
    assert_eq!(of(&requests, "sync"), 0, "{requests:?}");
    holder.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn all_requests_of_a_name_whose_answers_were_lost_are_looked_for_by_few_lists() {
    const ASKED: usize = 60;
    let server = server();
    let spectator = spectator(&server).await;
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let (ours, link) = linked(&server).await;
    let other = ours.try_acquire(&request("other", TTL)).await.unwrap().unwrap();
    link.fault(Way::ToClient, Fault::Hold);
    let requests: Vec<_> = (0..ASKED).map(|_| request("a", TTL)).collect();
    for request in &requests {
        assert!(pin!(ours.acquire(request)).as_mut().now_or_never().is_none());
    }
    let are_there = || async { nodes(&spectator, "/lockkit/a").await.len() == 1 + ASKED };
    timing::gone(ms(5_000), "their nodes", are_there).await;
    // Nothing of what the server says reaches them any more.
    link.reset().unwrap();
    link.pass().unwrap();
    let before = link.counts();
    let withdrawn = requests.iter().map(|request| {
        let ours = Arc::clone(&ours);
        async move {
            while ours.withdraw(request).await.is_err() {
                tokio::time::sleep(ms(20)).await;
            }
        }
    });
    by(ms(10_000), "the withdrawals", join_all(withdrawn)).await;
    let (asked, _) = link.since(&before);
    println!("{ASKED} in doubt: {asked:?}");
    let left = nodes(&spectator, "/lockkit/a").await;
    assert_eq!(left.len(), 1, "{left:?}");
    // One each would be sixty. More than one where some try again meanwhile.
    assert!((1..=6).contains(&of(&asked, "list")), "{asked:?}");
    other.lease.release().await.unwrap();
    holder.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_that_give_up_in_a_loop_hardly_slow_another_of_their_client() {
    const LEAVERS: usize = 64;
    const ROUNDS: usize = 40;
    let _busy = BUSY.lock().await;
    let server = server();
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let locks = Locks::new(provider(crate::common::at(server.port())).await);
    let lock = locks.lock("b").ttl(TTL);
    let median = async || {
        let mut took = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            lock.acquire().await.unwrap().release().await.unwrap();
            took.push(began.elapsed());
        }
        took.sort();
        took[ROUNDS / 2]
    };
    median().await;
    let alone = median().await;
    let leaves = Arc::new(AtomicBool::new(true));
    let mut leavers = JoinSet::new();
    for _ in 0..LEAVERS {
        let (lock, leaves) = (locks.lock("a").ttl(TTL), Arc::clone(&leaves));
        leavers.spawn(async move {
            let mut left = 0_u64;
            while leaves.load(Ordering::Relaxed) {
                tokio::time::timeout(ms(1), lock.acquire()).await.unwrap_err();
                left += 1;
            }
            left
        });
    }
    tokio::time::sleep(ms(300)).await;
    let began = timing::start();
    let beside = median().await;
    leaves.store(false, Ordering::Relaxed);
    let left: u64 = leavers.join_all().await.into_iter().sum();
    println!("alone {alone:?}, beside {LEAVERS} that give up {beside:?}; {left} gave up");
    in_time!(began, beside <= 10 * alone.max(ms(2)), "{beside:?} beside leavers, {alone:?} alone");
    holder.release().await.unwrap();
    locks.close(ms(10_000)).await.unwrap();
}
