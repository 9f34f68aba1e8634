//! What the tests on a real server share.

pub(crate) mod framing;
pub(crate) mod session;
pub(crate) mod succession;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::{Clock, Guard, Lock, LockName, Locks, Request};
use lockkit_zk::{ZkConfig, ZkProvider};
pub(crate) use testbed::contenders::by;
use testbed::contenders::queued_within;
use testbed::{Link, ZkEnsemble, ZkServer};
use tokio::task::JoinHandle;
use zookeeper_client::{Client, Error as ZkError};

/// The unit of the servers' time.
pub(crate) const TICK: Duration = ms(500);
/// How long a noisy machine may take beyond a bound.
pub(crate) const SLACK: Duration = ms(1_000);
/// Held by a test that keeps the machine busy for many seconds, so that no two do at once.
pub(crate) static BUSY: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A server that takes as many clients as there are.
pub(crate) fn server() -> ZkServer {
    ZkServer::builder().tick(TICK).line("maxClientCnxns=0").start().unwrap()
}

/// Three members that take as many clients as there are.
pub(crate) fn three() -> ZkEnsemble {
    ZkServer::builder().tick(TICK).line("maxClientCnxns=0").start_ensemble(3).unwrap()
}

pub(crate) fn at(port: u16) -> ZkConfig {
    ZkConfig::new([format!("127.0.0.1:{port}")]).tick(TICK)
}

pub(crate) async fn provider(config: ZkConfig) -> Arc<ZkProvider> {
    Arc::new(ZkProvider::connect(config).await.unwrap())
}

/// A client of its own at this port.
pub(crate) async fn join(port: u16) -> Locks {
    Locks::new(ZkProvider::connect(at(port)).await.unwrap())
}

/// A client of its own.
pub(crate) async fn client(server: &ZkServer) -> Locks {
    join(server.port()).await
}

/// A client of its own of these servers, as soon as they answer.
pub(crate) async fn locks_at(servers: &[SocketAddr]) -> Locks {
    let connect = async {
        loop {
            let config = ZkConfig::new(servers.iter().map(ToString::to_string)).tick(TICK);
            match ZkProvider::connect(config).await {
                Ok(provider) => return Locks::new(provider),
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    tokio::time::sleep(ms(100)).await;
                }
            }
        }
    };
    by(session::BACK, "a connection", connect).await
}

/// A client behind a link of its own that counts.
pub(crate) async fn linked(server: &ZkServer) -> (Arc<ZkProvider>, Link) {
    let link = framing::counting(server.address());
    (provider(at(link.port())).await, link)
}

/// A waiter that is in the queue by now.
pub(crate) async fn waiter(lock: &Lock, before: usize) -> JoinHandle<Guard> {
    let acquire = lock.acquire();
    let waiter = tokio::spawn(async move { acquire.await.unwrap() });
    queued(lock, before + 1).await;
    waiter
}

/// Waits until this many wait; while a thousand arrive, that takes long.
pub(crate) async fn queued(lock: &Lock, count: usize) {
    queued_within(ms(40_000), lock, count).await;
}

pub(crate) fn request(name: &str, ttl: Duration) -> Request {
    Request::new(LockName::new(name).unwrap(), ttl, Clock::system()).unwrap()
}

/// A client of the driver's own, which looks.
pub(crate) async fn spectator(server: &ZkServer) -> Client {
    let servers = server.address().to_string();
    Client::connector().with_session_timeout(ms(10_000)).connect(&servers).await.unwrap()
}

/// The children of a node; none where there is no such node.
pub(crate) async fn nodes(spectator: &Client, parent: &str) -> Vec<String> {
    match spectator.list_children(parent).await {
        Ok(children) => children,
        Err(ZkError::NoNode) => Vec::new(),
        Err(error) => panic!("{error}"),
    }
}
