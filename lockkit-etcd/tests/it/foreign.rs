//! A member of another cluster in the list: it takes and frees no lock, and is refused.

use std::time::Duration;

use crate::common::{SLACK, by, client, join, ms};
use lockkit_core::{Error, Locks};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::{Data, EtcdServer, Link, contenders};

const TTL: Duration = Duration::from_secs(30);
const MARK: &str = "lockkit/%/cluster";

/// A server that has the cluster id of every other one with etcd's default settings.
fn of_default_settings() -> EtcdServer {
    EtcdServer::builder()
        .argument("--initial-advertise-peer-urls=http://localhost:2380")
        .argument("--initial-cluster=testbed=http://localhost:2380")
        .start()
        .unwrap()
}

fn at(ports: &[u16]) -> EtcdConfig {
    EtcdConfig::new(ports.iter().map(|port| ("127.0.0.1", *port)))
}

fn is_told<T>(outcome: Result<T, Error>) {
    match outcome.map(drop).unwrap_err() {
        Error::Rejected { what, remedy, .. } => {
            assert!(what.contains("another etcd cluster"), "{what}");
            assert!(remedy.contains("members of one cluster"), "{remedy}");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_clusters_in_one_list_are_refused_at_connect_whether_or_not_their_ids_differ() {
    let pairs = [
        [EtcdServer::start().unwrap(), EtcdServer::start().unwrap()],
        [of_default_settings(), of_default_settings()],
    ];
    for [ours, other] in pairs {
        let both = [ours.port(), other.port()];
        is_told(EtcdProvider::connect(at(&both)).await);
        drop(client(&other).await);
        is_told(EtcdProvider::connect(at(&both)).await);
        contenders::works(EtcdProvider::connect(at(&both[..1])).await.unwrap(), SLACK).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_member_that_turns_up_later_is_refused_and_grants_nothing() {
    for has_mark in [false, true] {
        let (ours, other) = (of_default_settings(), of_default_settings());
        let links = [Link::to(ours.address()).unwrap(), Link::to(other.address()).unwrap()];
        links[1].refuse().unwrap();
        let locks = join(&links.each_ref().map(Link::port)).await;
        let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
        if has_mark {
            drop(client(&other).await);
        }
        links[1].pass().unwrap();
        links[0].refuse().unwrap();
        links[0].reset().unwrap();
        is_told(by(ms(3_000), "an answer", locks.lock("a").ttl(TTL).acquire()).await);
        is_told(by(ms(3_000), "an answer", locks.lock("a").ttl(TTL).try_acquire()).await);
        let left = other.cli(&["get", "--prefix", "--keys-only", "lockkit/a/"]).unwrap();
        assert_eq!(left.trim(), "");
        testbed::held!(held, "the foreign member has ended it");
        links[0].pass().unwrap();
        let guard = by(ms(3_000), "a grant", async {
            loop {
                match locks.lock("a").ttl(TTL).acquire().await {
                    Ok(guard) => return guard,
                    Err(error) => assert!(matches!(error, Error::Rejected { .. }), "{error}"),
                }
                tokio::time::sleep(ms(20)).await;
            }
        });
        guard.await.release().await.unwrap();
        held.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_mark_stays_alone_and_nobody_is_shown_it() {
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let mark = server.cli(&["get", "--print-value-only", MARK]).unwrap();
    let parts: Vec<_> = mark.trim().split(':').collect();
    let [layout, random, base] = parts[..] else { panic!("{mark}") };
    assert!(layout == "2" && random.len() == 32 && base.parse::<u64>().is_ok(), "{mark}");
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    assert!(locks.list("", None, 10).await.unwrap().is_empty());
    assert!(locks.lock("%").inspect().await.unwrap().holders.is_empty());
    locks.close(ms(2_000)).await.unwrap();
    let keys = server.cli(&["get", "--prefix", "--keys-only", ""]).unwrap();
    assert_eq!(keys.trim(), MARK, "closing left more");
    drop(client(&server).await);
    assert_eq!(server.cli(&["get", "--print-value-only", MARK]).unwrap(), mark, "put again");
}

async fn works(locks: &Locks) {
    let guard = by(ms(3_000), "a grant", locks.lock("a").ttl(TTL).acquire()).await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_has_lost_the_mark_with_its_data_goes_on_with_the_same_mark() {
    let server = EtcdServer::start().unwrap();
    let (locks, other) = (client(&server).await, client(&server).await);
    let mark = server.cli(&["get", "--print-value-only", MARK]).unwrap();
    let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    server.restart(Data::Lost).unwrap();
    by(ms(2_500), "the holder is told", held.lost()).await;
    works(&locks).await;
    works(&other).await;
    assert_eq!(server.cli(&["get", "--print-value-only", MARK]).unwrap(), mark);
}
