//! What befalls a cluster in operation: silent members, no space, no runtime, errors that an operator reads.

use std::net::TcpListener;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use crate::common::{SLACK, by, client, ms};
use lockkit_core::{Applied, Error, Locks};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::{EtcdServer, Port, contenders};

const TTL: Duration = ms(3_000);
const SECRET: &str = "c0rrect-horse-battery";

/// An address where connections are taken and nothing is ever said.
fn silent() -> (TcpListener, u16) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn at(ports: &[u16]) -> EtcdConfig {
    EtcdConfig::new(ports.iter().map(|port| ("127.0.0.1", *port)))
}

#[tokio::test]
async fn the_first_two_of_three_members_are_silent_and_connecting_succeeds_at_once() {
    let server = EtcdServer::start().unwrap();
    let (first, second) = (silent(), silent());
    for login in [false, true] {
        let config = at(&[first.1, second.1, server.port()]);
        if login {
            // The driver logs in as it connects: there is no client to ask before that.
            server.cli(&["user", "add", "root:root"]).unwrap();
            server.cli(&["user", "grant-role", "root", "root"]).unwrap();
            server.cli(&["auth", "enable"]).unwrap();
        }
        let config = if login { config.login("root", "root") } else { config };
        let provider = by(ms(4_000), "a client", EtcdProvider::connect(config)).await.unwrap();
        contenders::works(provider, SLACK).await;
    }
}

#[tokio::test]
async fn a_connect_without_an_answer_has_taken_no_effect_and_names_the_members() {
    let (first, second) = (silent(), silent());
    let config = at(&[first.1, second.1]).login("app", SECRET);
    let error = by(ms(5_000), "an answer", EtcdProvider::connect(config)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error}");
    let config = at(&[first.1, second.1]);
    let error = by(ms(5_000), "an answer", EtcdProvider::connect(config)).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { applied: Applied::No, .. }), "{error}");
    println!("{error}");
    let names = [first.1, second.1].map(|port| error.to_string().contains(&format!(":{port}")));
    assert_eq!(names, [true; 2], "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_outlasts_a_quota_that_is_used_up() {
    let server = EtcdServer::builder().argument("--quota-backend-bytes=1000000").start().unwrap();
    let locks = client(&server).await;
    let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    let ended = locks.lock("ended").ttl(TTL).acquire().await.unwrap();
    let value = "x".repeat(100_000);
    while server.cli(&["put", "filler", &value]).is_ok() {}
    // A try says what to do.
    let tried = locks.lock("a").ttl(TTL).try_acquire().await.map(drop);
    assert!(
        matches!(&tried, Err(Error::Rejected { remedy, .. }) if remedy.contains("defragment")),
        "{tried:?}"
    );
    let waiting = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
    let limited = locks.lock("b").ttl(TTL).acquire_within(ms(1_000)).await.map(drop).unwrap_err();
    assert!(matches!(limited, Error::Unavailable { .. }), "{limited}");
    assert!(limited.to_string().contains("defragment"), "{limited}");
    assert!(!waiting.is_finished(), "{:?}", waiting.await);
    held.renew().await.unwrap();
    ended.release().await.unwrap();
    server.cli(&["del", "filler"]).unwrap();
    server.compact().unwrap();
    server.cli(&["defrag"]).unwrap();
    server.cli(&["alarm", "disarm"]).unwrap();
    let guard = by(ms(3_000) + SLACK, "the waiter's grant", waiting).await.unwrap().unwrap();
    guard.release().await.unwrap();
    held.release().await.unwrap();
}

#[test]
fn outside_a_runtime_connecting_says_so_and_does_not_panic() {
    let mut connecting = pin!(EtcdProvider::connect(at(&[2379])));
    let polled = connecting.as_mut().poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(polled, Poll::Ready(Err(Error::NoRuntime))), "{polled:?}");
}

/// Fails where an error of the driver's shows in its own form, or a secret in any.
fn is_plain(error: &Error, member: u16) {
    let text = error.to_string();
    println!("{text}");
    for nested in
        ["MetadataMap", "Status {", "details:", "grpc request error", "{", "Some(", SECRET]
    {
        assert!(!text.contains(nested), "{nested}: {text}");
    }
    assert!(text.contains(&format!("127.0.0.1:{member}")), "no member is named: {text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_the_member_in_plain_words() {
    let server = EtcdServer::builder().user("app", SECRET, "other/").start().unwrap();
    let port = server.port();
    let connect = |config| async move { EtcdProvider::connect(config).await.map(drop) };
    let gone = Port::free().unwrap();
    is_plain(&connect(at(&[gone.number()])).await.unwrap_err(), gone.number());
    let wrong = connect(at(&[port]).login("app", "wr0ng")).await.unwrap_err();
    is_plain(&wrong, port);
    assert!(!wrong.to_string().contains("wr0ng"), "{wrong}");
    is_plain(&connect(at(&[port]).login("app", SECRET)).await.unwrap_err(), port);
    is_plain(&connect(at(&[port])).await.unwrap_err(), port);
    let (_listener, silent) = silent();
    is_plain(&connect(at(&[silent]).login("app", SECRET)).await.unwrap_err(), silent);
    // In use: the member goes, and a right does.
    let config = at(&[port]).login("app", SECRET).prefix("other");
    let locks = Locks::new(EtcdProvider::connect(config).await.unwrap());
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    server.cli(&["role", "revoke-permission", "app", "other/", "--prefix"]).unwrap();
    is_plain(&locks.lock("a").try_acquire().await.unwrap_err(), port);
    server.kill().unwrap();
    is_plain(&locks.lock("a").try_acquire().await.unwrap_err(), port);
}
