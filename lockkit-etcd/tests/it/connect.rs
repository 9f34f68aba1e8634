//! What is etcd's own where a client connects; `testbed/tests/it/stores` has what every store does
//! alike.

use std::time::Duration;

use crate::common::{SLACK, by, ms, waiter};
use lockkit_core::{Error, Locks};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::{EtcdServer, Fault, Link, Port, Way, contenders};

const SECRET: &str = "c0rrect-horse-battery";

fn at(server: &EtcdServer) -> EtcdConfig {
    EtcdConfig::new([("127.0.0.1", server.port())])
}

/// Why a connection is refused for good, and what to do about it.
async fn refused(config: EtcdConfig) -> (String, String) {
    let outcome = by(ms(5_000), "an answer", EtcdProvider::connect(config)).await;
    match outcome.map(drop).unwrap_err() {
        Error::Rejected { what, remedy, .. } => (what, remedy),
        other => panic!("{other:?}"),
    }
}

async fn works(config: EtcdConfig) {
    contenders::works(EtcdProvider::connect(config).await.unwrap(), SLACK).await;
}

#[tokio::test]
async fn a_user_without_rights_is_told_which_to_grant() {
    let server = EtcdServer::builder().user("app", SECRET, "other/").start().unwrap();
    let (what, remedy) = refused(at(&server).login("app", SECRET)).await;
    assert!(what.contains("permission") && remedy.contains("readwrite"), "{what}; {remedy}");
    works(at(&server).login("app", SECRET).prefix("other")).await;
}

#[tokio::test]
async fn a_login_where_nobody_wants_one_is_refused() {
    let server = EtcdServer::start().unwrap();
    let (what, remedy) = refused(at(&server).login("app", SECRET)).await;
    assert!(remedy.contains("leave the login out"), "{what}; {remedy}");
    works(at(&server)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_has_expired_is_renewed_and_costs_nobody_a_lock() {
    let server = EtcdServer::builder()
        .user("app", SECRET, "lockkit/")
        .argument("--auth-token-ttl=1")
        .start()
        .unwrap();
    let provider = EtcdProvider::connect(at(&server).login("app", SECRET)).await.unwrap();
    let locks = Locks::new(provider);
    let lock = locks.lock("a").ttl(ms(3_000));
    let guard = lock.acquire().await.unwrap();
    let next = waiter(&lock, 0).await;
    tokio::time::sleep(ms(6_000)).await;
    testbed::held!(guard);
    guard.release().await.unwrap();
    by(SLACK, "the next grant", next).await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_a_members_expired_login_refuses_is_opened_with_a_new_one() {
    const TTL: Duration = ms(60_000);
    let server = EtcdServer::builder()
        .user("app", SECRET, "lockkit/")
        .argument("--auth-token-ttl=1")
        .start()
        .unwrap();
    let holder = Locks::new(EtcdProvider::connect(at(&server).login("app", SECRET)).await.unwrap());
    let held = holder.lock("a").ttl(TTL).acquire().await.unwrap();
    let links = [Link::to(server.address()).unwrap(), Link::to(server.address()).unwrap()];
    let members = links.iter().map(|link| ("127.0.0.1", link.port()));
    let config = EtcdConfig::new(members).login("app", SECRET);
    let locks = Locks::new(EtcdProvider::connect(config).await.unwrap());
    let next = waiter(&locks.lock("a").ttl(TTL), 0).await;
    // Slow, each in turn: both members have a client, and the first one is the current one.
    for link in &links {
        link.fault(Way::ToClient, Fault::Hold);
        let slow = tokio::spawn(locks.lock("b").ttl(TTL).acquire_within(ms(1_700)));
        tokio::time::sleep(ms(1_200)).await;
        link.deliver();
        drop(slow.await.unwrap());
    }
    // A client that only waits asks nothing that would renew its logins.
    tokio::time::sleep(ms(3_000)).await;
    links[0].reset().unwrap();
    tokio::time::sleep(ms(1_000)).await;
    held.release().await.unwrap();
    by(ms(2_000), "the waiter's grant", next).await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_member_that_is_silent_or_not_there_is_passed_over() {
    let (stuck, other) = (EtcdServer::start().unwrap(), EtcdServer::start().unwrap());
    stuck.pause().unwrap();
    let gone = Port::free().unwrap();
    let both = EtcdConfig::new([("127.0.0.1", stuck.port()), ("127.0.0.1", other.port())]);
    works(both).await;
    let both = EtcdConfig::new([("127.0.0.1", gone.number()), ("127.0.0.1", other.port())]);
    works(both).await;
}

#[tokio::test]
async fn what_is_no_address_is_invalid() {
    for host in ["", "http://host", "ho st", "host/path", "user@host"] {
        let error = EtcdProvider::connect(EtcdConfig::new([(host, 2379)])).await.map(drop);
        assert!(matches!(error, Err(Error::Invalid { .. })), "{host}: {error:?}");
    }
    let based = EtcdConfig::new([("localhost", 1)]).token_base(u64::MAX / 2);
    let error = EtcdProvider::connect(based).await.map(drop).unwrap_err();
    assert!(
        matches!(&error, Error::Invalid { what, .. } if what.contains("token_base")),
        "{error}"
    );
    let none: [(&str, u16); 0] = [];
    let error = EtcdProvider::connect(EtcdConfig::new(none)).await.map(drop);
    assert!(matches!(error, Err(Error::Invalid { .. })), "{error:?}");
}
