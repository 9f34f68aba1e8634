//! What errors say of the servers: where they are, and why they let no client in.

use std::error::Error as _;

use crate::common::session::BACK;
use crate::common::{SLACK, TICK, at, by, join, ms, provider, request, server};
use lockkit_core::{Applied, Error, LockProvider, Locks};
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::{Port, ZkServer};

/// What no error may show.
const SECRET: &str = "c0rrect-horse-battery";

/// Why these servers let no client in.
async fn refusal(config: ZkConfig) -> Error {
    let connect = ZkProvider::connect(config.digest("app", SECRET));
    let error = by(BACK, "an answer", connect).await.map(drop).unwrap_err();
    println!("{error}");
    assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    error
}

#[track_caller]
fn says(error: &Error, words: &[&str]) {
    let text = error.to_string();
    assert!(words.iter().all(|word| text.contains(word)), "{text}");
}

#[tokio::test]
async fn a_host_without_an_address_and_a_refused_connection_are_told_apart_and_named() {
    let port = Port::free().unwrap();
    let refused = format!("127.0.0.1:{}", port.number());
    let both = ["nowhere.invalid:2181", &refused];
    let error = refusal(ZkConfig::new(both).tick(TICK)).await;
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
    let [unknown, refused] = both.map(|address| format!("{address}: no "));
    says(&error, &[&format!("{unknown}address"), &format!("{refused}connection"), "refused"]);
    let Error::Unavailable { cause, .. } = &error else { panic!("{error:?}") };
    assert!(cause.source().is_some(), "{cause:?}");
}

#[tokio::test]
async fn a_server_that_is_silent_or_at_its_limit_of_clients_is_told_as_such() {
    let limited = ZkServer::builder().tick(TICK).line("maxClientCnxns=1").start().unwrap();
    let _only = crate::common::spectator(&limited).await;
    let error = refusal(at(limited.port())).await;
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error:?}");
    says(&error, &["maxClientCnxns", &limited.port().to_string()]);
    let silent = server();
    silent.pause().unwrap();
    let error = refusal(at(silent.port())).await;
    says(&error, &["does not answer", &silent.port().to_string()]);
    silent.resume().unwrap();
}

#[tokio::test]
async fn a_call_that_fails_in_an_outage_names_the_servers() {
    let server = server();
    let ours = provider(at(server.port()).digest("app", SECRET)).await;
    let first = request("a", ms(2_000));
    let grant = ours.try_acquire(&first).await.unwrap().unwrap();
    server.kill().unwrap();
    let address = format!("127.0.0.1:{}", server.port());
    let another = request("b", ms(3_000));
    let failed = by(BACK, "an answer", ours.try_acquire(&another)).await.map(drop).unwrap_err();
    let released = by(BACK, "an answer", grant.lease.release()).await.unwrap_err();
    let renewed = by(BACK, "an answer", grant.lease.renew()).await.map(drop).unwrap_err();
    let seen = ours.operator().unwrap().inspect(first.name()).await.map(drop).unwrap_err();
    for error in [failed, released, renewed, seen] {
        println!("{error}");
        assert!(matches!(error, Error::Unavailable { .. }), "{error:?}");
        says(&error, &[&address]);
        assert!(!format!("{error} {error:?}").contains(SECRET), "{error:?}");
    }
}

#[test]
fn connecting_outside_a_runtime_is_an_error_and_no_panic() {
    let connect = ZkProvider::connect(at(1));
    let error = futures_util::future::FutureExt::now_or_never(connect).expect("an answer at once");
    assert!(matches!(error.map(drop), Err(Error::NoRuntime)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_closed_may_be_closed_once_more() {
    let server = server();
    let ours = provider(at(server.port())).await;
    let grant = ours.try_acquire(&request("a", ms(2_000))).await.unwrap().unwrap();
    for _ in 0..2 {
        by(SLACK, "an end", ours.close()).await.unwrap();
    }
    drop(grant);
    let next = join(server.port()).await.lock("a").try_acquire().await.unwrap();
    next.expect("the session has ended").release().await.unwrap();
    let locks = Locks::new(provider(at(server.port())).await);
    locks.close(SLACK).await.unwrap();
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_to_a_plain_port_and_a_plain_client_at_a_tls_port_are_refused_with_the_remedy() {
    use lockkit_zk::ZkTls;
    use testbed::ClientCertificate;
    use testbed::certificates::Certificates;

    let certificates = Certificates::new().unwrap();
    let builder = ZkServer::builder().tick(TICK).line("maxClientCnxns=0");
    let server = builder.tls(&certificates, ClientCertificate::NotAsked).start().unwrap();
    let secure = server.tls_address().unwrap().port();
    let tls = || ZkTls::file(certificates.ca());
    let error = refusal(at(secure)).await;
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    says(&error, &["without TLS", "clientPort", "ca", &secure.to_string()]);
    let error = refusal(at(server.port()).tls(tls())).await;
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    says(&error, &["without TLS", "secureClientPort", &server.port().to_string()]);
    // A server without TLS at all, which takes connections by other means.
    let plain = crate::common::server();
    let error = refusal(at(plain.port()).tls(tls())).await;
    assert!(matches!(error, Error::Rejected { .. }), "{error:?}");
    says(&error, &["without TLS", "secureClientPort", &plain.port().to_string()]);
}
