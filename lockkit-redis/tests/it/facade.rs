//! Redis through the facade: by URL, and the quickstart's story on a real server.

use std::time::Duration;

use lockkit::{Error, Exclusion, connect};
#[cfg(feature = "tls")]
use testbed::{ClientCertificate, certificates::Certificates};
use testbed::{RedisServer, quickstart};

#[tokio::test]
async fn a_url_names_the_login_the_database_the_prefix_and_the_ttl() {
    let server = RedisServer::builder().user("billing", "on >pa:ss ~* &* +@all").start().unwrap();
    let port = server.port();
    let url = format!("redis://billing:pa%3Ass@127.0.0.1:{port}/3?prefix=app:&ttl=7s");
    let locks = connect(&url).await.unwrap();
    assert_eq!(locks.guarantees().exclusion, Exclusion::OneServer);
    let guard = locks.lock("nightly").acquire().await.unwrap();
    assert_eq!(guard.ttl(), Some(Duration::from_secs(7)));
    let mut client = server.client().unwrap();
    client.command(&["SELECT", "3"]).unwrap();
    assert_eq!(client.command(&["EXISTS", "app:nightly"]).unwrap().integer(), Some(1));
    guard.release().await.unwrap();

    let unix = format!("redis+unix://{}?database=3&prefix=app:", server.socket().display());
    let other = connect(&unix).await.unwrap();
    let _held = other.lock("nightly").acquire().await.unwrap();
    assert!(locks.lock("nightly").try_acquire().await.unwrap().is_none());
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_shown_nowhere() {
    let server = RedisServer::builder().password("correct").start().unwrap();
    let url = format!("redis://:hunter2@127.0.0.1:{}/", server.port());
    let error = connect(&url).await.expect_err("a wrong password");
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn the_quickstart_tells_the_same_story_on_redis() {
    let server = RedisServer::start().unwrap();
    quickstart::tells_its_story(&server.url());
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn a_url_names_the_authority_and_our_own_certificate() {
    let certificates = Certificates::new().unwrap();
    let server =
        RedisServer::builder().tls(&certificates, ClientCertificate::Required).start().unwrap();
    let port = server.tls_address().unwrap().port();
    let (ca, other_ca) = (certificates.ca(), certificates.other_ca());
    let (cert, key) = (certificates.client_certificate(), certificates.client_key());
    let ours = format!("cert={}&key={}", cert.display(), key.display());
    let url = |options: &str| format!("rediss://localhost:{port}/?ttl=7s&{options}");
    let locks = connect(&url(&format!("ca={}&{ours}", ca.display()))).await.unwrap();
    let guard = locks.lock("nightly").acquire().await.unwrap();
    assert_eq!(server.cli(&["EXISTS", "nightly"]).unwrap().integer(), Some(1));
    guard.release().await.unwrap();
    // Without our own, and where another authority is trusted.
    for options in [format!("ca={}", ca.display()), format!("ca={}&{ours}", other_ca.display())] {
        let error = connect(&url(&options)).await.map(drop).unwrap_err();
        assert!(matches!(&error, Error::Rejected { .. }), "{options}: {error:?}");
    }
}
