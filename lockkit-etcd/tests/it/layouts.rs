//! What clients of each layout so far have left in a cluster, and a newer layout.

use std::time::SystemTime;

use etcd_client::{Client, LeaseGrantOptions, PutOptions};
use lockkit_core::{Error, FencingToken, Locks};
use lockkit_etcd::{EtcdConfig, EtcdGrant, EtcdProvider};
use testbed::{Data, EtcdServer};

use crate::common::{SLACK, by, client, ms, queued};

const MARK: &str = "lockkit/%/cluster";
/// The mark in the recording, and the same of a newer layout.
const RECORDED: &str = "c4677ef5bf7f1a6f744fbe2bc14674e1";
const RAISED: &str = "3:c4677ef5bf7f1a6f744fbe2bc14674e1";
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
    let error = outcome.map(drop).unwrap_err();
    assert!(matches!(error, Error::Rejected { .. }), "{error}");
    let text = error.to_string();
    let says = ["holds layout 3, newer", "upgrade this program", "another prefix"];
    assert!(says.iter().all(|words| text.contains(words)), "{text}");
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

/// The text of the mark.
fn mark(server: &EtcdServer) -> String {
    server.cli(&["get", "--print-value-only", MARK]).unwrap().trim().to_owned()
}

async fn token(locks: &Locks) -> u64 {
    let guard = locks.lock("a").acquire().await.unwrap();
    let token = guard.token().as_u64();
    let native = u64::try_from(guard.native::<EtcdGrant>().unwrap().create_revision).unwrap();
    let seen = locks.lock("a").inspect().await.unwrap();
    assert_eq!(seen.holders[0].token, Some(guard.token()));
    assert!(token >= native);
    guard.release().await.unwrap();
    token
}

fn micros() -> u64 {
    u64::try_from(SystemTime::UNIX_EPOCH.elapsed().unwrap().as_micros()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tokens_of_a_new_store_begin_at_the_time_of_its_first_use_and_all_clients_agree() {
    let server = EtcdServer::start().unwrap();
    // Whatever else was done in this cluster.
    for _ in 0..20 {
        server.cli(&["put", "other/key", "x"]).unwrap();
    }
    let before = micros();
    let clients = tokio::join!(client(&server), client(&server), client(&server));
    let first = token(&clients.0).await;
    // Each revision is one more.
    assert!(first >= before && first <= micros() + 1_000, "{before}, {first}");
    let [second, third] = [token(&clients.1).await, token(&clients.2).await];
    assert!(first < second && second < third, "{first}, {second}, {third}");
    assert!(third < first + 1_000, "all have one base: {first}, {third}");
    assert!(mark(&server).starts_with("2:"), "{}", mark(&server));
    server.restart(Data::Kept).unwrap();
    let later = token(&client(&server).await).await;
    assert!(later > third && later < third + 1_000, "the base stays: {third}, {later}");
    // An operator's base counts where it is the greater one.
    let based = |base| EtcdConfig::new([("127.0.0.1", server.port())]).token_base(base);
    let lower = Locks::new(EtcdProvider::connect(based(1_000_000)).await.unwrap());
    let same = token(&lower).await;
    assert!(same > later && same < later + 1_000, "{later}, {same}");
    let higher = Locks::new(EtcdProvider::connect(based(4_000_000_000_000_000)).await.unwrap());
    let raised = token(&higher).await;
    assert!((4_000_000_000_000_000..4_000_000_000_001_000).contains(&raised), "{raised}");
    let guard = higher.lock("a").acquire().await.unwrap();
    assert!(higher.lock("a").revoke(guard.token()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_in_use_keeps_its_tokens_and_its_layout() {
    let (server, _) = recorded().await;
    let token = token(&client(&server).await).await;
    assert!((13..1_000).contains(&token), "{token}");
    assert_eq!(mark(&server), RECORDED);
    let server = EtcdServer::start().unwrap();
    server.cli(&["put", MARK, "1:c4677ef5bf7f1a6f744fbe2bc14674e1"]).unwrap();
    let token = self::token(&client(&server).await).await;
    assert!(token < 1_000, "{token}");
    assert!(mark(&server).starts_with("1:"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recorded_base_is_what_tokens_are_above_their_revisions() {
    // As the first client of this layout put it.
    let recorded = "2:42f2a7be38eac847391cf032830dc47b:1795984141368917";
    let server = EtcdServer::start().unwrap();
    server.cli(&["put", MARK, recorded]).unwrap();
    let locks = client(&server).await;
    let guard = locks.lock("a").acquire().await.unwrap();
    let native = u64::try_from(guard.native::<EtcdGrant>().unwrap().create_revision).unwrap();
    assert_eq!(guard.token().as_u64(), 1_795_984_141_368_917 + native);
    guard.release().await.unwrap();
    assert_eq!(mark(&server), recorded);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_without_a_readable_base_is_refused() {
    let server = EtcdServer::start().unwrap();
    for mark in ["2:c4677ef5bf7f1a6f744fbe2bc14674e1", "2:c46:x", "2:c46:99999999999999999999"] {
        server.cli(&["put", MARK, mark]).unwrap();
        let outcome = EtcdProvider::connect(EtcdConfig::new([("127.0.0.1", server.port())])).await;
        let error = outcome.map(drop).unwrap_err();
        assert!(matches!(error, Error::Rejected { .. }), "{error}");
        assert!(error.to_string().contains(MARK), "{error}");
    }
}
