//! Beside other clients of the field on the same nodes: kazoo's Lock and Curator's
//! InterProcessMutex.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::common::{SLACK, TICK, at, by, ms, queued, server, spectator};
use lockkit_core::{Lock, Locks};
use lockkit_zk::{Layout, ZkProvider};
use testbed::{Peer, ZkServer, java, python};

const KAZOO: &str = "2.11.0";
const BASE: &str = "/app/locks";
const PATH: &str = "/app/locks/a";
const TTL: Duration = ms(3_000);

/// The directory with the compiled class, made once.
fn classes() -> &'static Path {
    static CLASSES: OnceLock<PathBuf> = OnceLock::new();
    CLASSES.get_or_init(|| {
        let kept =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("curator-{}", std::process::id()));
        fs::create_dir_all(&kept).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/interop/Peer.java");
        let jars = ["curator-client", "curator-framework", "curator-recipes", "zookeeper"];
        java::compile(&source, &jars, &kept).unwrap();
        kept
    })
}

/// A process that uses kazoo.
fn kazoo(server: &ZkServer, patterns: &[&str]) -> Arc<Peer> {
    let kept = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let mut command = Command::new(python::with("kazoo", KAZOO, kept).unwrap());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/interop/client.py");
    command.arg(script).arg(server.port().to_string()).args(patterns);
    Arc::new(Peer::start(command).unwrap())
}

/// A process that uses Curator.
fn curator(server: &ZkServer) -> Arc<Peer> {
    let jars = [
        "curator-recipes",
        "curator-framework",
        "curator-client",
        "zookeeper",
        "slf4j-nop",
        "guava",
    ];
    let mut command = java::command(&jars).unwrap();
    let arguments: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
    let path = arguments.last().unwrap().to_str().unwrap();
    let path = format!("{path}:{}", classes().display());
    command.args(["-cp", &path, "Peer", &server.port().to_string()]);
    Arc::new(Peer::start(command).unwrap())
}

/// What it answers, without blocking the runtime.
async fn told(peer: &Arc<Peer>, line: String) -> String {
    let peer = Arc::clone(peer);
    tokio::task::spawn_blocking(move || peer.tell(&line).unwrap()).await.unwrap()
}

async fn ours(server: &ZkServer, layout: Layout) -> Locks {
    let config = at(server.port()).base(BASE).layout(layout);
    Locks::new(ZkProvider::connect(config).await.unwrap())
}

