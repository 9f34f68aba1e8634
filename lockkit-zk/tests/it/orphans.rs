//! Requests whose drivers end without a word while their session is served on.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use crate::common::{
    at, by, client, linked, ms, nodes, provider, queued, request, server, spectator,
};
use lockkit_core::{LockProvider, Locks, Request, StoreSays};
use testbed::{Fault, Way, timing};
use tokio::runtime::Builder;

const TTL: Duration = ms(1_500);
/// How long a session waits for the driver of a request that none of its calls works on.
const PATIENCE: Duration = ms(3_000);

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_runtime_has_ended_frees_its_place_though_its_session_is_served_on() {
    let server = server();
    let locks = client(&server).await;
    let kept = locks.lock("kept").ttl(TTL).acquire().await.unwrap();
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let ending = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let waiting = ending.spawn(locks.lock("a").ttl(TTL).acquire());
    let next = client(&server).await.lock("a").ttl(TTL);
    queued(&next, 1).await;
    let began = timing::start();
    ending.shutdown_background();
    holder.release().await.unwrap();
    let next = by(PATIENCE + ms(1_000), "the next grant", next.acquire()).await.unwrap();
    println!("granted {:?} after the waiter's runtime had ended", began.elapsed());
    assert!(!matches!(waiting.await, Ok(Ok(_))), "granted in a runtime that has ended");
    testbed::held!(kept);
    next.release().await.unwrap();
    kept.release().await.unwrap();
}

/// Waits until the request has its place behind a holder.
async fn waits(request: &Request) {
    let is_told = || matches!(request.last_word(), Some(StoreSays::Held(_)));
    timing::until(ms(5_000), "a place in the queue", is_told).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_call_that_is_made_again_in_time_keeps_its_place() {
    let server = server();
    let spectator = spectator(&server).await;
    let ours = provider(at(server.port())).await;
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let request = request("a", TTL);
    let call = || {
        let (ours, request) = (Arc::clone(&ours), request.clone());
        tokio::spawn(async move { ours.acquire(&request).await })
    };
    let first = call();
    waits(&request).await;
    first.abort();
    assert!(first.await.is_err());
    let before = nodes(&spectator, "/lockkit/a").await;
    assert_eq!(before.len(), 2, "{before:?}");
    tokio::time::sleep(PATIENCE / 2).await;
    let again = call();
    // Past the end of the first call's time.
    tokio::time::sleep(PATIENCE).await;
    let after = nodes(&spectator, "/lockkit/a").await;
    assert!(before.iter().all(|node| after.contains(node)), "{before:?}, then {after:?}");
    holder.release().await.unwrap();
    let granted = by(ms(2_000), "the grant", again).await.unwrap().unwrap();
    granted.lease.release().await.unwrap();
    assert!(nodes(&spectator, "/lockkit/a").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_without_an_answer_whose_call_was_dropped_is_swept_up() {
    let server = server();
    let spectator = spectator(&server).await;
    let (ours, link) = linked(&server).await;
    let kept = Locks::new(Arc::clone(&ours)).lock("kept").ttl(TTL).acquire().await.unwrap();
    let request = request("a", TTL);
    // The first makes the parent.
    ours.try_acquire(&request).await.unwrap().unwrap().lease.release().await.unwrap();
    let asked = crate::common::request("a", TTL);
    link.fault(Way::ToClient, Fault::Hold);
    {
        let mut dropped = pin!(ours.acquire(&asked));
        let created = async {
            while nodes(&spectator, "/lockkit/a").await.is_empty() {
                tokio::time::sleep(ms(10)).await;
            }
        };
        tokio::select! {
            granted = &mut dropped => panic!("granted without an answer: {granted:?}"),
            () = by(ms(5_000), "its node", created) => {}
        }
    }
    link.deliver();
    link.pass().unwrap();
    let is_gone = async || nodes(&spectator, "/lockkit/a").await.is_empty();
    timing::gone(PATIENCE + ms(2_000), "the node of a dropped call", is_gone).await;
    testbed::held!(kept);
    kept.release().await.unwrap();
}
