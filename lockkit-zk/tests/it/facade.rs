//! ZooKeeper through the facade: by URL, and the quickstart's story on a real server.

use std::time::Duration;

use crate::common::{ms, server};
use lockkit::{Error, Exclusion, connect};
use testbed::quickstart;

#[tokio::test]
async fn a_url_names_the_servers_the_base_the_login_the_layout_and_the_ttl() {
    let server = server();
    let port = server.port();
    let options = "layout=kazoo&tick=500ms&access=creator&ttl=7s";
    let url = format!("zk://billing:pa%3Ass@127.0.0.1:{port},127.0.0.1:{port}/app/locks?{options}");
    let locks = connect(&url).await.unwrap();
    assert_eq!(locks.guarantees().exclusion, Exclusion::Consensus);
    let guard = locks.lock("nightly").acquire().await.unwrap();
    assert_eq!(guard.ttl(), Some(Duration::from_secs(7)));
    let node = guard.native::<lockkit_zk::ZkNode>().unwrap();
    assert!(node.path.starts_with("/app/locks/nightly/"), "{node:?}");
    assert!(node.path.contains("__lock__"), "{node:?}");

    let url = format!("zookeeper://billing:pa%3Ass@127.0.0.1:{port}/app/locks?tick=500ms");
    let other = connect(&url).await.unwrap();
    assert!(other.lock("nightly").try_acquire().await.unwrap().is_none());
    let stranger = connect(&format!("zk://127.0.0.1:{port}/app/locks")).await;
    assert!(matches!(stranger.map(drop), Err(Error::Rejected { .. })));
    guard.release().await.unwrap();
    locks.close(ms(2_000)).await.unwrap();
}

#[test]
fn the_quickstart_tells_the_same_story_on_zookeeper() {
    let server = server();
    let url = format!("zk://127.0.0.1:{}/locks?tick=500ms", server.port());
    quickstart::tells_its_story(&url);
}
