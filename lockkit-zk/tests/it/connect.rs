//! Logins, refusals and silence at the connection, and that no secret is ever shown.

use std::time::{Duration, Instant};

use crate::common::{SLACK, at, by, ms, server};
use lockkit_core::{Applied, Error, LockProvider, Locks};
use lockkit_zk::{Access, Right, ZkConfig, ZkProvider};
use testbed::Port;
use testbed::log::Log;

/// What no error, no Debug and no log may show.
const SECRET: &str = "c0rrect-horse-battery";
const WRONG: &str = "wr0ng-horse-battery";

#[tokio::test]
async fn a_password_that_is_wrong_is_a_typed_error_and_none_is_ever_shown() {
    let log = Log::of_this_thread();
    let server = server();
    let config = at(server.port()).base("/private").access(Access::Creator);
    let config = config.digest("app", SECRET);
    let provider = ZkProvider::connect(config.clone()).await.unwrap();
    let shown = format!("{config:?} {provider:?} {provider:#?} {:?}", provider.guarantees());
    assert!(!shown.contains(SECRET), "{shown}");
    let locks = Locks::new(provider);
    let guard = locks.lock("a").acquire().await.unwrap();

    for config in [
        at(server.port()).base("/private"),
        at(server.port()).base("/private").digest("app", WRONG),
        at(server.port()).base("/private").digest("nobody", SECRET),
    ] {
        let shown = format!("{config:?}");
        let error = ZkProvider::connect(config).await.map(drop).unwrap_err();
        println!("{error}");
        assert!(
            matches!(&error, Error::Rejected { remedy, .. } if remedy.contains("login")),
            "{error:?}"
        );
        let shown = format!("{shown} {error} {error:?}");
        assert!(!shown.contains(WRONG) && !shown.contains(SECRET), "{shown}");
    }
    // The same login shares the locks.
    let other = at(server.port()).base("/private").access(Access::Creator).digest("app", SECRET);
    let other = Locks::new(ZkProvider::connect(other).await.unwrap());
    assert!(other.lock("a").try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    other.lock("a").acquire().await.unwrap().release().await.unwrap();
    // A scheme that the server does not know.
    let unknown = at(server.port()).login("secret-handshake", SECRET);
    let error = ZkProvider::connect(unknown).await.map(drop).unwrap_err();
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");

    let logged = log.text();
    assert!(logged.contains("granted"), "nothing was logged: {logged}");
    assert!(!logged.contains(SECRET) && !logged.contains(WRONG), "{logged}");
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
async fn a_server_that_is_not_there_is_an_error_within_the_limit() {
    const LIMIT: Duration = ms(2_000);
    let port = Port::free().unwrap();
    for host in ["127.0.0.1", "nowhere.invalid"] {
        let began = Instant::now();
        let config = ZkConfig::new([format!("{host}:{}", port.number())]).digest("app", SECRET);
        let outcome = by(LIMIT + SLACK, "an answer", ZkProvider::connect(config)).await;
        let error = outcome.map(drop).unwrap_err();
        println!("{host}: {error} after {:?}", began.elapsed());
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        assert!(error.is_retryable() && !format!("{error:?}").contains(SECRET));
        if host == "127.0.0.1" {
            assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
        }
    }
    // One that takes connections and says nothing; beside it, two that answer.
    let (silent, server) = (server(), server());
    silent.pause().unwrap();
    let outcome = by(LIMIT + SLACK, "an answer", ZkProvider::connect(at(silent.port()))).await;
    assert!(matches!(outcome.map(drop), Err(Error::Unavailable { .. })));
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
