//! Whose turn it is: what a release grants, and what may go wrong between.

pub(crate) mod party;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::common::{by, ms};
use lockkit_core::LockProvider;
use party::{Party, Standing, TTL, Waiter, release, request};
use testbed::{Connections, End, Fault, Per, RedisServer, Way};

#[tokio::test(flavor = "multi_thread")]
async fn a_release_delivered_long_after_it_was_given_up_touches_no_later_holder() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    // Its calls end after 2 s; what nothing renews outlasts a machine that stands still.
    let ttl = ms(10_000);
    let Standing { holder, mut line } = ours.holder(&other, "a", ttl, 2).await;
    ours.link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold);
    let first = release(holder);
    let second = line.pop_front().unwrap().granted(ms(3_600)).await;
    by(ms(2_500), "a release over a new connection", first).await.unwrap().unwrap();
    ours.link.deliver();
    ours.idle().await;
    assert!(other.takes("a").await.is_none(), "freed by a late release");
    second.lease.renew().await.unwrap();
    let token = second.token;
    second.lease.release().await.unwrap();
    let third = line.pop_front().unwrap().granted(ms(1_000)).await;
    assert!(third.token > token);
    third.lease.release().await.unwrap();
    assert!(other.gets("a", ms(500)).await > third.token);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_whose_push_is_lost_is_found_by_the_next_heartbeat() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let holder = other.provider.acquire(&request("a", TTL)).await.unwrap();
    let waiter = ours.waiter("a", TTL, 0).await;
    // What the server says there is lost; the connection for commands comes back.
    ours.link.fault_on(Connections::Existing, Way::ToClient, Fault::Blackhole);
    holder.lease.release().await.unwrap();
    let granted = waiter.granted(ms(3_500)).await;
    assert!(granted.token > holder.token);
    granted.lease.renew().await.unwrap();
    granted.lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_no_connection_hears_is_short_and_the_next_one_follows() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let holder = other.provider.acquire(&request("a", TTL)).await.unwrap();
    let dead = ours.waiter("a", TTL, 0).await;
    let next = other.waiter("a", TTL, 1).await;
    // As a process that is killed: the server sees its connections end.
    dead.grant.abort();
    ours.link.refuse().unwrap();
    ours.link.reset().unwrap();
    tokio::time::sleep(ms(50)).await;
    holder.lease.release().await.unwrap();
    let left = server.cli(&["PTTL", "a"]).unwrap().integer().unwrap();
    assert!(left <= 500, "granted for {left} ms to a client that does not listen");
    let granted = next.granted(ms(1_500)).await;
    assert!(granted.token > holder.token);
    granted.lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_cut_after_any_byte_is_told_again_and_costs_no_request_the_name() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let mut uncut = [0, 0];
    for (index, way) in [Way::ToServer, Way::ToClient].into_iter().enumerate() {
        let mut after = 0;
        while after <= uncut[index] {
            let name = format!("{index}/{after}");
            let holder = ours.provider.acquire(&request(&name, TTL)).await.unwrap();
            let next = ours.waiter(&name, TTL, 0).await;
            if after == 0 {
                ours.idle().await;
            }
            let flows = || {
                let counts = ours.link.counts();
                [counts.to_server.delivered, counts.to_client.delivered]
            };
            let before = flows();
            if uncut[index] > 0 {
                let cut = Fault::Cut { after: after - 1, per: Per::Link, end: End::Reset };
                ours.link.fault_on(Connections::Existing, way, cut);
            }
            let token = holder.token;
            let releasing = release(holder);
            let next = next.granted(ms(1_500)).await;
            let released = by(ms(3_000), "a release that was cut", releasing).await.unwrap();
            released.unwrap_or_else(|error| panic!("{way:?} after {after}: {error}"));
            uncut[index] = uncut[index].max(flows()[index] - before[index]);
            ours.link.pass().unwrap();
            assert!(next.token > token, "{way:?} after {after}");
            assert!(other.takes(&name).await.is_none(), "{way:?} after {after}: two hold it");
            next.lease.renew().await.unwrap();
            next.lease.release().await.unwrap();
            let Some(free) = other.takes(&name).await else {
                panic!("{way:?} after {after}: held")
            };
            assert!(free.token > next.token);
            free.lease.release().await.unwrap();
            // A release of any length differs in its numbers by at most a digit.
            after += if uncut[index] > 200 { 3 } else { 1 };
        }
    }
    println!("cut over {uncut:?} bytes");
    assert!(uncut[0] > 200 && uncut[1] > 0);
}

