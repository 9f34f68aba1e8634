//! What a server's troubles do to holders and waiters: compaction, restarts, ended leases.

use std::time::Duration;

use crate::common::{SLACK, by, client, join, link_to, ms, queued, waiter};
use lockkit_core::{Error, LossReason};
use lockkit_etcd::EtcdGrant;
use testbed::{Data, EtcdServer};

const TTL: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_fell_behind_a_compaction_reads_and_loses_no_wake_up() {
    // More than are read anew at every reconnection.
    const WAITERS: usize = 20;
    let server = EtcdServer::start().unwrap();
    let other = client(&server).await;
    let holder = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let lock = locks.lock("a").ttl(TTL);
    let mut waiters = Vec::new();
    for number in 0..WAITERS {
        waiters.push(waiter(&lock, number).await);
    }
    let mut last = holder.token();
    for compacted in [false, true] {
        link.refuse().unwrap();
        link.reset().unwrap();
        for _ in 0..30 {
            other.lock("b").acquire().await.unwrap().release().await.unwrap();
        }
        if compacted {
            server.compact().unwrap();
        }
        link.pass().unwrap();
        tokio::time::sleep(ms(500)).await;
        assert!(waiters.iter().all(|waiter| !waiter.is_finished()));
    }
    // The release falls into the outage too.
    link.refuse().unwrap();
    link.reset().unwrap();
    holder.release().await.unwrap();
    server.compact().unwrap();
    link.pass().unwrap();
    for waiter in waiters {
        let guard = by(ms(3_000), "the next waiter's grant", waiter).await.unwrap();
        assert!(guard.token() > last, "out of order");
        last = guard.token();
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_that_an_operator_ends_is_told_at_once_to_all_that_live_on_it() {
    let server = EtcdServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let first = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let second = locks.lock("b").ttl(TTL).acquire().await.unwrap();
    let held = other.lock("c").ttl(TTL).acquire().await.unwrap();
    let waiting = waiter(&locks.lock("c").ttl(TTL), 0).await;
    let next = waiter(&other.lock("a").ttl(TTL), 0).await;
    let lease = first.native::<EtcdGrant>().unwrap().lease;
    assert_eq!(second.native::<EtcdGrant>().unwrap().lease, lease, "one lease for equal ttls");
    server.cli(&["lease", "revoke", &format!("{lease:x}")]).unwrap();
    for guard in [&first, &second] {
        let reason = by(SLACK, "a holder is told", guard.lost()).await;
        assert!(matches!(reason, LossReason::Removed | LossReason::SessionEnded), "{reason}");
    }
    let next = by(SLACK, "the next grant", next).await.unwrap();
    assert!(next.token() > first.token());
    // Who waited on that lease waits on, with a new place on a new one, and is granted once.
    queued(&other.lock("c"), 1).await;
    held.release().await.unwrap();
    let guard = by(SLACK, "a waiter whose lease had ended", waiting).await.unwrap();
    assert_ne!(guard.native::<EtcdGrant>().unwrap().lease, lease);
    guard.release().await.unwrap();
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_costs_no_lock_and_no_place() {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let lock = locks.lock("a").ttl(TTL);
    let guard = lock.acquire().await.unwrap();
    let waiting = [waiter(&lock, 0).await, waiter(&lock, 1).await];
    server.restart(Data::Kept).unwrap();
    tokio::time::sleep(ms(1_000)).await;
    testbed::held!(guard);
    let mut last = guard.token();
    by(ms(3_000), "a release", guard.release()).await.unwrap();
    for waiter in waiting {
        let guard = by(ms(3_000), "a waiter's grant", waiter).await.unwrap();
        assert!(guard.token() > last);
        last = guard.token();
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_ends_takes_no_lock_with_it_for_longer_than_a_ttl() {
    let server = EtcdServer::start().unwrap();
    let port = server.port();
    let ttl = ms(2_000);
    let locks = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let locks = join(&[port]).await;
            // Kept by nobody once this runtime ends: a holder, and a waiter behind another.
            std::mem::forget(locks.lock("a").ttl(ttl).acquire().await.unwrap());
            let wait = locks.lock("a").ttl(ttl).acquire();
            assert!(tokio::time::timeout(ms(300), wait).await.is_err());
            locks
        })
    });
    let locks = locks.join().unwrap();
    // The same client goes on in this runtime.
    let guard = by(ttl * 2 + ms(4_000), "the name", locks.lock("a").ttl(ttl).acquire()).await;
    let guard = guard.unwrap();
    let next = waiter(&locks.lock("a").ttl(ttl), 0).await;
    tokio::time::sleep(ttl * 2).await;
    testbed::held!(guard);
    guard.release().await.unwrap();
    by(SLACK, "a push", next).await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_hears_nothing_of_the_only_member_is_told_after_five_seconds() {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    tokio::time::sleep(ms(200)).await;
    server.pause().unwrap();
    // The watch is asked after 2 s of silence and has 1 s; a new one has 2 s.
    by(ms(5_000) + SLACK, "the risk", guard.at_risk()).await;
    testbed::held!(guard);
    server.resume().unwrap();
    guard.renew().await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_or_holds_in_another_runtime_goes_on_when_the_one_that_served_all_ends() {
    let server = EtcdServer::start().unwrap();
    let (port, ttl) = (server.port(), ms(2_000));
    let other = client(&server).await;
    let held = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let (hand_over, handed_over) = tokio::sync::oneshot::channel();
    let (end, ended) = tokio::sync::oneshot::channel::<()>();
    let first = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let locks = join(&[port]).await;
            // Its session and its watch are served here.
            let guard = locks.lock("first").ttl(ttl).acquire().await.unwrap();
            tokio::time::sleep(ms(100)).await;
            hand_over.send(locks).unwrap();
            ended.await.unwrap();
            std::mem::forget(guard);
        });
    });
    let locks = handed_over.await.unwrap();
    let guard = locks.lock("b").ttl(ttl).acquire().await.unwrap();
    let waiting = waiter(&locks.lock("a").ttl(ttl), 0).await;
    end.send(()).unwrap();
    first.join().unwrap();
    // Nothing is asked of this client meanwhile: those who are there have it served anew.
    tokio::time::sleep(ttl * 2).await;
    testbed::held!(guard, "lost with a runtime that is not its own");
    queued(&other.lock("a"), 1).await;
    held.release().await.unwrap();
    let next = by(SLACK, "the waiter's grant", waiting).await.unwrap();
    // A holder of this runtime is told by pushes again, too.
    server.cli(&["del", "--prefix", "lockkit/b/"]).unwrap();
    by(SLACK, "a holder is told", guard.lost()).await;
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_and_waiters_are_told_that_etcd_is_out_of_reach_and_that_it_is_back() {
    let server = EtcdServer::start().unwrap();
    let other = client(&server).await;
    let holder = other.lock("b").ttl(TTL).acquire().await.unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let b = locks.lock("b").ttl(TTL);
    let within = |limit| tokio::spawn(b.acquire_within(limit));
    let (unanswered, answered) = (within(ms(1_500)), within(ms(4_000)));
    queued(&other.lock("b"), 2).await;
    link.refuse().unwrap();
    link.reset().unwrap();
    // Long before a third of the ttl, after which the next renewal is due.
    by(SLACK, "the risk", guard.at_risk()).await;
    testbed::held!(guard);
    let ended = by(ms(1_500) + SLACK, "the wait's end", unanswered).await.unwrap();
    assert!(matches!(ended, Err(Error::Unavailable { .. })), "an outage: {ended:?}");
    link.pass().unwrap();
    let ended = by(ms(4_000) + SLACK, "the wait's end", answered).await.unwrap();
    assert!(matches!(ended, Err(Error::TimedOut { holder: Some(_), .. })), "held: {ended:?}");
    guard.renew().await.unwrap();
    assert!(tokio::time::timeout(ms(20), guard.at_risk()).await.is_err(), "still at risk");
    guard.release().await.unwrap();
    holder.release().await.unwrap();
}
