//! etcd through the facade: by URL, and the quickstart's story on a real server.

use std::time::Duration;

use lockkit::{Error, Exclusion, connect};
use testbed::{EtcdServer, quickstart};

#[tokio::test(flavor = "multi_thread")]
async fn a_url_names_the_members_the_login_the_prefix_and_the_ttl() {
    let server = EtcdServer::builder().user("billing", "pa:ss", "app/locks/").start().unwrap();
    let port = server.port();
    // The second member is not there.
    let url = format!("etcd://billing:pa%3Ass@127.0.0.1:{port},localhost:1/app/locks?ttl=7s");
    let locks = connect(&url).await.unwrap();
    assert_eq!(locks.guarantees().exclusion, Exclusion::Consensus);
    let guard = locks.lock("nightly/1").acquire().await.unwrap();
    assert_eq!(guard.ttl(), Some(Duration::from_secs(7)));
    let keys = server.cli(&["get", "--prefix", "--keys-only", "app/locks/nightly%2F1/"]).unwrap();
    assert_eq!(keys.lines().filter(|line| !line.is_empty()).count(), 1, "{keys}");
    let based = connect(&format!("{url}&token_base=1000000")).await.unwrap();
    assert!(based.lock("nightly/1").try_acquire().await.unwrap().is_none());
    guard.release().await.unwrap();
    let guard = based.lock("nightly/1").acquire().await.unwrap();
    assert!(guard.token().as_u64() > 1_000_000);
    guard.release().await.unwrap();
    for locks in [locks, based] {
        locks.close(Duration::from_secs(2)).await.unwrap();
    }
    let keys = server.cli(&["get", "--prefix", "--keys-only", "app/locks/"]).unwrap();
    assert_eq!(keys.trim(), "", "closing left keys");
}

#[tokio::test]
async fn a_wrong_password_is_refused_and_shown_nowhere() {
    let server = EtcdServer::builder().user("app", "correct", "lockkit/").start().unwrap();
    let url = format!("etcd://app:hunter2@127.0.0.1:{}/", server.port());
    let error = connect(&url).await.expect_err("a wrong password");
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[test]
fn the_quickstart_tells_the_same_story_on_etcd() {
    let server = EtcdServer::start().unwrap();
    quickstart::tells_its_story(&format!("etcd://127.0.0.1:{}", server.port()));
}
