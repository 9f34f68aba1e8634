//! What is kept of requests that nobody wants any more: nothing.

use std::time::Duration;

use crate::common::{client, linked, ms, nodes, queued, request, server, spectator};
use lockkit_core::{Error, LockProvider};
use testbed::{Fault, Link, Way, ZkServer, timing};

const TTL: Duration = ms(1_500);

/// The removal is done, and no heartbeat follows it.
async fn silent(server: &ZkServer, link: &Link) {
    let spectator = spectator(server).await;
    let is_gone = async || nodes(&spectator, "/lockkit/a").await.is_empty();
    timing::gone(ms(5_000), "the removal", is_gone).await;
    tokio::time::sleep(ms(300)).await;
    let before = link.counts();
    tokio::time::sleep(TTL).await;
    let (requests, _) = link.since(&before);
    assert_eq!(requests.get("multi"), None, "heartbeats for nobody: {requests:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_was_given_up_is_done_all_the_same_and_its_session_falls_silent() {
    let server = server();
    let (ours, link) = linked(&server).await;
    let request = request("a", TTL);
    let grant = ours.try_acquire(&request).await.unwrap().unwrap();
    link.fault(Way::Both, Fault::Blackhole);
    let released = grant.lease.release().await;
    assert!(matches!(released, Err(Error::Unavailable { .. })), "{released:?}");
    drop(grant);
    link.pass().unwrap();
    silent(&server, &link).await;
    let shown = format!("{ours:?}");
    assert!(!shown.contains(&request.id().to_string()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_that_was_given_up_is_done_all_the_same_and_nothing_is_kept_of_it() {
    let server = server();
    let (ours, link) = linked(&server).await;
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let request = request("a", TTL);
    let mut waiting = Box::pin(ours.acquire(&request));
    let operator = client(&server).await.lock("a");
    tokio::select! {
        granted = &mut waiting => panic!("granted beside the holder: {granted:?}"),
        () = queued(&operator, 1) => {}
    }
    link.fault(Way::Both, Fault::Blackhole);
    let withdrawn = ours.withdraw(&request).await;
    assert!(matches!(withdrawn, Err(Error::Unavailable { .. })), "{withdrawn:?}");
    drop(waiting);
    let shown = format!("{ours:?}");
    assert!(shown.contains(&request.id().to_string()), "the removal has still to forget: {shown}");
    link.pass().unwrap();
    queued(&operator, 0).await;
    holder.release().await.unwrap();
    silent(&server, &link).await;
    let shown = format!("{ours:?}");
    assert!(!shown.contains(&request.id().to_string()), "{shown}");
}
