//! What is ZooKeeper's own where a client connects; `testbed/tests/it/stores` has what every store
//! does alike.

use std::time::Duration;

use crate::common::{SLACK, at, by, ms, server};
use lockkit_core::{Error, Locks};
use lockkit_zk::{Access, Right, ZkConfig, ZkProvider};

/// What no error may show.
const SECRET: &str = "c0rrect-horse-battery";

#[tokio::test]
async fn the_same_login_shares_the_locks() {
    let server = server();
    let client = || {
        let config = at(server.port()).base("/private").access(Access::Creator);
        ZkProvider::connect(config.digest("app", SECRET))
    };
    let (locks, other) = (Locks::new(client().await.unwrap()), Locks::new(client().await.unwrap()));
    let guard = locks.lock("a").acquire().await.unwrap();
    assert!(other.lock("a").try_acquire().await.unwrap().is_none());
    // Another user's is another login, whatever its password.
    let nobody = at(server.port()).base("/private").digest("nobody", SECRET);
    let error = ZkProvider::connect(nobody).await.map(drop).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    assert!(
        matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("login")),
        "{error:?}"
    );
    guard.release().await.unwrap();
    other.lock("a").acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_scheme_that_the_server_does_not_know_is_refused_and_its_secret_not_shown() {
    let server = server();
    let unknown = at(server.port()).login("secret-handshake", SECRET);
    let error = ZkProvider::connect(unknown).await.map(drop).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
}

#[tokio::test]
async fn the_digest_of_a_password_is_never_shown() {
    // A hash as servers keep it.
    const DIGEST: &str = "hWkuoIaRKqLxJMMvIfBFxZSyOIg=";
    let server = server();
    let rights = Access::Only(vec![
        Right::new("digest", format!("app:{DIGEST}"), "cdrwa"),
        Right::new("ip", "127.0.0.1", "cdrwa"),
    ]);
    let config = at(server.port()).base("/shared").access(rights.clone());
    let provider = ZkProvider::connect(config.clone()).await.unwrap();
    let shown = format!("{rights:?} {config:?} {provider:?} {provider:#?}");
    assert!(shown.contains("digest") && !shown.contains(DIGEST), "{shown}");
    Locks::new(provider).lock("a").acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test]
async fn a_server_that_says_nothing_is_passed_over_for_one_that_answers() {
    const LIMIT: Duration = ms(2_000);
    let (silent, server) = (server(), server());
    silent.pause().unwrap();
    let three = [&silent, &server, &server].map(|server| server.address().to_string());
    for _ in 0..6 {
        let config = ZkConfig::new(three.clone()).tick(crate::common::TICK);
        by(LIMIT + SLACK, "a connection", ZkProvider::connect(config)).await.unwrap();
    }
}

#[tokio::test]
async fn a_tick_that_no_session_fits_is_refused() {
    let server = server();
    let error = ZkProvider::connect(at(server.port()).tick(ms(30_000))).await;
    let error = error.map(drop).unwrap_err();
    assert!(matches!(&error, Error::Invalid { what, .. } if what.contains("40s")), "{error:?}");
}
