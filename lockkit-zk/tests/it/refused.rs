//! Removals that the servers refuse for a while: done once the right is back.

use std::time::Duration;

use crate::common::{at, by, ms, nodes, provider, queued, server, spectator};
use lockkit_core::{Error, Locks};
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
