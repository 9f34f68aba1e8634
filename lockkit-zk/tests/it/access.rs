//! Clients that may not see all: nobody is blocked by what a refused one leaves behind.

use std::time::Duration;

use crate::common::{at, by, ms, nodes, provider, queued, request, server, spectator};
use lockkit_core::{Error, LockProvider, Locks};
use lockkit_zk::{Access, Layout, ZkConfig};
use testbed::ZkServer;
use zookeeper_client::{Acl, Acls, AuthId, CreateMode, Permission};

const TTL: Duration = ms(1_500);

/// Nodes that nobody else may read, below parents that are everybody's.
fn private(server: &ZkServer) -> ZkConfig {
    at(server.port()).access(Access::Creator).digest("app", "app's own")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_behind_a_node_that_it_may_not_read_is_granted_in_its_turn() {
    let server = server();
    let spectator = spectator(&server).await;
    let open = Locks::new(provider(at(server.port())).await);
    let private = Locks::new(provider(private(&server)).await);
    // Made by the open client, the parent is open.
    open.lock("a").ttl(TTL).acquire().await.unwrap().release().await.unwrap();
    for _ in 0..2 {
        let holder = private.lock("a").ttl(TTL).acquire().await.unwrap();
        assert!(open.lock("a").ttl(TTL).try_acquire().await.unwrap().is_none());
        let waiting = tokio::spawn(open.lock("a").ttl(TTL).acquire());
        queued(&private.lock("a"), 1).await;
        let second = tokio::spawn(open.lock("a").ttl(TTL).acquire());
        queued(&private.lock("a"), 2).await;
        tokio::time::sleep(ms(300)).await;
        assert!(!waiting.is_finished(), "not behind the holder");
        let token = holder.token();
        holder.release().await.unwrap();
        let next = by(ms(1_000), "the next grant", waiting).await.unwrap().unwrap();
        assert!(next.token() > token);
        next.release().await.unwrap();
        by(ms(1_000), "the last grant", second).await.unwrap().unwrap().release().await.unwrap();
    }
    assert!(nodes(&spectator, "/lockkit/a").await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_after_the_nodes_creation_leaves_no_node() {
    let server = server();
    let admin = spectator(&server).await;
    admin.auth("digest", b"admin:secret").await.unwrap();
    let all = Acl::new(Permission::ALL, AuthId::authed());
    let blind = Permission::CREATE | Permission::DELETE;
    let acls = [all, Acl::new(blind, AuthId::anyone())];
    let everybody = CreateMode::Persistent.with_acls(Acls::anyone_all());
    admin.create("/lockkit", b"", &everybody).await.unwrap();
    // Whoever may create and not list there is refused only after the creation.
    admin
        .create("/lockkit/a", b"", &CreateMode::Persistent.with_acls(Acls::new(&acls)))
        .await
        .unwrap();
    for layout in [Layout::Curator, Layout::Both] {
        let ours = provider(at(server.port()).layout(layout)).await;
        for waits in [false, true] {
            let request = request("a", TTL);
            let refused = if waits {
                ours.acquire(&request).await.map(Some)
            } else {
                ours.try_acquire(&request).await
            };
            assert!(matches!(refused, Err(Error::Rejected { .. })), "{refused:?}");
            assert!(nodes(&admin, "/lockkit/a").await.is_empty(), "{layout:?}, {waits}");
            // What follows it has nothing left to do.
            ours.withdraw(&request).await.unwrap();
        }
    }
    // One whose token is none.
    let ours = provider(at(server.port()).token_base(u64::MAX)).await;
    let refused = ours.try_acquire(&request("b", TTL)).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    assert!(nodes(&admin, "/lockkit/b").await.is_empty());
}
