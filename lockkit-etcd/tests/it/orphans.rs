//! What a driver left behind without a word is removed, and nothing of a request that comes back.

use std::time::Duration;

use crate::common::{SLACK, by, client, link_to, ms};
use lockkit_core::{Clock, Grant, LockName, LockProvider, Locks, Request};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::{Connections, EtcdServer, Fault, Link, Way};

const TTL: Duration = ms(2_000);
/// So long after its last worker has left a request counts as an orphan.
const ORPHANED: Duration = ms(3_000);

/// A request that is granted and then left without a word; a sweep that removes its key is held on
/// the link.
async fn swept(provider: &EtcdProvider, link: &Link) -> Request {
    let name = LockName::new("a").unwrap();
    let request = Request::new(name, TTL, Clock::system()).unwrap();
    drop(provider.try_acquire(&request).await.unwrap().unwrap());
    tokio::time::sleep(ORPHANED - ms(100)).await;
    // The keep-alive arrives; its answer, which sets the sweep off, waits until nothing leaves.
    link.fault(Way::ToClient, Fault::Hold);
    by(TTL, "the answer to a keep-alive", link.until(|now| now.to_client.held > 0)).await;
    tokio::time::sleep(ms(150)).await;
    link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold);
    link.fault(Way::ToClient, Fault::Pass);
    by(SLACK, "the sweep", link.until(|now| now.to_server.held > 0)).await;
    request
}

async fn linked(server: &EtcdServer) -> (EtcdProvider, Link) {
    let link = link_to(server.address());
    let config = EtcdConfig::new([("127.0.0.1", link.port())]);
    (EtcdProvider::connect(config).await.unwrap(), link)
}

/// Checks that the request holds its name, and leaves nothing once it is withdrawn.
async fn holds_and_leaves(
    grant: Grant,
    provider: &EtcdProvider,
    request: &Request,
    server: &EtcdServer,
) {
    let lock = client(server).await.lock("a");
    let lost = tokio::time::timeout(ms(500), grant.lease.lost()).await;
    assert!(lost.is_err(), "a live request's key was removed: {lost:?}");
    let seen = lock.inspect().await.unwrap();
    let token = seen.holders.first().and_then(|holder| holder.token);
    assert_eq!(token, Some(grant.token), "{seen:?}");
    provider.withdraw(request).await.unwrap();
    let guard = by(SLACK, "a name without residue", lock.acquire()).await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_is_on_its_way_removes_nothing_of_a_request_that_comes_back() {
    let server = EtcdServer::start().unwrap();
    let (provider, link) = linked(&server).await;
    let request = swept(&provider, &link).await;
    let coming = tokio::spawn({
        let (provider, request) = (provider.clone(), request.clone());
        async move { provider.acquire(&request).await }
    });
    tokio::time::sleep(ms(100)).await;
    link.deliver();
    let grant = by(ms(3_000), "the grant", coming).await.unwrap().unwrap();
    holds_and_leaves(grant, &provider, &request, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sweep_that_comes_late_removes_nothing_of_a_request_that_came_back() {
    let server = EtcdServer::start().unwrap();
    let (provider, link) = linked(&server).await;
    let request = swept(&provider, &link).await;
    // The sweep's time is over, and with it the connection that holds it.
    tokio::time::sleep(TTL * 3 / 10 + ms(200)).await;
    let grant = by(ms(3_000), "the grant", provider.acquire(&request)).await.unwrap();
    assert!(link.counts().to_server.held > 0, "no sweep is held");
    link.deliver();
    holds_and_leaves(grant, &provider, &request, &server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_driver_left_without_a_word_is_swept_although_its_lease_lives_for_another() {
    let server = EtcdServer::start().unwrap();
    let (provider, _link) = linked(&server).await;
    let other = client(&server).await;
    let locks = Locks::new(provider.clone());
    let held = locks.lock("b").ttl(TTL).acquire().await.unwrap();
    let name = LockName::new("a").unwrap();
    let request = Request::new(name, TTL, Clock::system()).unwrap();
    drop(provider.try_acquire(&request).await.unwrap().unwrap());
    assert!(other.lock("a").try_acquire().await.unwrap().is_none());
    let free = by(ORPHANED + TTL + SLACK, "the name", other.lock("a").acquire()).await.unwrap();
    testbed::held!(held);
    free.release().await.unwrap();
    held.release().await.unwrap();
}
