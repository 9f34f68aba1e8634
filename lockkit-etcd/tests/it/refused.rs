//! A right that is taken away while keys are there: what may not be removed is not kept alive.

use std::time::Duration;

use crate::common::{SLACK, by, link_to, ms, queued};
use lockkit_core::{Clock, Error, LockName, LockProvider, Locks, LossReason, Request};
use lockkit_etcd::{EtcdConfig, EtcdGrant, EtcdProvider};
use testbed::EtcdServer;

const TTL: Duration = ms(2_000);
/// How soon after its ttl an ended lease is gone: etcd looks for them every 500 ms.
const SOON: Duration = ms(1_500);

/// A server with two users, and a client of the first one, whose rights come and go.
struct Rights(EtcdServer);

impl Rights {
    async fn of_two_users() -> (Self, EtcdProvider, Locks) {
        let server = EtcdServer::builder()
            .user("app", "one", "lockkit/")
            .user("peer", "two", "lockkit/")
            .start()
            .unwrap();
        let as_user = |user, password| {
            let config = EtcdConfig::new([("127.0.0.1", server.port())]);
            EtcdProvider::connect(config.login(user, password))
        };
        let app = as_user("app", "one").await.unwrap();
        let peer = Locks::new(as_user("peer", "two").await.unwrap());
        (Self(server), app, peer)
    }

    fn take_away(&self) {
        self.0.cli(&["role", "revoke-permission", "app", "lockkit/", "--prefix"]).unwrap();
    }

    fn give_back(&self) {
        let grant = ["role", "grant-permission", "--prefix", "app", "readwrite", "lockkit/"];
        self.0.cli(&grant).unwrap();
    }
}

fn request(name: &str) -> Request {
    Request::new(LockName::new(name).unwrap(), TTL, Clock::system()).unwrap()
}

fn is_rejected<T>(outcome: &Result<T, Error>) -> bool {
    matches!(outcome, Err(Error::Rejected { .. }))
}

