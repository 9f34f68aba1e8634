//! Where tokens begin: in a store that is new, by the time; in one that is in use, where they were.

use std::time::{Duration, SystemTime};

use crate::common::{SLACK, at, by, client, ms, provider, server, spectator};
use lockkit_core::Locks;
use lockkit_zk::{Layout, ZkConfig, ZkNode};
use testbed::{Data, ZkServer};
use zookeeper_client::{Acls, CreateMode};

const TOKENS: &str = "/lockkit/lockkit:tokens";

fn micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    now.as_micros().try_into().unwrap()
}

/// One token of this client.
async fn token(locks: &Locks) -> u64 {
    let guard = by(SLACK * 5, "a grant", locks.lock("a").acquire()).await.unwrap();
    let seen = locks.lock("a").inspect().await.unwrap();
    assert_eq!(seen.holders[0].token, Some(guard.token()));
    let token = guard.token().as_u64();
    guard.release().await.unwrap();
    token
}

fn with_containers_that_go() -> ZkServer {
    let server = ZkServer::builder().tick(crate::common::TICK).line("maxClientCnxns=0");
    server.property("znode.container.checkIntervalMs", "100").start().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_stores_tokens_begin_at_the_time_and_all_clients_share_them() {
    let server = with_containers_that_go();
    // Connected before there is a base.
    let early = client(&server).await;
    let before = micros();
    let layouts = [Layout::Curator, Layout::Kazoo, Layout::Both].map(async |layout: Layout| {
        let config: ZkConfig = at(server.port()).layout(layout);
        Locks::new(provider(config).await)
    });
    let mut last = before;
    for locks in layouts {
        let locks = locks.await;
        for _ in 0..2 {
            let token = token(&locks).await;
            assert!(token > last, "{token} after {last}");
            last = token;
            // Long enough for the name's node to be removed, where it is a container.
            tokio::time::sleep(ms(500)).await;
        }
    }
    for locks in [early, client(&server).await] {
        let token = token(&locks).await;
        assert!(token > last, "{token} after {last}");
        last = token;
    }
    assert!(last < micros(), "{last}: the base grew with the transactions of one second");
    let spectator = spectator(&server).await;
    let (data, _) = spectator.get_data("/lockkit").await.unwrap();
    assert_eq!(data, b"lockkit-layout 2", "clients of layout 1 are refused by it");
    let locks = client(&server).await;
    assert!(locks.list("", None, 10).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_lost_all_its_data_goes_on_with_greater_tokens() {
    let server = std::sync::Arc::new(server());
    let old = client(&server).await;
    let before = token(&old).await;
    let restarting = std::sync::Arc::clone(&server);
    let restarted = tokio::task::spawn_blocking(move || restarting.restart(Data::Lost));
    restarted.await.unwrap().unwrap();
    let new = crate::common::locks_at(&[server.address()]).await;
    let after = token(&new).await;
    assert!(after > before, "{after} after {before}");
    // The client that knew the old base, once it has a session again.
    let lock = old.lock("a");
    let guard = by(ms(30_000), "a grant", lock.acquire()).await.unwrap();
    assert!(guard.token().as_u64() > after, "{} after {after}", guard.token());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_in_use_keeps_its_tokens_and_one_that_an_operator_made_for_it_is_new() {
    let server = server();
    let admin = spectator(&server).await;
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    for (base, data) in [("/used", ""), ("/theirs", "theirs"), ("/first", "lockkit-layout 1")] {
        admin.create(base, data.as_bytes(), &options).await.unwrap();
        if data.is_empty() {
            admin.create("/used/a", b"", &options).await.unwrap();
        }
        let locks = Locks::new(provider(at(server.port()).base(base)).await);
        let guard = locks.lock("a").acquire().await.unwrap();
        let node = guard.native::<ZkNode>().unwrap();
        assert_eq!(guard.token().as_u64(), u64::try_from(node.czxid).unwrap(), "{base}");
        guard.release().await.unwrap();
        let (left, _) = admin.get_data(base).await.unwrap();
        assert_eq!(left, data.as_bytes(), "{base} stays as it is");
    }
    let before = micros();
    admin.create("/made", b"", &options).await.unwrap();
    let locks = Locks::new(provider(at(server.port()).base("/made")).await);
    assert!(token(&locks).await > before);
    let (mark, _) = admin.get_data("/made").await.unwrap();
    assert_eq!(mark, b"lockkit-layout 2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_clients_at_one_time_agree_and_an_operator_can_raise_the_base() {
    const CLIENTS: usize = 6;
    let server = server();
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(client(&server).await);
    }
    let tokens = clients.iter().map(|locks| async {
        let guard = locks.lock("a").acquire().await.unwrap();
        let node = guard.native::<ZkNode>().unwrap();
        let base = guard.token().as_u64() - u64::try_from(node.czxid).unwrap();
        guard.release().await.unwrap();
        base
    });
    let bases = futures_util::future::join_all(tokens).await;
    assert!(bases.iter().all(|base| *base == bases[0]), "{bases:?}");
    let raised = bases[0] + u64::try_from(Duration::from_secs(3600).as_micros()).unwrap();
    let admin = spectator(&server).await;
    admin.set_data(TOKENS, raised.to_string().as_bytes(), None).await.unwrap();
    assert!(token(&client(&server).await).await > raised);
    admin.set_data(TOKENS, b"many", None).await.unwrap();
    let refused = client(&server).await.lock("a").try_acquire().await.map(drop).unwrap_err();
    assert!(refused.to_string().contains(TOKENS), "{refused}");
}
