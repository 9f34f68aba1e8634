//! An address that leads to a standby for a while, a primary that takes no writes for a while, and a planned failover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockkit_core::{Error, FencingToken, Locks};
use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::{Link, PostgresServer, timing};
use tokio::sync::Mutex;

use crate::common::{BOTH, SLACK, by, config, count, gone, join, ms, read_only};

/// How long the driver may pause between two attempts of a call that waits, and a connection take.
const BACK: Duration = ms(2_500);

fn standby_of(primary: &PostgresServer) -> PostgresServer {
    PostgresServer::builder().standby_of(primary.address()).start().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_a_standby_for_a_while_is_an_outage_and_a_waiter_goes_on() {
    let primary = PostgresServer::start().unwrap();
    drop(join(&primary.url(), Strategy::Advisory).await);
    let standby = standby_of(&primary);
    for strategy in BOTH {
        let link = Link::to(primary.address()).unwrap();
        let locks = join(&primary.url_at(link.address()), strategy).await;
        let lock = locks.lock("led").ttl(ms(3_000));
        lock.acquire().await.unwrap().release().await.unwrap();
        let held = locks.lock("held").ttl(ms(20_000)).acquire().await.unwrap();
        link.lead_to(standby.address());
        link.reset().unwrap();
        let waiter = tokio::spawn(lock.acquire());
        for _ in 0..5 {
            let error = lock.try_acquire().await.unwrap_err();
            assert!(matches!(error, Error::Unavailable { .. }), "{strategy:?}: {error}");
            tokio::time::sleep(ms(500)).await;
        }
        assert!(!waiter.is_finished(), "{strategy:?}: {:?}", waiter.await);
        // Connections to the standby live on: they must be given up.
        link.lead_to(primary.address());
        let what = format!("{strategy:?}: the waiter is granted");
        let back = Instant::now();
        let guard = by(BACK * 8, &what, waiter).await.unwrap().unwrap();
        println!(
            "{strategy:?}: granted {:?} after the address leads to the primary",
            back.elapsed()
        );
        guard.release().await.unwrap();
        if strategy == Strategy::Table {
            held.release().await.expect("no lease is tied to a connection");
        }
        lock.try_acquire().await.unwrap().expect("it is free").release().await.unwrap();
        locks.close(ms(3_000)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_takes_no_writes_for_a_while_is_an_outage_and_refuses_who_connects() {
    let server = PostgresServer::start().unwrap();
    for strategy in BOTH {
        let locks = join(&server.url(), strategy).await;
        let [held, lock] = ["held", "wanted"].map(|name| locks.lock(name).ttl(ms(20_000)));
        let guard = held.acquire().await.unwrap();
        read_only(&server, true).await;
        tokio::time::sleep(ms(300)).await;
        let waiter = tokio::spawn(lock.acquire());
        let error = lock.try_acquire().await.unwrap_err();
        assert!(matches!(error, Error::Unavailable { .. }), "{strategy:?}: {error}");
        let refused = PostgresProvider::connect(config(&server.url(), strategy)).await;
        let refused = refused.unwrap_err();
        assert!(matches!(refused, Error::Rejected { .. }), "{refused}");
        let told = refused.to_string();
        assert!(told.contains("default_transaction_read_only"), "{told}");
        assert!(!told.contains("standby"), "{told}");
        tokio::time::sleep(ms(1_500)).await;
        assert!(!waiter.is_finished(), "{strategy:?}: {:?}", waiter.await);
        read_only(&server, false).await;
        let granted = by(BACK, "the waiter is granted", waiter).await.unwrap().unwrap();
        // What was held before lives on.
        guard.release().await.unwrap();
        granted.release().await.unwrap();
        locks.close(ms(3_000)).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_old_primary_that_lives_on_without_writes_is_left_once_the_address_has_moved() {
    for strategy in BOTH {
        let primary = PostgresServer::start().unwrap();
        let link = Link::to(primary.address()).unwrap();
        let locks = join(&primary.url_at(link.address()), strategy).await;
        let [lock, kept] = ["led", "kept"].map(|name| locks.lock(name).ttl(ms(2_000)));
        lock.acquire().await.unwrap().release().await.unwrap();
        let standby = standby_of(&primary);
        // A session that a lock lives on, or a client that beats, has more to lose.
        let held = kept.acquire().await.unwrap();
        let waiter = tokio::spawn(kept.acquire());
        tokio::time::sleep(ms(300)).await;
        standby.sql("SELECT pg_promote()").unwrap();
        read_only(&primary, true).await;
        tokio::time::sleep(ms(200)).await;
        // No connection is lost.
        link.lead_to(standby.address());
        let guard = by(TTL + BACK, "a grant by the new primary", lock.acquire()).await.unwrap();
        let there = match strategy {
            Strategy::Table => "SELECT count(*) FROM lockkit.lease WHERE expires_at > now()",
            _ => "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'",
        };
        assert!(count(&standby, there) > 0, "{strategy:?}: it is the new primary's");
        guard.release().await.unwrap();
        for _ in 0..20 {
            lock.try_acquire().await.unwrap().expect("it is free").release().await.unwrap();
        }
        held.release().await.ok();
        let next = by(TTL + BACK, &format!("{strategy:?}: the waiter"), waiter).await;
        next.unwrap().unwrap().release().await.ok();
        if strategy == Strategy::Advisory {
            let left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockkit'";
            gone(ms(3_000), "the old primary is left", || count(&primary, left) == 0).await;
        }
        locks.close(ms(3_000)).await.unwrap();
    }
}

/// The grants of all tasks: when, and the newest token of each name.
#[derive(Default)]
struct Grants {
    times: Vec<Instant>,
    newest: [Option<FencingToken>; 4],
}

const TTL: Duration = ms(2_000);
/// For how long the address leads to a standby that is not promoted yet.
const STANDBY: Duration = ms(1_000);

/// Takes a name again and again until it is told to stop: no call may fail but a release of what was lost.
async fn work(locks: Locks, n: usize, grants: Arc<Mutex<Grants>>, stop: Arc<AtomicBool>) {
    let lock = locks.lock(["a", "b", "c", "d"][n % 4]).ttl(TTL);
    while !stop.load(Ordering::SeqCst) {
        let guard = lock.acquire().await.unwrap();
        let mut seen = grants.lock().await;
        seen.times.push(Instant::now());
        let newest = &mut seen.newest[n % 4];
        assert!(!guard.is_held() || Some(guard.token()) > *newest, "{newest:?}");
        *newest = (*newest).max(Some(guard.token()));
        drop(seen);
        tokio::time::sleep(ms(20)).await;
        guard.release().await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_ends_no_wait_and_needs_no_new_client() {
    for strategy in BOTH {
        let primary = PostgresServer::start().unwrap();
        let link = Link::to(primary.address()).unwrap();
        let url = primary.url_at(link.address());
        let (grants, stop) = (Arc::<Mutex<Grants>>::default(), Arc::<AtomicBool>::default());
        let mut clients = Vec::new();
        for _ in 0..4 {
            clients.push(join(&url, strategy).await);
        }
        let standby = standby_of(&primary);
        let tasks: Vec<_> = (0..8)
            .map(|n| {
                // The two of a name have different clients.
                let locks = clients[(n + n / 4) % 4].clone();
                tokio::spawn(work(locks, n, Arc::clone(&grants), Arc::clone(&stop)))
            })
            .collect();
        tokio::time::sleep(ms(1_500)).await;

        let began = timing::start();
        primary.shut_down().unwrap();
        link.lead_to(standby.address());
        tokio::time::sleep(STANDBY).await;
        let promoting = Instant::now();
        standby.sql("SELECT pg_promote()").unwrap();
        let promoted = promoting.elapsed();
        // A grant that was told before may be counted a moment later.
        let outage = loop {
            tokio::time::sleep(ms(10)).await;
            let seen = grants.lock().await;
            if let Some(first) = seen.times.iter().find(|at| **at > promoting) {
                break *first - promoting;
            }
            testbed::in_time!(
                began,
                promoting.elapsed() < TTL + Duration::from_secs(8),
                "{strategy:?}: no grant"
            );
            assert!(tasks.iter().all(|task| !task.is_finished()), "{strategy:?}: a task ended");
        };
        println!(
            "{strategy:?}, ttl {TTL:?}: promoted in {promoted:?}, the first grant {outage:?} after \
             the promotion was asked for"
        );
        // The table lets no client in for as long as the longest ttl that was granted without a flush.
        let barrier = if strategy == Strategy::Table { TTL } else { ms(0) };
        testbed::in_time!(
            began,
            outage < promoted + barrier + BACK + SLACK,
            "{strategy:?}: no grant for {outage:?}"
        );
        // All of them go on.
        let before = grants.lock().await.times.len();
        let on = async {
            while grants.lock().await.times.len() < before + 8 {
                tokio::time::sleep(ms(20)).await;
            }
        };
        by(ms(10_000), &format!("{strategy:?}: grants behind {before}"), on).await;
        tokio::time::sleep(ms(1_500)).await;
        stop.store(true, Ordering::SeqCst);
        for task in tasks {
            by(ms(8_000), "a task ends", task).await.unwrap();
        }
    }
}
