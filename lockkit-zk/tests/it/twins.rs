//! Pairs of nodes, of which an operator removes one.

use std::time::Duration;

use crate::common::{SLACK, at, by, ms, nodes, provider, queued, server, spectator};
use lockkit_core::{Guard, Locks, LossReason};
use lockkit_zk::Layout;
use testbed::{ZkServer, timing};
use tokio::task::JoinHandle;
use zookeeper_client::Client;

const TTL: Duration = ms(15_000);
const PARENT: &str = "/lockkit/a";

/// A client that makes pairs.
async fn client(server: &ZkServer) -> Locks {
    Locks::new(provider(at(server.port()).layout(Layout::Both)).await)
}

/// The queue, first come first.
async fn queue(operator: &Client) -> Vec<String> {
    let mut queue = nodes(operator, PARENT).await;
    queue.sort_by_key(|node| node[node.len() - 10..].to_owned());
    queue
}

/// A holder of the name, and a request that waits for it.
async fn held_and_awaited(
    locks: &Locks,
    others: &Locks,
) -> (Guard, JoinHandle<lockkit_core::Result<Guard>>) {
    let holder = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let waiting = tokio::spawn(others.lock("a").ttl(TTL).acquire());
    queued(&locks.lock("a"), 1).await;
    (holder, waiting)
}

async fn removes(operator: &Client, node: &str) {
    operator.delete(&format!("{PARENT}/{node}"), None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_one_node_of_its_pair_is_removed_of_is_lost_and_the_other_goes() {
    let server = server();
    let operator = spectator(&server).await;
    let (locks, others) = (client(&server).await, client(&server).await);
    for twin in [0, 1] {
        let (holder, waiting) = held_and_awaited(&locks, &others).await;
        removes(&operator, &queue(&operator).await[twin]).await;
        let reason = by(SLACK, "the loss", holder.lost()).await;
        assert_eq!(reason, LossReason::Removed, "of node {twin}");
        // While the lost guard is still there.
        let next = by(SLACK, "the next grant", waiting).await.unwrap().unwrap();
        assert_eq!(queue(&operator).await.len(), 2, "of node {twin}");
        next.release().await.unwrap();
        assert!(queue(&operator).await.is_empty(), "of node {twin}");
        drop(holder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_that_one_node_of_its_pair_is_removed_of_queues_again_and_the_other_goes() {
    let server = server();
    let operator = spectator(&server).await;
    let (locks, others) = (client(&server).await, client(&server).await);
    for twin in [2, 3] {
        let (holder, waiting) = held_and_awaited(&locks, &others).await;
        let before = queue(&operator).await;
        removes(&operator, &before[twin]).await;
        let is_new = async || {
            let now = queue(&operator).await;
            now.len() == 4 && now[2..].iter().all(|node| !before.contains(node))
        };
        timing::gone(SLACK * 4, "the rest of the pair", is_new).await;
        testbed::held!(holder);
        holder.release().await.unwrap();
        let next = by(SLACK, "the next grant", waiting).await.unwrap().unwrap();
        next.release().await.unwrap();
        assert!(queue(&operator).await.is_empty(), "of node {twin}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_turn_comes_with_half_a_pair_is_not_granted_with_it() {
    let server = server();
    let operator = spectator(&server).await;
    let (locks, others) = (client(&server).await, client(&server).await);
    for twin in [2, 3] {
        let (holder, waiting) = held_and_awaited(&locks, &others).await;
        // Mostly before the waiter watches its own nodes.
        let before = queue(&operator).await;
        removes(&operator, &before[twin]).await;
        holder.release().await.unwrap();
        let next = by(SLACK * 4, "the next grant", waiting).await.unwrap().unwrap();
        let now = queue(&operator).await;
        assert_eq!(now.len(), 2, "{now:?}");
        assert!(now.iter().all(|node| !before.contains(node)), "{now:?} of {before:?}");
        next.release().await.unwrap();
    }
}
