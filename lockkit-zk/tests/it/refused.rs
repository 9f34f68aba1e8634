//! Removals that the servers refuse: done once the right is back, or with the session, which is closed for that.

use std::time::Duration;

use crate::common::{at, by, ms, nodes, provider, queued, server, spectator};
use lockkit_core::{Error, Guard, Locks};
use lockkit_zk::ZkNode;
use testbed::timing;
use zookeeper_client::{Acl, Acls, Client, CreateMode};

const TTL: Duration = ms(1_500);
/// Longer than the driver tries a clean-up by itself.
const GIVEN_UP: Duration = ms(5_000);
const PARENT: &str = "/lockkit/a";

/// An administrator, whose own the parent of the name's queue is; all may use it for now.
async fn admin(server: &testbed::ZkServer) -> Client {
    let admin = spectator(server).await;
    admin.auth("digest", b"admin:secret").await.unwrap();
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    admin.mkdir(PARENT, &options).await.unwrap();
    admin
}

async fn give(admin: &Client, rights: &[Acl]) {
    admin.set_acl(PARENT, rights, None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_release_is_done_once_the_right_is_back_while_another_lock_keeps_the_session() {
    let server = server();
    let admin = admin(&server).await;
    let locks = Locks::new(provider(at(server.port())).await);
    let keeps = locks.lock("keeps").ttl(TTL).acquire().await.unwrap();
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let dropped = locks.lock("a").ttl(TTL);
    give(&admin, &Acls::creator_all()).await;
    let error = by(ms(10_000), "an answer", guard.release()).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    tokio::time::sleep(GIVEN_UP).await;
    assert_eq!(nodes(&admin, PARENT).await.len(), 1, "removed without the right");
    give(&admin, &Acls::anyone_all()).await;
    let is_gone = async || nodes(&admin, PARENT).await.is_empty();
    timing::gone(ms(4_000), "the node of the refused release", is_gone).await;
    testbed::held!(keeps);
    dropped.acquire().await.unwrap().release().await.unwrap();
    keeps.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_withdrawal_is_done_once_the_right_is_back_and_nothing_is_kept_of_it() {
    let server = server();
    let admin = admin(&server).await;
    let ours = provider(at(server.port())).await;
    let locks = Locks::new(std::sync::Arc::clone(&ours));
    let keeps = locks.lock("keeps").ttl(TTL).acquire().await.unwrap();
    let other = Locks::new(provider(at(server.port())).await);
    let holder = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let waiting = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
    queued(&other.lock("a"), 1).await;
    give(&admin, &Acls::creator_all()).await;
    waiting.abort();
    tokio::time::sleep(GIVEN_UP).await;
    assert_eq!(nodes(&admin, PARENT).await.len(), 2, "removed without the right");
    give(&admin, &Acls::anyone_all()).await;
    let is_gone = async || nodes(&admin, PARENT).await.len() == 1;
    timing::gone(ms(4_000), "the node of the refused withdrawal", is_gone).await;
    testbed::held!(keeps);
    holder.release().await.unwrap();
    keeps.release().await.unwrap();
    let is_forgotten = async || !format!("{ours:?}").contains("Withdrawn");
    timing::gone(ms(4_000), "the record of the request", is_forgotten).await;
}

/// No session of such requests is closed for being idle while a test lasts.
const LONG: Duration = ms(15_000);

/// A holder, behind which a request of this client leaves, and is refused to.
async fn refused_withdrawal(server: &testbed::ZkServer, admin: &Client, locks: &Locks) -> Guard {
    let other = Locks::new(provider(at(server.port())).await);
    let holder = other.lock("a").ttl(LONG).acquire().await.unwrap();
    let waiting = tokio::spawn(locks.lock("a").ttl(LONG).acquire());
    queued(&other.lock("a"), 1).await;
    give(admin, &Acls::creator_all()).await;
    waiting.abort();
    holder
}

async fn owner(operator: &Client, path: &str) -> i64 {
    operator.check_stat(path).await.unwrap().expect("a node").ephemeral_owner
}

/// The holder's node is the only one in its queue.
async fn is_alone(admin: &Client) {
    let is_gone = async || nodes(admin, PARENT).await.len() == 1;
    timing::gone(ms(10_000), "the node of the refused withdrawal", is_gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_refused_removal_is_closed_and_its_node_goes_without_the_right() {
    let server = server();
    let admin = admin(&server).await;
    let ours = provider(at(server.port())).await;
    let locks = Locks::new(std::sync::Arc::clone(&ours));
    let holder = refused_withdrawal(&server, &admin, &locks).await;
    is_alone(&admin).await;
    testbed::held!(holder);
    let is_forgotten = async || !format!("{ours:?}").contains("Withdrawn");
    timing::gone(ms(4_000), "the record of the request", is_forgotten).await;
    // Its client goes on.
    locks.lock("b").ttl(LONG).acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_with_a_refused_removal_keeps_its_locks_and_takes_no_new_ones() {
    let server = server();
    let admin = admin(&server).await;
    let locks = Locks::new(provider(at(server.port())).await);
    let keeps = locks.lock("keeps").ttl(LONG).acquire().await.unwrap();
    let old = owner(&admin, &keeps.native::<ZkNode>().unwrap().path).await;
    let holder = refused_withdrawal(&server, &admin, &locks).await;
    let new = async || {
        let guard = locks.lock("b").ttl(LONG).acquire().await.unwrap();
        let session = owner(&admin, &guard.native::<ZkNode>().unwrap().path).await;
        guard.release().await.unwrap();
        session != old
    };
    timing::gone(ms(5_000), "the old session from new locks", new).await;
    assert_eq!(nodes(&admin, PARENT).await.len(), 2, "removed without the right");
    keeps.release().await.unwrap();
    is_alone(&admin).await;
    testbed::held!(holder);
}
