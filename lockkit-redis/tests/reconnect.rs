//! How the connection for commands is made anew: by whom, how often, and what a call is told meanwhile.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{by, ms};
use lockkit_core::{Applied, Clock, Error, LockName, LockProvider, Request, StoreSays};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Connections, End, Fault, Link, Per, RedisServer, Way};
use tokio::runtime::{Builder, Runtime};

/// A call of such a request ends after 150 ms.
const TTL: Duration = ms(500);
/// How long the making of a connection may take.
const LIMIT: Duration = ms(2_000);

async fn linked(server: &RedisServer) -> (Arc<RedisProvider>, Link) {
    let link = Link::to_redis(server.address()).unwrap();
    let config = RedisConfig::tcp("127.0.0.1", link.port());
    (Arc::new(RedisProvider::connect(config).await.unwrap()), link)
}

fn request(name: &str) -> Request {
    Request::new(LockName::new(name).unwrap(), TTL, Clock::system()).unwrap()
}

/// Resets what there is, and lets nothing through to those who connect then.
fn cut_off(link: &Link) {
    link.reset().unwrap();
    link.fault_on(Connections::New, Way::ToClient, Fault::Hold);
}

/// One attempt that ends before there is a connection.
async fn asks_in_vain(provider: &RedisProvider) {
    let error = provider.try_acquire(&request("a")).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_that_takes_longer_than_a_call_is_made_all_the_same_and_once() {
    let server = RedisServer::start().unwrap();
    let (provider, link) = linked(&server).await;
    cut_off(&link);
    let made = link.counts().accepted;
    // The first one finds the reset: nobody knows whether it was sent.
    provider.try_acquire(&request("a")).await.unwrap_err();
    for _ in 0..5 {
        asks_in_vain(&provider).await;
    }
    assert_eq!(link.counts().accepted, made + 1, "connections begun for one");
    link.deliver();
    link.idle(ms(50)).await;
    let grant = provider.try_acquire(&request("a")).await.unwrap().unwrap();
    grant.lease.release().await.unwrap();
    assert_eq!(link.counts().accepted, made + 1);
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_connection_begun_in_a_runtime_that_ended_or_stands_still_holds_up_no_other() {
    let server = RedisServer::start().unwrap();
    let ours = runtime();
    for ends in [true, false] {
        let (provider, link) = ours.block_on(linked(&server));
        cut_off(&link);
        let other = runtime();
        other.block_on(async {
            provider.try_acquire(&request("a")).await.unwrap_err();
            asks_in_vain(&provider).await;
        });
        // Nobody polls what it began any more.
        let other = (!ends).then_some(other);
        link.pass().unwrap();
        let limit = if ends { ms(100) } else { LIMIT + ms(500) };
        let granted = async {
            loop {
                match provider.try_acquire(&request("a")).await {
                    Ok(grant) => return grant.unwrap(),
                    Err(_) => tokio::time::sleep(ms(25)).await,
                }
            }
        };
        let grant = ours.block_on(by(limit, "a grant", granted));
        ours.block_on(grant.lease.release()).unwrap();
        drop(other);
    }
}

#[tokio::test]
async fn a_waiter_whose_heartbeat_could_not_be_sent_may_still_be_in_the_queue() {
    let server = RedisServer::start().unwrap();
    let (provider, link) = linked(&server).await;
    let holder = provider.acquire(&request("a")).await.unwrap();
    let asked = request("a");
    let waiting = tokio::spawn({
        let (provider, asked) = (Arc::clone(&provider), asked.clone());
        async move { provider.acquire(&asked).await }
    });
    let queued = async {
        while !matches!(asked.last_word(), Some(StoreSays::Held(_))) {
            tokio::time::sleep(ms(2)).await;
        }
    };
    by(ms(2_000), "a waiter in the queue", queued).await;
    link.idle(ms(50)).await;
    link.refuse().unwrap();
    link.reset().unwrap();
    // Others find the reset, so that the waiter's own heartbeat meets the refusal alone.
    provider.try_acquire(&request("b")).await.unwrap_err();
    let error = by(ms(2_000), "a heartbeat", waiting).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }), "{error:?}");
    link.pass().unwrap();
    provider.withdraw(&asked).await.unwrap();
    drop(holder);
}

#[tokio::test]
async fn a_request_cut_off_and_refused_when_sent_again_leaves_a_tombstone() {
    let server = RedisServer::builder().user("app", "on >first ~* &* +@all").start().unwrap();
    let link = Link::to_redis(server.address()).unwrap();
    let config = RedisConfig::tcp("127.0.0.1", link.port()).username("app").password("first");
    let provider = RedisProvider::connect(config).await.unwrap();
    let asked = request("a");
    server.cli(&["ACL", "SETUSER", "app", "resetpass", ">second"]).unwrap();
    // Granted, and the reply never comes; then no login.
    let cut = Fault::Cut { after: 0, per: Per::Link, end: End::Reset };
    link.fault_on(Connections::Existing, Way::ToClient, cut);
    let error = provider.try_acquire(&asked).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    assert_eq!(server.cli(&["EXISTS", "a"]).unwrap().integer(), Some(1));
    server.cli(&["ACL", "SETUSER", "app", "resetpass", ">first"]).unwrap();
    provider.withdraw(&asked).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "a"]).unwrap().integer(), Some(0));
    assert_eq!(server.cli(&["ZCARD", "{a}:x"]).unwrap().integer(), Some(1), "tombstones");
}