/// A waiter of `app` behind a holder of `peer`, who releases once `app` may do nothing any more and the waiter's
/// withdrawal was refused; the request.
async fn refused_waiter(rights: &Rights, app: &EtcdProvider, peer: &Locks) -> Request {
    let held = peer.lock("a").ttl(ms(30_000)).acquire().await.unwrap();
    let request = request("a");
    let acquiring = tokio::spawn({
        let (app, request) = (app.clone(), request.clone());
        async move { app.acquire(&request).await.map(drop) }
    });
    queued(&peer.lock("a"), 1).await;
    rights.take_away();
    let withdrawn = app.withdraw(&request).await;
    assert!(is_rejected(&withdrawn), "{withdrawn:?}");
    by(SLACK, "the end of the wait", acquiring).await.unwrap().unwrap_err();
    held.release().await.unwrap();
    assert!(peer.lock("a").try_acquire().await.unwrap().is_none(), "the key is still there");
    request
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_be_removed_is_gone_after_a_ttl() {
    let (rights, app, peer) = Rights::of_two_users().await;
    refused_waiter(&rights, &app, &peer).await;
    let guard = by(TTL + SOON + SLACK, "the name", peer.lock("a").acquire()).await.unwrap();
    guard.release().await.unwrap();
    // The same of a holder whose release is refused.
    rights.give_back();
    let grant = app.try_acquire(&request("a")).await.unwrap().unwrap();
    rights.take_away();
    let released = grant.lease.release().await;
    assert!(is_rejected(&released), "{released:?}");
    let guard = by(TTL + SOON + SLACK, "the name", peer.lock("a").acquire()).await.unwrap();
    assert!(guard.token() > grant.token);
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_beside_a_refused_key_lives_on_and_takes_it_along_when_it_ends() {
    let (rights, app, peer) = Rights::of_two_users().await;
    let locks = Locks::new(app.clone());
    let good = locks.lock("good").ttl(TTL).acquire().await.unwrap();
    let request = refused_waiter(&rights, &app, &peer).await;
    tokio::time::sleep(TTL * 2).await;
    testbed::held!(good, "a hold that has nothing to do with it");
    // Whoever comes now has a lease of its own, which nothing refused is on.
    rights.give_back();
    let next = locks.lock("next").ttl(TTL).acquire().await.unwrap();
    let lease = |guard: &lockkit_core::Guard| guard.native::<EtcdGrant>().unwrap().lease;
    assert_ne!(lease(&next), lease(&good));
    // A withdrawal that is repeated once the right is back removes it at once.
    app.withdraw(&request).await.unwrap();
    let guard = by(SLACK, "the name", peer.lock("a").acquire()).await.unwrap();
    guard.release().await.unwrap();
    testbed::held!(good);
    testbed::held!(next);
    // With the last hold on it the lease ends, and what may not be removed with it.
    refused_waiter(&rights, &app, &peer).await;
    tokio::time::sleep(TTL * 2).await;
    assert!(peer.lock("a").try_acquire().await.unwrap().is_none(), "its lease lives for a hold");
    drop(next);
    let guard = by(TTL + SOON + SLACK, "the name", peer.lock("a").acquire()).await.unwrap();
    guard.release().await.unwrap();
    testbed::held!(good);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_right_is_taken_away_is_told_of_its_turn_and_holds() {
    let (rights, app, peer) = Rights::of_two_users().await;
    let held = peer.lock("a").ttl(ms(30_000)).acquire().await.unwrap();
    let waiting = tokio::spawn(Locks::new(app).lock("a").ttl(TTL).acquire());
    queued(&peer.lock("a"), 1).await;
    rights.take_away();
    held.release().await.unwrap();
    let next = by(SLACK, "its grant", waiting).await.unwrap().unwrap();
    tokio::time::sleep(TTL * 2).await;
    testbed::held!(next);
    rights.give_back();
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_at_the_door_leaves_nothing_and_costs_nobody_the_lease() {
    let (rights, app, peer) = Rights::of_two_users().await;
    let locks = Locks::new(app.clone());
    let good = locks.lock("good").ttl(TTL).acquire().await.unwrap();
    rights.take_away();
    for waits in [false, true] {
        let request = request("a");
        let outcome = if waits {
            app.acquire(&request).await.map(Some)
        } else {
            app.try_acquire(&request).await
        };
        assert!(is_rejected(&outcome), "{outcome:?}");
        app.withdraw(&request).await.unwrap();
    }
    rights.give_back();
    let next = locks.lock("next").ttl(TTL).acquire().await.unwrap();
    let lease = |guard: &lockkit_core::Guard| guard.native::<EtcdGrant>().unwrap().lease;
    assert_eq!(lease(&next), lease(&good));
    peer.lock("a").try_acquire().await.unwrap().unwrap().release().await.unwrap();
    good.release().await.unwrap();
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_outlives_a_right_that_is_taken_away_and_a_connection_that_breaks_then() {
    let (rights, _, peer) = Rights::of_two_users().await;
    let link = link_to(rights.0.address());
    let config = EtcdConfig::new([("127.0.0.1", link.port())]).login("app", "one");
    let locks = Locks::new(EtcdProvider::connect(config).await.unwrap());
    let good = locks.lock("good").ttl(TTL).acquire().await.unwrap();
    let gone = locks.lock("gone").ttl(TTL).acquire().await.unwrap();
    rights.take_away();
    let before = link.connections().len();
    link.reset().unwrap();
    tokio::time::sleep(TTL * 3).await;
    testbed::held!(good);
    testbed::held!(gone);
    let connections = link.connections().len() - before;
    println!("{connections} connections in {:?}", TTL * 3);
    assert!(connections <= 2, "it logs in again and again: {connections} connections");
    // Whose key an operator deletes is told, though no watch tells.
    let key = String::from_utf8(gone.native::<EtcdGrant>().unwrap().key.clone()).unwrap();
    rights.0.cli(&["del", &key]).unwrap();
    let reason = by(TTL + SLACK, "a holder is told", gone.lost()).await;
    assert_eq!(reason, LossReason::Removed);
    testbed::held!(good);
    // The right is back: a waiter waits, and a release wakes it.
    rights.give_back();
    let next = tokio::spawn(peer.lock("good").ttl(TTL).acquire());
    queued(&peer.lock("good"), 1).await;
    good.release().await.unwrap();
    by(SLACK, "the next grant", next).await.unwrap().unwrap().release().await.unwrap();
}
