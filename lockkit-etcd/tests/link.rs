//! What goes over the link: how many requests each thing takes, and how long a hand-off.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::time::{Duration, Instant};

use common::{by, client, idle, join, link_to, ms, queued, since};
use etcd_client::{Client, LockOptions};
use lockkit_core::Locks;
use testbed::{EtcdServer, Link};
use tokio::task::JoinSet;

/// Longer than any of these tests: no keep-alive comes in between.
const TTL: Duration = Duration::from_secs(90);

/// A client behind a link of its own, after its first lock.
async fn linked(server: &EtcdServer) -> (Locks, Link) {
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    locks.lock("first").ttl(TTL).acquire().await.unwrap().release().await.unwrap();
    idle(&link).await;
    (locks, link)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_a_renewal_and_a_release_take_one_request_each() {
    let server = EtcdServer::start().unwrap();
    let (locks, link) = linked(&server).await;
    let lock = locks.lock("a").ttl(TTL);
    for _ in 0..3 {
        idle(&link).await;
        let before = link.counts();
        let guard = lock.acquire().await.unwrap();
        assert_eq!(since(&before, &link).0, 1, "acquire");
        let before = link.counts();
        guard.renew().await.unwrap();
        assert_eq!(since(&before, &link).0, 1, "renew");
        idle(&link).await;
        let before = link.counts();
        guard.release().await.unwrap();
        assert_eq!(since(&before, &link).0, 1, "release");
        let before = link.counts();
        let guard = lock.try_acquire().await.unwrap().unwrap();
        assert_eq!(since(&before, &link).0, 1, "try_acquire of a free name");
        let before = link.counts();
        assert!(lock.try_acquire().await.unwrap().is_none());
        assert_eq!(since(&before, &link).0, 1, "try_acquire of a held name");
        guard.release().await.unwrap();
    }
    assert_eq!(link.counts().accepted, 1, "connections");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_locks_share_their_keep_alives() {
    const LOCKS: u64 = 100;
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let ttl = ms(3_000);
    let mut guards = Vec::new();
    for name in 0..LOCKS {
        guards.push(locks.lock(format!("a{name}")).ttl(ttl).acquire().await.unwrap());
    }
    idle(&link).await;
    let (before, began) = (link.counts(), Instant::now());
    tokio::time::sleep(ttl * 2).await;
    let (calls, ..) = since(&before, &link);
    // One for all locks that are due within a twentieth of the ttl.
    let most = began.elapsed().as_millis() / (ttl / 20).as_millis() + 2;
    println!("{LOCKS} locks, two ttls: {calls} calls");
    assert!(u128::from(calls) <= most, "{calls} calls, {most} at the most");
    assert!(guards.iter().all(lockkit_core::Guard::is_held));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_takes_the_release_a_push_and_one_request() {
    let server = EtcdServer::start().unwrap();
    let watcher = client(&server).await;
    let ((holders, holders_link), (waiters, waiters_link)) =
        (linked(&server).await, linked(&server).await);
    for number in 0..3 {
        let name = format!("a{number}");
        let holder = holders.lock(&name).ttl(TTL).acquire().await.unwrap();
        let waiter = tokio::spawn(waiters.lock(&name).ttl(TTL).acquire());
        queued(&watcher.lock(&name), 1).await;
        idle(&waiters_link).await;
        idle(&holders_link).await;
        let (holders_before, waiters_before) = (holders_link.counts(), waiters_link.counts());
        holder.release().await.unwrap();
        let guard = by(ms(5_000), "the waiter's grant", waiter).await.unwrap().unwrap();
        let (released, ..) = since(&holders_before, &holders_link);
        let (asked, _, told) = since(&waiters_before, &waiters_link);
        assert_eq!((released, asked), (1, 1), "the release, and the waiter's look at its place");
        assert_eq!(told, 2, "the push, and the answer");
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_idle_waiters_ask_nothing() {
    const WAITERS: usize = 100;
    let server = EtcdServer::start().unwrap();
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let (locks, link) = linked(&server).await;
    let mut waiters = JoinSet::new();
    for _ in 0..WAITERS {
        waiters.spawn(locks.lock("a").ttl(TTL).acquire());
    }
    queued(&client(&server).await.lock("a"), WAITERS).await;
    idle(&link).await;
    let before = link.counts();
    tokio::time::sleep(ms(6_000)).await;
    let (calls, messages, _) = since(&before, &link);
    // The one watch is asked whether it lives after 5 s of silence.
    assert_eq!(calls, 0, "calls of waiters that wait");
    assert!(messages <= 2, "{messages} messages of waiters that wait");
    assert!(waiters.try_join_next().is_none(), "granted beside a holder");
    holder.release().await.unwrap();
    for _ in 0..WAITERS {
        let granted = by(ms(5_000), "the next waiter's grant", waiters.join_next()).await;
        granted.unwrap().unwrap().unwrap().release().await.unwrap();
    }
}

/// The calls of the waiters' client and the messages to it that one release causes.
async fn caused_by_a_release(server: &EtcdServer, waiters: usize) -> (u64, u64) {
    let name = format!("of-{waiters}");
    let holder = client(server).await.lock(&name).ttl(TTL).acquire().await.unwrap();
    let (locks, link) = linked(server).await;
    let mut waiting = JoinSet::new();
    for _ in 0..waiters {
        waiting.spawn(locks.lock(&name).ttl(TTL).acquire());
    }
    let watcher = client(server).await.lock(&name);
    let all_wait = async {
        // A thousand at once may keep a busy server from answering in time.
        while !watcher.inspect().await.is_ok_and(|seen| seen.waiters == Some(waiters)) {
            tokio::time::sleep(ms(50)).await;
        }
    };
    by(ms(60_000), "waiters in the queue", all_wait).await;
    idle(&link).await;
    let before = link.counts();
    holder.release().await.unwrap();
    let granted = by(ms(5_000), "the first waiter's grant", waiting.join_next()).await;
    let _granted = granted.unwrap().unwrap().unwrap();
    idle(&link).await;
    let (calls, _, told) = since(&before, &link);
    assert!(waiting.try_join_next().is_none(), "two were granted");
    (calls, told)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_release_among_a_thousand_waiters_causes_as_much_as_among_ten() {
    let server = EtcdServer::start().unwrap();
    // One push, and one look of the one that was behind the holder; its guard then asks for a
    // fresh keep-alive, if the last one is older than a third of the ttl.
    for waiters in [10, 1000] {
        let (calls, told) = caused_by_a_release(&server, waiters).await;
        println!("among {waiters} waiters: {calls} calls, {told} messages from etcd");
        assert!((1..=2).contains(&calls) && (2..=3).contains(&told), "{calls} calls, {told} told");
    }
}

/// How long each of eight waiters waited that come again at once, in order, and the grants a second.
async fn waits<F: Future<Output = Vec<Duration>> + Send + 'static>(
    waiter: impl Fn() -> F,
) -> (Vec<Duration>, f64) {
    let (began, mut waiters) = (Instant::now(), JoinSet::new());
    for _ in 0..8 {
        waiters.spawn(waiter());
    }
    let mut waits = waiters.join_all().await.concat();
    let rate = waits.len() as f64 / began.elapsed().as_secs_f64();
    waits.sort_unstable();
    (waits, rate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hand_off_among_eight_waiters_is_many_times_faster_than_the_drivers_own() {
    const ROUNDS: usize = 10;
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let ours = waits(|| {
        let lock = locks.lock("ours");
        async move {
            let mut waits = Vec::new();
            for _ in 0..ROUNDS {
                let began = Instant::now();
                let guard = lock.acquire().await.unwrap();
                waits.push(began.elapsed());
                guard.release().await.unwrap();
            }
            waits
        }
    });
    let (ours, our_rate) = ours.await;
    let theirs = waits(|| {
        let url = format!("http://{}", server.address());
        async move {
            let driver = Client::connect([url], None).await.unwrap();
            let lease = driver.lease_client().grant(60, None).await.unwrap().id();
            let mut waits = Vec::new();
            for _ in 0..ROUNDS {
                let options = LockOptions::new().with_lease(lease);
                let began = Instant::now();
                let held = driver.lock_client().lock("theirs", Some(options)).await.unwrap();
                waits.push(began.elapsed());
                driver.lock_client().unlock(held.key()).await.unwrap();
            }
            waits
        }
    });
    let (theirs, their_rate) = theirs.await;
    let (ours, theirs) = (ours[ours.len() / 2], theirs[theirs.len() / 2]);
    println!(
        "8 waiters, median wait: lockkit {ours:?} ({our_rate:.0} grants/s), the driver's lock() \
         {theirs:?} ({their_rate:.0} grants/s)"
    );
    assert!(ours < theirs * 2 / 3, "ours takes {ours:?}, the driver's {theirs:?}");
    assert!(our_rate > their_rate, "{our_rate} grants/s, the driver's {their_rate}");
}
