//! What arrives late, or belongs to a session that is about to go, harms nobody.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{TICK, by, client, linked, ms, nodes, provider, request, server, spectator};
use lockkit_core::{Error, LockProvider, RequestId};
use lockkit_zk::{ZkConfig, ZkNode};
use testbed::{Connections, End, Fault, Link, Per, Way, ZkServer};
use zookeeper_client::{Acls, Client, CreateMode};

const TTL: Duration = ms(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_release_delivered_after_its_session_has_ended_does_not_harm_the_next_holder() {
    let server = server();
    let (ours, link) = linked(&server).await;
    let mine = ours.try_acquire(&request("a", TTL)).await.unwrap().unwrap();
    link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold);
    let released = mine.lease.release().await;
    assert!(matches!(released, Err(Error::Unavailable { .. })), "{released:?}");
    // What comes later would keep the session.
    link.refuse().unwrap();
    let held = link.counts().to_server.held;
    assert!(held > 0, "nothing is held back");
    let next = client(&server).await.lock("a").ttl(TTL);
    let next = by(TTL + 10 * TICK, "the next grant", next.acquire()).await.unwrap();
    assert!(next.token() > mine.token);
    link.deliver();
    link.accept().unwrap();
    tokio::time::sleep(TTL).await;
    testbed::held!(next);
    let left = nodes(&spectator(&server).await, "/lockkit/a").await;
    assert_eq!(left.len(), 1, "{left:?}");
    let path = next.native::<ZkNode>().unwrap().path.clone();
    assert_eq!(format!("/lockkit/a/{}", left[0]), path);
    next.release().await.unwrap();
}

/// A node of this request as Curator's form has it, on the session of another client.
async fn node_of(client: &Client, id: RequestId) -> String {
    let hex = id.to_string();
    let [a, b, c, d, e] = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    let path = format!("/lockkit/a/_c_{a}-{b}-{c}-{d}-{e}-lock-");
    let options = CreateMode::EphemeralSequential.with_acls(Acls::anyone_all());
    let (_, sequence) = client.create(&path, b"lockkit:before", &options).await.unwrap();
    format!("{path}{sequence}")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_the_same_request_on_a_dying_session_is_nobodys_grant() {
    let server = server();
    let spectator = spectator(&server).await;
    let (ours, link) = linked(&server).await;
    let other = ours.try_acquire(&request("other", TTL)).await.unwrap().unwrap();
    // It makes the parent.
    ours.try_acquire(&request("a", TTL)).await.unwrap().unwrap().lease.release().await.unwrap();
    let dying = crate::common::spectator(&server).await;
    let wish = request("a", TTL);
    let before = node_of(&dying, wish.id()).await;
    // Lost on the way, it is looked for after the reconnection: there is one with its id.
    link.fault(Way::ToServer, Fault::Cut { after: 0, per: Per::Link, end: End::Reset });
    let answered = async {
        loop {
            match ours.try_acquire(&wish).await {
                Ok(granted) => return granted,
                Err(error) => assert!(error.is_retryable(), "{error:?}"),
            }
        }
    };
    let granted = by(ms(5_000), "an answer", answered).await;
    assert!(granted.is_none(), "granted on another session's node: {granted:?}");
    let left = nodes(&spectator, "/lockkit/a").await;
    assert_eq!(left.len(), 1, "{left:?}");
    assert!(before.ends_with(&left[0]), "{left:?}");
    // A replay waits behind it, with a place of its own.
    let waiting = tokio::spawn({
        let (ours, wish) = (Arc::clone(&ours), wish.clone());
        async move { ours.acquire(&wish).await }
    });
    by(ms(2_000), "its place", async {
        while nodes(&spectator, "/lockkit/a").await.len() < 2 {
            tokio::time::sleep(ms(10)).await;
        }
    })
    .await;
    tokio::time::sleep(ms(200)).await;
    assert!(!waiting.is_finished(), "granted beside the other node");
    drop(dying);
    let granted = by(ms(2_000), "the grant", waiting).await.unwrap().unwrap();
    let node = granted.lease.native().unwrap().downcast::<ZkNode>().unwrap();
    assert_ne!(node.path, before);
    assert!(spectator.check_stat(&node.path).await.unwrap().is_some());
    granted.lease.release().await.unwrap();
    other.lease.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_arrives_after_its_session_has_moved_is_refused() {
    let ensemble =
        ZkServer::builder().tick(TICK).line("maxClientCnxns=0").start_ensemble(3).unwrap();
    let servers: Vec<_> = ensemble.addresses().iter().map(ToString::to_string).collect();
    let spectator = Client::connector().with_session_timeout(ms(10_000));
    let spectator = spectator.connect(&servers.join(",")).await.unwrap();
    let links: Vec<_> =
        ensemble.addresses().iter().take(2).map(|to| Link::to(*to).unwrap()).collect();
    let (old, new) = (&links[0], &links[1]);
    new.refuse().unwrap();
    let config = ZkConfig::new(links.iter().map(|link| link.address().to_string())).tick(TICK);
    let ours = provider(config).await;
    let ttl = ms(6_000);
    let held = ours.try_acquire(&request("held", ttl)).await.unwrap().unwrap();
    // The parent is there: one request creates.
    ours.try_acquire(&request("a", ttl)).await.unwrap().unwrap().lease.release().await.unwrap();
    old.fault_on(Connections::Existing, Way::Both, Fault::Hold);
    old.refuse().unwrap();
    let wish = request("a", ttl);
    let given_up = by(ms(4_000), "an attempt", ours.try_acquire(&wish)).await;
    assert!(matches!(given_up, Err(Error::Unavailable { .. })), "{given_up:?}");
    new.accept().unwrap();
    let withdrawn = async {
        while ours.withdraw(&wish).await.is_err() {
            tokio::time::sleep(ms(20)).await;
        }
    };
    by(ms(6_000), "the withdrawal at the next member", withdrawn).await;
    assert!(new.counts().open > 0, "the sessions have not moved");
    let waiting = old.counts().to_server.held;
    assert!(waiting > 0, "the creation is not held back");
    let renewed = by(ms(4_000), "a renewal", held.lease.renew()).await;
    assert!(renewed.is_ok(), "{renewed:?}");
    old.deliver();
    for _ in 0..20 {
        tokio::time::sleep(ms(50)).await;
        let left = nodes(&spectator, "/lockkit/a").await;
        assert!(left.is_empty(), "{left:?}");
    }
    held.lease.release().await.unwrap();
}
