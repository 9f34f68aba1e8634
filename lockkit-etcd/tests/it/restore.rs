//! A cluster that is restored from an older backup, under holders and waiters.

use std::time::Duration;

use crate::common::{SLACK, by, client, join, link_to, ms, queued, since, waiter};
use etcd_client::Client;
use lockkit_core::{Locks, LossReason};
use testbed::log::Log;
use testbed::{EtcdServer, Fault, Link, Way};
use tokio::task::JoinSet;

const TTL: Duration = Duration::from_secs(30);
/// A restart is found by the watch within half a second, and then read once.
const SOON: Duration = ms(1_500);
/// Far fewer than a client sends that asks again without a pause.
const FEW: u64 = 60;

/// Acquires that are given up while their answers are away: each withdrawal touches the session key.
async fn give_up(locks: &Locks, link: &Link, name: &str) {
    link.fault(Way::ToClient, Fault::Hold);
    let mut given_up = JoinSet::new();
    for _ in 0..10 {
        given_up.spawn(locks.lock(name).ttl(TTL).acquire_within(ms(50)));
    }
    tokio::time::sleep(ms(200)).await;
    link.pass().unwrap();
    assert!(given_up.join_all().await.iter().all(Result::is_err));
}

#[tokio::test]
async fn a_restore_from_an_older_backup_ends_holds_and_acquires_work_again_at_once() {
    let log = Log::of_this_thread();
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let (locks, other) = (join(&[link.port()]).await, client(&server).await);
    let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    let freed = locks.lock("freed").ttl(TTL).acquire().await.unwrap();
    let waiting = waiter(&other.lock("held").ttl(TTL), 0).await;
    let snapshot = server.snapshot().unwrap();
    give_up(&locks, &link, "held").await;
    queued(&other.lock("held"), 1).await;
    freed.release().await.unwrap();
    let before = link.counts();
    server.restore(&snapshot).unwrap();

    let reason = by(SOON + SLACK, "the holder is told", held.lost()).await;
    assert_eq!(reason, LossReason::SessionEnded);
    // Its key has come back, on a lease that must not be kept alive.
    let freed = by(SOON + SLACK, "a name that was free", locks.lock("freed").ttl(TTL).acquire());
    freed.await.unwrap().release().await.unwrap();
    let next = by(SOON + SLACK, "the waiter's grant", waiting).await.unwrap();
    assert!(locks.lock("held").ttl(TTL).try_acquire().await.unwrap().is_none());
    next.release().await.unwrap();
    let (calls, ..) = since(&before, &link);
    assert!(calls < FEW, "{calls} calls");

    let text = log.text();
    let told: Vec<_> = text.lines().filter(|line| line.contains("history_went_back")).collect();
    assert_eq!(told.len(), 2, "once for each client: {told:?}");
    assert!(told.iter().all(|line| line.contains("WARN") && line.contains("token_base")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_whose_revision_has_passed_the_old_one_is_found_by_the_session_key() {
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    let snapshot = server.snapshot().unwrap();
    give_up(&locks, &link, "held").await;
    queued(&locks.lock("held"), 0).await;
    let known = server.revision().unwrap();
    link.refuse().unwrap();
    link.reset().unwrap();
    server.restore(&snapshot).unwrap();
    let url = format!("http://{}", server.address());
    let driver = Client::connect([url], None).await.unwrap();
    while server.revision().unwrap() <= known {
        driver.kv_client().put("elsewhere", "", None).await.unwrap();
    }
    let before = link.counts();
    link.pass().unwrap();
    let guard = by(SOON + SLACK, "a grant", locks.lock("b").ttl(TTL).acquire()).await.unwrap();
    by(SLACK, "the holder is told", held.lost()).await;
    let again = by(SLACK, "its name", locks.lock("held").ttl(TTL).acquire()).await.unwrap();
    guard.release().await.unwrap();
    again.release().await.unwrap();
    let (calls, ..) = since(&before, &link);
    assert!(calls < FEW, "{calls} calls");
}
