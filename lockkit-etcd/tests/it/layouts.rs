//! What clients of each layout so far have left in a cluster, and a newer layout.

use etcd_client::{Client, LeaseGrantOptions, PutOptions};
use lockkit_core::{Error, FencingToken};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::EtcdServer;
use testbed::contenders::refused_for_its_layout;

use crate::common::{SLACK, by, client, ms, queued};

const MARK: &str = "lockkit/%/cluster";
/// The mark in the recording, and the same of a newer layout.
const RECORDED: &str = "c4677ef5bf7f1a6f744fbe2bc14674e1";
const RAISED: &str = "2:c4677ef5bf7f1a6f744fbe2bc14674e1";
/// The leases of the recorded holder and waiter.
const LEASES: [i64; 2] = [0x4cf9_a225_c977_0d0f, 0x4cf9_a225_c977_0d15];

/// A server that holds the recording, at the same revisions.
async fn recorded() -> (EtcdServer, Client) {
    let server = EtcdServer::start().unwrap();
    let mut driver = Client::connect([format!("http://{}", server.address())], None).await.unwrap();
    for lease in LEASES {
        driver.lease_grant(60, Some(LeaseGrantOptions::new().with_id(lease))).await.unwrap();
    }
    let text = include_str!("../layouts/1.txt");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let [revision, key, value, lease] = line.split('|').collect::<Vec<_>>()[..] else {
            panic!("{line}");
        };
        let revision: i64 = revision.parse().unwrap();
        while server.revision().unwrap() < revision - 1 {
            driver.put("filler", "", None).await.unwrap();
        }
        let lease = i64::from_str_radix(lease, 16);
        let options = lease.ok().map(|lease| PutOptions::new().with_lease(lease));
        driver.put(key, value, options).await.unwrap();
        assert_eq!(server.revision().unwrap(), revision, "{line}");
    }
    (server, driver)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_holder_and_waiter_go_first_and_later_tokens_are_greater() {
    let (server, mut driver) = recorded().await;
    let locks = client(&server).await;
    let lock = locks.lock("held");
    assert!(lock.try_acquire().await.unwrap().is_none());
    let seen = lock.inspect().await.unwrap();
    assert_eq!((&*seen.holders[0].label, seen.waiters), ("recorded holder", Some(1)));
    assert_eq!(seen.holders[0].token, Some(FencingToken::new(10).unwrap()));
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 2).await;
    driver.lease_revoke(LEASES[0]).await.unwrap();
    tokio::time::sleep(ms(500)).await;
    assert!(!waiting.is_finished(), "granted before the recorded waiter");
    let seen = lock.inspect().await.unwrap();
    assert_eq!((&*seen.holders[0].label, seen.waiters), ("recorded waiter", Some(1)));
    driver.lease_revoke(LEASES[1]).await.unwrap();
    let next = by(SLACK, "a grant", waiting).await.unwrap().unwrap();
    assert!(next.token().as_u64() > 12, "{}", next.token());
    next.release().await.unwrap();
    let next = locks.lock("released").try_acquire().await.unwrap().expect("free");
    assert!(next.token().as_u64() > 12, "{}", next.token());
    next.release().await.unwrap();
    // The mark without a number stays as it is.
    assert_eq!(server.cli(&["get", "--print-value-only", MARK]).unwrap().trim(), RECORDED);
}

/// The refusal of a newer layout, with what to do.
fn is_told<T>(outcome: Result<T, Error>) {
    refused_for_its_layout(&outcome.map(drop).unwrap_err(), "", "prefix");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_is_refused_at_connect_and_by_each_acquire_of_a_connected_client() {
    let (server, _) = recorded().await;
    let connected = client(&server).await;
    let ttl = ms(3_000);
    let held = connected.lock("mine").ttl(ttl).acquire().await.unwrap();
    let keys = || server.cli(&["get", "--prefix", "--keys-only", "lockkit/a/"]).unwrap();
    server.cli(&["put", MARK, RAISED]).unwrap();
    is_told(EtcdProvider::connect(EtcdConfig::new([("127.0.0.1", server.port())])).await);
    is_told(by(ms(3_000), "an answer", connected.lock("a").acquire()).await);
    is_told(by(ms(3_000), "an answer", connected.lock("a").try_acquire()).await);
    assert_eq!(keys().trim(), "");
    // Its members are asked nothing more, so that its holds end by their deadlines.
    by(ttl + SLACK, "the holder is told", held.lost()).await;
    assert_eq!(server.cli(&["get", "--print-value-only", MARK]).unwrap().trim(), RAISED);
}