/// Polls whenever it wakes, so many times.
async fn polled<F: Future + Unpin>(future: &mut F, times: u32) -> Option<F::Output> {
    let mut polls = 0;
    poll_fn(|context| {
        if polls == times {
            return Poll::Ready(None);
        }
        polls += 1;
        match pin!(&mut *future).poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if polls == times => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_dropped_at_any_poll_beside_its_grant_leaves_the_name_free_for_others() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let mut granted = 0;
    for polls in 1..=16 {
        for again in 0..=2 {
            let name = format!("{polls}/{again}");
            let holder = ours.provider.acquire(&request(&name, TTL)).await.unwrap();
            let asked = request(&name, TTL);
            let mut waiter = ours.provider.acquire(&asked);
            let limit = ms(40);
            let early = tokio::time::timeout(limit, polled(&mut waiter, polls)).await;
            assert!(!matches!(early, Ok(Some(_))), "granted beside a holder");
            let releasing = release(holder);
            tokio::time::sleep(ms(1)).await;
            let got = tokio::time::timeout(limit, polled(&mut waiter, again)).await;
            granted += u32::from(matches!(got, Ok(Some(Ok(_)))));
            drop((waiter, got));
            ours.provider.withdraw(&asked).await.unwrap();
            by(ms(1_000), "a release", releasing).await.unwrap().unwrap();
            let Some(free) = other.takes(&name).await else { panic!("{name}: still held") };
            free.lease.release().await.unwrap();
            assert_eq!(other.waiters(&name).await, 0, "{name}");
        }
    }
    println!("{granted} were granted before they were dropped");
    assert!(granted > 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawn_waiter_is_passed_over_and_its_followers_keep_their_order() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let Standing { holder, mut line } = ours.holder(&other, "a", TTL, 4).await;
    let left = line.remove(1).unwrap();
    ours.provider.withdraw(&left.request).await.unwrap();
    assert!(by(ms(500), "a withdrawn attempt", left.grant).await.unwrap().is_err());
    let (mut token, mut releases) = (holder.token, vec![release(holder)]);
    for next in line {
        let next = next.granted(ms(1_000)).await;
        assert!(next.token > token);
        token = next.token;
        releases.push(release(next));
    }
    for release in releases {
        by(ms(2_000), "a release", release).await.unwrap().unwrap();
    }
    assert!(other.takes("a").await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_longer_or_shorter_ttl_is_granted_by_the_server() {
    let server = RedisServer::start().unwrap();
    let ours = Party::new(&server).await;
    for ttl in [TTL * 2, TTL / 2] {
        let holder = ours.provider.acquire(&request("a", TTL)).await.unwrap();
        let next = ours.waiter("a", ttl, 0).await;
        ours.idle().await;
        holder.lease.release().await.unwrap();
        let next = next.granted(ms(1_000)).await;
        assert_eq!(next.term.ttl, Some(ttl));
        let left = server.cli(&["PTTL", "a"]).unwrap().integer().unwrap();
        let left = Duration::from_millis(left.unsigned_abs());
        assert!(left <= ttl && left > ttl - ms(5_000), "{left:?} of {ttl:?}");
        next.lease.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_of_two_clients_are_granted_in_the_very_order_in_which_they_queued() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let mut chance = u64::from(std::process::id()) | 1;
    for round in 0..10 {
        let name = format!("a{round}");
        let holder = ours.provider.acquire(&request(&name, TTL)).await.unwrap();
        let (said, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let mut waiting = Vec::new();
        for n in 0..24 {
            // Runs of one to a few of each.
            chance = chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let party = if chance >> 33 & 2 == 0 { &ours } else { &other };
            let Waiter { grant, .. } = party.waiter(&name, TTL, n).await;
            let said = said.clone();
            waiting.push(tokio::spawn(async move {
                let grant = grant.await.unwrap().unwrap();
                said.send((n, grant.token)).unwrap();
                grant.lease.release().await.unwrap();
            }));
        }
        drop(said);
        holder.lease.release().await.unwrap();
        let mut order = Vec::new();
        let all = async {
            while let Some(granted) = heard.recv().await {
                order.push(granted);
            }
        };
        by(ms(10_000), "every waiter", all).await;
        assert!(order.iter().map(|granted| granted.0).eq(0..24), "{order:?}");
        assert!(order.windows(2).all(|pair| pair[0].1 < pair[1].1), "{order:?}");
        for waiter in waiting {
            waiter.await.unwrap();
        }
    }
}
