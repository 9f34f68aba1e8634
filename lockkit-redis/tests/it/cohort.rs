//! Hand-offs inside one provider, which the server learns of afterwards: what may go wrong between.

pub(crate) mod party;

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use crate::common::{by, ms};
use lockkit_core::{Error, LockName, LockProvider, LossReason};
use party::{Party, Standing, TTL, Waiter, release, request};
use testbed::{Connections, End, Fault, Per, RedisServer, Way};
use tokio::task::JoinHandle;

/// A local hand-off asks nobody.
const AT_ONCE: Duration = ms(300);

#[tokio::test(flavor = "multi_thread")]
async fn hand_offs_while_the_server_is_silent_keep_their_order_and_are_told_by_two_passes() {
    const WAITERS: usize = 8;
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    for way in [Way::ToServer, Way::ToClient] {
        let name = format!("{way:?}");
        let Standing { mut holder, mut line } = ours.holder(&other, &name, TTL, WAITERS).await;
        let before = ours.link.requests();
        ours.link.fault(way, Fault::Hold);
        let mut releases = Vec::new();
        while let Some(next) = line.pop_front() {
            let token = holder.token;
            releases.push(release(holder));
            holder = next.granted(AT_ONCE).await;
            assert!(holder.token > token);
        }
        assert!(releases.iter().all(|release| !release.is_finished()), "told by nobody");
        assert!(other.takes(&name).await.is_none(), "two hold {name}");
        ours.link.deliver();
        for release in releases {
            by(ms(2_000), "a release", release).await.unwrap().unwrap();
        }
        assert_eq!(ours.waiters(&name).await, 0);
        let passes = ours.link.requests() - before;
        // The heartbeats of those who waited, and the question just now.
        assert!(passes <= 3 + WAITERS as u64, "{passes} requests");
        assert!(other.takes(&name).await.is_none(), "two hold {name}");
        holder.lease.renew().await.unwrap();
        let token = holder.token;
        holder.lease.release().await.unwrap();
        assert!(other.gets(&name, ms(500)).await > token);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_cut_after_any_byte_is_told_again_and_costs_nobody_the_name() {
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
            // A pass of any length differs in its numbers by a digit at the most.
            after += if uncut[index] > 200 { 3 } else { 1 };
        }
    }
    println!("cut over {uncut:?} bytes");
    assert!(uncut[0] > 200 && uncut[1] > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_delivered_long_after_it_was_given_up_touches_no_later_holder() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    // Its calls end after 0.9 s, and hand-offs go on for 0.375 s without an answer.
    let ttl = ms(3_000);
    let Standing { holder, mut line } = ours.holder(&other, "a", ttl, 2).await;
    ours.link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold);
    let first = release(holder);
    let second = line.pop_front().unwrap().granted(AT_ONCE).await;
    let third = line.pop_front().unwrap();
    let second = release(second);
    let third = third.granted(AT_ONCE).await;
    for release in [first, second] {
        by(ms(2_500), "a release over a new connection", release).await.unwrap().unwrap();
    }
    ours.link.deliver();
    ours.idle().await;
    assert!(other.takes("a").await.is_none(), "freed by a late pass");
    third.lease.renew().await.unwrap();
    let token = third.token;
    third.lease.release().await.unwrap();
    assert!(other.gets("a", ms(500)).await > token);
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_was_handed_a_name_that_others_had_removed_is_told_at_once() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    for round in 0..5 {
        let name = format!("a{round}");
        let Standing { holder, mut line } = ours.holder(&other, &name, TTL, 2).await;
        server.cli(&["DEL", &name]).unwrap();
        server.cli(&["SET", &name, "foreign", "PX", "60000"]).unwrap();
        let next = line.pop_front().unwrap();
        let released = by(ms(500), "a release", release(holder)).await.unwrap();
        assert!(matches!(released, Err(Error::Lost { .. })), "{released:?}");
        // Where the answer was there before it looked, it was never told that it holds.
        if let Ok(next) = by(ms(500), "the next one", next.grant).await.unwrap() {
            assert_eq!(by(ms(500), "a loss", next.lease.lost()).await, LossReason::Removed);
            assert!(next.lease.renew().await.is_err() && next.lease.release().await.is_err());
        }
        assert_eq!(server.cli(&["GET", &name]).unwrap().text().as_deref(), Some("foreign"));
        let last = line.pop_front().unwrap();
        assert!(!last.grant.is_finished(), "granted beside a foreign client");
        assert_eq!(other.waiters(&name).await, 1, "only who was never granted waits");
        server.cli(&["DEL", &name]).unwrap();
        last.granted(ms(2_000)).await.lease.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_grant_that_was_handed_on_meanwhile_is_lost_to_who_holds_it() {
    let server = RedisServer::start().unwrap();
    let (ours, other) = (Party::new(&server).await, Party::new(&server).await);
    let Standing { holder, mut line } = ours.holder(&other, "a", TTL, 1).await;
    let foreign = other.waiter("a", TTL, 1).await;
    // The server hears of nothing, and says what happens there.
    ours.link.fault_on(Connections::Only(0), Way::ToServer, Fault::Hold);
    let token = holder.token;
    let releasing = release(holder);
    let next = line.pop_front().unwrap().granted(AT_ONCE).await;
    let operator = other.provider.operator().unwrap();
    assert!(operator.revoke(&LockName::new("a").unwrap(), token).await.unwrap());
    assert_eq!(by(ms(500), "a loss", next.lease.lost()).await, LossReason::Revoked);
    // It is still in the queue, as its head: the name is reserved for it in vain.
    let granted = foreign.granted(ms(1_500)).await;
    assert!(granted.token > next.token);
    ours.link.deliver();
    assert!(by(ms(1_000), "a release", releasing).await.unwrap().is_err());
    assert!(next.lease.release().await.is_err());
    assert!(ours.takes("a").await.is_none(), "freed by who had lost it");
    granted.lease.release().await.unwrap();
    assert_eq!(other.waiters("a").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_grow_past_those_that_the_server_never_heard_of() {
    let server = RedisServer::start().unwrap();
    let other = Party::new(&server).await;
    for flush in [false, true] {
        let ours = Party::new(&server).await;
        let ttl = ms(1_200);
        let Standing { mut holder, line } = ours.holder(&other, "a", ttl, 4).await;
        ours.link.fault(Way::ToServer, Fault::Blackhole);
        let mut releases = Vec::new();
        for next in line {
            releases.push(release(holder));
            holder = next.granted(AT_ONCE).await;
        }
        let token = holder.token;
        if flush {
            server.cli(&["FLUSHALL"]).unwrap();
        }
        // It ends without another word, as a crash does.
        releases.iter().for_each(JoinHandle::abort);
        drop((holder, ours));
        let next = other.gets("a", ms(5_500)).await;
        assert!(next > token, "{next} after {token}");
    }
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
    ours.link.fault(Way::ToServer, Fault::Hold);
    let mut releases = vec![release(holder)];
    for next in line {
        releases.push(release(next.granted(AT_ONCE).await));
    }
    ours.link.deliver();
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
