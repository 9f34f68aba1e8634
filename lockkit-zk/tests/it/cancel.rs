//! Callers that leave: no orphan node, where the driver's own recipe leaves some.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::Duration;

use crate::common::{at, by, client, linked, ms, nodes, provider, server, spectator};
use lockkit_core::{Error, LockProvider, Request};
use testbed::{Connections, Counts, End, Fault, Link, Per, Way, ZkServer, timing};
use zookeeper_client::{Acls, Client, CreateMode, LockPrefix};

const TTL: Duration = ms(6_000);
/// More polls than any attempt needs.
const POLLS: u32 = 64;

fn request(name: &str) -> Request {
    crate::common::request(name, TTL)
}

/// What `future` gives within so many polls; `None`: it is not polled again.
async fn polled<F: Future>(mut future: Pin<&mut F>, polls: u32) -> Option<F::Output> {
    let mut left = polls;
    let limited = poll_fn(|cx| {
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    });
    // A waiter is not woken so often.
    tokio::time::timeout(ms(150), limited).await.ok().flatten()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_dropped_at_any_poll_leaves_no_node_and_the_drivers_recipe_some() {
    let server = server();
    let spectator = spectator(&server).await;
    let held = client(&server).await.lock("held").acquire().await.unwrap();
    let ours = provider(at(server.port())).await;
    let mut dropped = 0;
    for name in ["free", "held"] {
        for polls in 1..POLLS {
            let request = request(name);
            let granted = polled(pin!(ours.acquire(&request)), polls).await;
            dropped += usize::from(granted.is_none());
            by(ms(2_000), "the withdrawal", ours.withdraw(&request)).await.unwrap();
            let expected = usize::from(name == "held");
            let left = nodes(&spectator, &format!("/lockkit/{name}")).await;
            assert_eq!(left.len(), expected, "after {polls} polls: {left:?}");
            if granted.is_some() || polls > 16 {
                break;
            }
        }
    }
    held.release().await.unwrap();

    // Whether one of them leaves a node depends on what its poll met: asked until one has.
    let theirs = crate::common::spectator(&server).await;
    let options = CreateMode::Container.with_acls(Acls::anyone_all());
    let (mut left, mut tries) = (0, 0);
    for round in 0..10 {
        let mut parents = Vec::new();
        for polls in 1..6 {
            let parent = format!("/theirs-{round}-{polls}");
            theirs.mkdir(&parent, &options).await.unwrap();
            let prefix = LockPrefix::new_curator(&parent, "lock-").unwrap();
            let taken = polled(pin!(theirs.lock(prefix, b"", Acls::anyone_all())), polls).await;
            if taken.is_some() {
                break;
            }
            parents.push(parent);
        }
        // Its clean-up has the time that ours had.
        tokio::time::sleep(ms(1_000)).await;
        for parent in &parents {
            left += nodes(&spectator, parent).await.len();
        }
        tries += parents.len();
        if left > 0 {
            break;
        }
    }
    println!("left by dropped attempts: ours 0 of {dropped}, the driver's {left} of {tries}");
    assert!(left > 0, "the driver has been mended: its recipe leaves nothing");
}

/// Cuts the link after so many bytes of what comes next.
fn cut(link: &Link, way: Way, after: u64) {
    link.fault(way, Fault::Cut { after, per: Per::Link, end: End::Reset });
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_cut_after_any_byte_leaves_no_node_and_the_drivers_recipe_some() {
    // From the length of the first request to the end of both, and of their answers.
    const BYTES: u64 = 360;
    const STEP: usize = 12;
    let server = server();
    let spectator = spectator(&server).await;
    let (ours, link) = linked(&server).await;
    let _session = ours.try_acquire(&request("other")).await.unwrap().unwrap();
    let cuts = || {
        let after = |way| (0..BYTES).step_by(STEP).map(move |after| (way, after));
        after(Way::ToServer).chain(after(Way::ToClient))
    };
    let mut left = [0, 0];
    for (way, after) in cuts() {
        let request = request("a");
        cut(&link, way, after);
        let granted = by(ms(4_000), "an attempt", ours.try_acquire(&request)).await;
        link.pass().unwrap();
        drop(granted);
        let withdrawn = async {
            while ours.withdraw(&request).await.is_err() {
                tokio::time::sleep(ms(10)).await;
            }
        };
        by(ms(4_000), "the withdrawal", withdrawn).await;
        left[0] += nodes(&spectator, "/lockkit/a").await.len();
    }

    let through = Link::to(server.address()).unwrap();
    let servers = through.address().to_string();
    let theirs = Client::connector().with_session_timeout(ms(20_000)).connect(&servers);
    let theirs = theirs.await.unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for (way, after) in cuts() {
        let parent = format!("/cut-{way:?}-{after}");
        spectator.mkdir(&parent, &options).await.unwrap();
        let prefix = LockPrefix::new_curator(&parent, "lock-").unwrap();
        cut(&through, way, after);
        let taken = theirs.lock(prefix, b"", Acls::anyone_all());
        drop(tokio::time::timeout(ms(1_000), taken).await);
        through.pass().unwrap();
        let connected = async {
            while theirs.check_stat("/").await.is_err() {
                tokio::time::sleep(ms(5)).await;
            }
        };
        by(ms(4_000), "the driver's connection", connected).await;
    }
    // Its clean-up has the time that ours had, and its session lives.
    tokio::time::sleep(ms(1_000)).await;
    for (way, after) in cuts() {
        left[1] += nodes(&spectator, &format!("/cut-{way:?}-{after}")).await.len();
    }
    let [ours, theirs] = left;
    println!("left by {} cut attempts: ours {ours}, the driver's {theirs}", cuts().count());
    assert_eq!(ours, 0);
    assert!(theirs > 0, "the driver has been mended: its recipe leaves nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_is_delivered_after_its_caller_gave_up_is_removed_within_a_second() {
    let server = server();
    let spectator = spectator(&server).await;
    let (ours, link) = linked(&server).await;
    let first = request("a");
    ours.try_acquire(&first).await.unwrap().unwrap().lease.release().await.unwrap();
    for existing in [true, false] {
        let connections = if existing { Connections::Existing } else { Connections::All };
        let mut request = request("a");
        for attempt in 0.. {
            link.fault_on(connections, Way::ToServer, Fault::Hold);
            match by(ms(2_500), "an attempt", ours.try_acquire(&request)).await {
                Err(Error::Unavailable { .. }) => break,
                // The driver found the connection silent, and had another, a moment before the limit of the attempt.
                Ok(Some(grant)) if existing && attempt < 5 => {
                    link.deliver();
                    link.pass().unwrap();
                    grant.lease.release().await.unwrap();
                    request = self::request("a");
                }
                other => panic!("{other:?}"),
            }
        }
        let withdrawing = {
            let (ours, request) = (std::sync::Arc::clone(&ours), request.clone());
            tokio::spawn(async move { ours.withdraw(&request).await })
        };
        tokio::time::sleep(ms(200)).await;
        let answers = |counts: &Counts| counts.answers.values().sum::<u64>();
        let before = answers(&link.counts());
        link.deliver();
        link.pass().unwrap();
        by(ms(3_000), "an answer", link.until(|now| answers(now) > before)).await;
        // Nothing is left a second after the server's first answer.
        let is_gone = async || nodes(&spectator, "/lockkit/a").await.is_empty();
        timing::gone(ms(1_000), "the node of the creation", is_gone).await;
        let _ = by(ms(2_000), "the withdrawal", withdrawing).await.unwrap();
        let next = client(&server).await.lock("a").try_acquire().await.unwrap().unwrap();
        next.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_queued_while_disconnected_is_removed_after_the_reconnection() {
    let server = server();
    let spectator = spectator(&server).await;
    let (ours, link) = linked(&server).await;
    let session = request("other");
    let other = ours.try_acquire(&session).await.unwrap().unwrap();
    link.refuse().unwrap();
    link.reset().unwrap();
    let (mut asked, mut queued) = (Vec::new(), 0);
    for _ in 0..8 {
        let request = request("a");
        // It is queued, or told at once that no server is in reach.
        let dropped = polled(pin!(ours.acquire(&request)), 3).await;
        let is_out_of_reach = matches!(&dropped, Some(Err(Error::Unavailable { .. })));
        assert!(dropped.is_none() || is_out_of_reach, "{dropped:?}");
        queued += usize::from(dropped.is_none());
        asked.push(request);
    }
    assert!(queued > 0, "no creation was queued");
    link.pass().unwrap();
    for request in &asked {
        let withdrawn = async {
            while ours.withdraw(request).await.is_err() {
                tokio::time::sleep(ms(10)).await;
            }
        };
        by(ms(5_000), "the withdrawal", withdrawn).await;
    }
    assert!(nodes(&spectator, "/lockkit/a").await.is_empty());
    assert!(other.lease.release().await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn parents_may_go_at_any_time_and_tokens_grow_all_the_same() {
    let server = ZkServer::builder()
        .tick(crate::common::TICK)
        .property("znode.container.checkIntervalMs", "100")
        .start()
        .unwrap();
    let spectator = spectator(&server).await;
    let locks = client(&server).await;
    let lock = locks.lock("a");
    let mut last = None;
    let mut remade = 0;
    for _ in 0..15 {
        let guard = lock.acquire().await.unwrap();
        assert!(Some(guard.token()) > last, "{} came after {last:?}", guard.token());
        last = Some(guard.token());
        guard.release().await.unwrap();
        // Time enough for the servers to remove the empty parent, sometimes.
        tokio::time::sleep(ms(150)).await;
        remade += usize::from(spectator.check_stat("/lockkit/a").await.unwrap().is_none());
    }
    println!("the parent was removed {remade} times of 15");
    assert!(remade > 0, "the servers removed no container");
}
