//! Connections that are cut, refused, made anew or left: what that costs, and what calls are told.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{by, ms};
use lockkit_core::{Applied, Clock, Error, LockName, LockProvider, Request, StoreSays};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Connections, End, Fault, Link, Per, RedisServer, Way, timing};
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
    let (made, began) = (link.counts().accepted, Instant::now());
    // The one for wake-ups is given up after as long as it may take.
    let most = || made + 2 + began.elapsed().as_secs() / LIMIT.as_secs();
    // The first one finds the reset: nobody knows whether it was sent.
    provider.try_acquire(&request("a")).await.unwrap_err();
    for _ in 0..5 {
        asks_in_vain(&provider).await;
    }
    assert!(link.counts().accepted <= most(), "connections begun for one: {:?}", link.counts());
    link.deliver();
    link.idle(ms(50)).await;
    let grant = provider.try_acquire(&request("a")).await.unwrap().unwrap();
    grant.lease.release().await.unwrap();
    assert!(link.counts().accepted <= most(), "connections made for one: {:?}", link.counts());
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
    // It holds to the end.
    let holder = provider.acquire(&long_request("a")).await.unwrap();
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
    let asked = long_request("a");
    server.cli(&["ACL", "SETUSER", "app", "resetpass", ">second"]).unwrap();
    // Granted, and the reply never comes; then no login.
    cut_the_reply(&link);
    let error = provider.try_acquire(&asked).await.unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    assert_eq!(server.cli(&["EXISTS", "a"]).unwrap().integer(), Some(1));
    server.cli(&["ACL", "SETUSER", "app", "resetpass", ">first"]).unwrap();
    provider.withdraw(&asked).await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "a"]).unwrap().integer(), Some(0));
    assert_eq!(server.cli(&["ZCARD", "{a}:d"]).unwrap().integer(), Some(1), "tombstones");
}

/// Cuts the reply to the next request, which the server has carried out by then.
fn cut_the_reply(link: &Link) {
    let cut = Fault::Cut { after: 0, per: Per::Link, end: End::Reset };
    link.fault_on(Connections::Existing, Way::ToClient, cut);
}

#[tokio::test]
async fn a_revocation_whose_reply_was_cut_is_not_answered_with_no() {
    let server = RedisServer::start().unwrap();
    let (provider, link) = linked(&server).await;
    let operator = provider.operator().unwrap();
    let name = LockName::new("a").unwrap();
    let grant = provider.acquire(&request("a")).await.unwrap();
    cut_the_reply(&link);
    let error = operator.revoke(&name, grant.token).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }), "{error:?}");
    assert!(provider.try_acquire(&request("a")).await.unwrap().is_some(), "still held");
    assert!(!operator.revoke(&name, grant.token).await.unwrap());
}

/// A request whose ttl outlasts what follows, on a machine that stands still too; its calls end after 2 s.
fn long_request(name: &str) -> Request {
    Request::new(LockName::new(name).unwrap(), ms(15_000), Clock::system()).unwrap()
}

/// Takes the name, and gives it back.
async fn takes_in_between(provider: &RedisProvider) {
    let grant = provider.try_acquire(&long_request("a")).await.unwrap().unwrap();
    grant.lease.release().await.unwrap();
}

#[tokio::test]
async fn a_release_whose_reply_was_dropped_is_no_loss_although_another_held_since() {
    let server = RedisServer::start().unwrap();
    let ((ours, link), (other, _other_link)) = (linked(&server).await, linked(&server).await);
    let grant = ours.acquire(&long_request("a")).await.unwrap();
    link.fault_on(Connections::Existing, Way::ToClient, Fault::Blackhole);
    let error = grant.lease.release().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }), "{error:?}");
    takes_in_between(&other).await;
    // Over another connection.
    grant.lease.release().await.unwrap();
    link.pass().unwrap();
    // The same within one call.
    let grant = ours.acquire(&long_request("a")).await.unwrap();
    link.idle(ms(50)).await;
    cut_the_reply(&link);
    link.fault_on(Connections::New, Way::ToServer, Fault::Hold);
    let releasing = tokio::spawn(async move { grant.lease.release().await });
    by(ms(500), "the name for another", other.acquire(&long_request("a")))
        .await
        .unwrap()
        .lease
        .release()
        .await
        .unwrap();
    assert!(!releasing.is_finished());
    link.pass().unwrap();
    by(ms(2_000), "a release", releasing).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_release_that_may_have_come_after_the_ttl_is_a_loss() {
    let server = RedisServer::start().unwrap();
    let ((ours, link), (other, _other_link)) = (linked(&server).await, linked(&server).await);
    let grant = ours.acquire(&request("a")).await.unwrap();
    link.fault_on(Connections::Existing, Way::ToServer, Fault::Blackhole);
    grant.lease.release().await.unwrap_err();
    tokio::time::sleep(TTL).await;
    takes_in_between(&other).await;
    let error = grant.lease.release().await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn a_name_that_others_removed_is_a_loss_where_every_release_was_answered() {
    let server = RedisServer::start().unwrap();
    let (provider, link) = linked(&server).await;
    let grant = provider.acquire(&long_request("a")).await.unwrap();
    server.cli(&["DEL", "a"]).unwrap();
    // Nothing of this one is sent.
    cut_off(&link);
    provider.try_acquire(&request("b")).await.unwrap_err();
    let error = grant.lease.release().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
    link.pass().unwrap();
    let error = grant.lease.release().await.unwrap_err();
    assert!(matches!(error, Error::Lost { .. }), "{error:?}");
}

#[tokio::test]
async fn a_provider_that_is_dropped_and_not_closed_leaves_no_connection() {
    let server = RedisServer::start().unwrap();
    let (provider, link) = linked(&server).await;
    let holder = provider.acquire(&long_request("a")).await.unwrap();
    let waiting = tokio::spawn({
        let provider = Arc::clone(&provider);
        async move { provider.acquire(&long_request("a")).await }
    });
    let both = link.until(|counts| counts.open == 2 && counts.requests.contains_key("SUBSCRIBE"));
    by(ms(2_000), "a subscription", both).await;
    link.idle(ms(50)).await;
    waiting.abort();
    assert!(waiting.await.is_err());
    drop((holder, provider));
    timing::gone(ms(1_000), "no connection", async || link.counts().open == 0).await;
}