/// Each waits for the other and is granted after it, and neither gets in beside the other.
async fn exclude_each_other(lock: &Lock, peer: Arc<Peer>) {
    let guard = lock.acquire().await.unwrap();
    assert_eq!(told(&peer, format!("acquire {PATH} 0.3")).await, "no");
    let waiting = {
        let peer = Arc::clone(&peer);
        tokio::spawn(async move { told(&peer, format!("acquire {PATH} 20")).await })
    };
    queued(lock, 1).await;
    tokio::time::sleep(ms(300)).await;
    testbed::held!(guard);
    assert!(!waiting.is_finished(), "another client got in beside ours");
    guard.release().await.unwrap();
    assert_eq!(by(SLACK, "the other client's grant", waiting).await.unwrap(), "yes");

    let seen = lock.inspect().await.unwrap();
    assert_eq!(seen.holders[0].token, None, "{seen:?}");
    assert!(lock.try_acquire().await.unwrap().is_none(), "ours got in beside another client");
    let waiting = tokio::spawn(lock.acquire());
    queued(lock, 1).await;
    tokio::time::sleep(ms(300)).await;
    assert!(!waiting.is_finished(), "ours got in beside another client");
    assert_eq!(told(&peer, "release".to_owned()).await, "released");
    let guard = by(SLACK, "our grant", waiting).await.unwrap().unwrap();
    testbed::held!(guard);
    guard.release().await.unwrap();
    assert_eq!(lock.inspect().await.unwrap().waiters, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn stock_kazoo_and_the_layouts_that_promise_it_exclude_each_other() {
    let server = server();
    for layout in [Layout::Kazoo, Layout::Both] {
        let lock = ours(&server, layout).await.lock("a").ttl(TTL);
        for lock in [lock.clone(), lock.shared()] {
            exclude_each_other(&lock, kazoo(&server, &[])).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kazoo_with_the_extra_pattern_and_every_layout_exclude_each_other() {
    let server = server();
    for layout in [Layout::Curator, Layout::Kazoo, Layout::Both] {
        let lock = ours(&server, layout).await.lock("a").ttl(TTL);
        for lock in [lock.clone(), lock.shared()] {
            exclude_each_other(&lock, kazoo(&server, &["-lock-"])).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn curator_and_the_layouts_that_promise_it_exclude_each_other() {
    let server = server();
    for layout in [Layout::Curator, Layout::Both] {
        let lock = ours(&server, layout).await.lock("a").ttl(TTL);
        for lock in [lock.clone(), lock.shared()] {
            exclude_each_other(&lock, curator(&server)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_what_a_lockkit_client_holds_is_as_the_page_says_and_ours_take_nothing_of_others()
{
    let server = server();
    let peers = [
        ("curator", curator(&server)),
        ("kazoo", kazoo(&server, &[])),
        ("kazoo with -lock-", kazoo(&server, &["-lock-"])),
    ];
    for (layout, let_in) in [
        (Layout::Curator, ["no", "yes", "no"]),
        (Layout::Kazoo, ["yes", "no", "no"]),
        (Layout::Both, ["no", "no", "no"]),
    ] {
        let locks = ours(&server, layout).await;
        for ((client, peer), let_in) in peers.iter().zip(let_in) {
            let name = format!("{layout:?}-{}", client.replace(' ', "-"));
            let (lock, path) = (locks.lock(&name).ttl(TTL), format!("{BASE}/{name}"));
            for lock in [lock.clone(), lock.shared()] {
                let guard = lock.acquire().await.unwrap();
                let said = told(peer, format!("acquire {path} 0.3")).await;
                assert_eq!(said, let_in, "{client} where ours holds under {layout:?}");
                if said == "yes" {
                    assert_eq!(told(peer, "release".to_owned()).await, "released");
                }
                guard.release().await.unwrap();
                // In the other direction.
                assert_eq!(told(peer, format!("acquire {path} 5")).await, "yes", "{client}");
                let tried = lock.try_acquire().await.unwrap();
                assert!(tried.is_none(), "ours under {layout:?} got in beside {client}");
                assert_eq!(told(peer, "release".to_owned()).await, "released");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stock_kazoo_lock_that_is_used_again_finds_the_names_node_under_its_layouts() {
    let server = ZkServer::builder().tick(TICK).line("maxClientCnxns=0");
    let server = server.property("znode.container.checkIntervalMs", "100").start().unwrap();
    let spectator = spectator(&server).await;
    for layout in [Layout::Kazoo, Layout::Both] {
        let name = format!("{layout:?}");
        let (lock, path) =
            (ours(&server, layout).await.lock(&name).ttl(TTL), format!("{BASE}/{name}"));
        let peer = kazoo(&server, &[]);
        // Ours makes the name's node, and kazoo's object finds it there.
        let guard = lock.acquire().await.unwrap();
        assert_eq!(told(&peer, format!("acquire {path} 0.3")).await, "no");
        guard.release().await.unwrap();
        for round in 0..3 {
            if round > 0 {
                assert_eq!(told(&peer, "release".to_owned()).await, "released");
            }
            // Longer than the server leaves an empty container.
            tokio::time::sleep(ms(600)).await;
            assert!(spectator.check_stat(&path).await.unwrap().is_some(), "{path} is swept");
            assert_eq!(told(&peer, format!("again {path} 5")).await, "yes", "{layout:?}");
        }
        assert_eq!(told(&peer, "release".to_owned()).await, "released");
        lock.acquire().await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_all_layouts_exclude_each_other_in_the_order_of_their_arrival() {
    let server = server();
    let layouts = [Layout::Curator, Layout::Kazoo, Layout::Both];
    let operator = ours(&server, Layout::Curator).await.lock("a");
    let mut waiting = Vec::new();
    let holder = ours(&server, Layout::Both).await.lock("a").ttl(TTL).acquire().await.unwrap();
    for number in 0..6 {
        let lock = ours(&server, layouts[number % 3]).await.lock("a").ttl(TTL);
        waiting.push(tokio::spawn(lock.acquire()));
        queued(&operator, number + 1).await;
    }
    let mut last = holder.token();
    holder.release().await.unwrap();
    for waiter in waiting {
        let guard = by(SLACK, "the next grant", waiter).await.unwrap().unwrap();
        assert!(guard.token() > last);
        last = guard.token();
        guard.release().await.unwrap();
    }
}
