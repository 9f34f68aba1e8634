//! What happens to the server: ended backends, crashes, and a standby that is promoted.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;
use std::time::{Duration, Instant};

use common::{BOTH, SLACK, advisory, by, config, connections, join, key_of, ms, until};
use lockkit_core::{FencingToken, LockName, LossReason};
use lockkit_postgres::{PostgresProvider, Strategy};
use sqlx::{Connection, PgConnection};
use testbed::children::{self, Child};
use testbed::{Data, PostgresServer};
use tokio::sync::Mutex;

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_backend_is_a_loss_within_a_second() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    for round in 0..5 {
        let guard = locks.lock("held").ttl(Duration::from_secs(30)).acquire().await.unwrap();
        let next = tokio::spawn(locks.lock("held").acquire());
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_locks \
            WHERE locktype = 'advisory' AND granted";
        server.sql(ended).unwrap();
        let terminated = Instant::now();
        let reason = by(ms(1_000), "the holder is told", guard.lost()).await;
        println!("round {round}: told after {:?}", terminated.elapsed());
        assert_eq!(reason, LossReason::SessionEnded);
        assert!(!guard.is_held());
        let next = by(ms(2_000), "the next one is granted", next).await.unwrap().unwrap();
        assert!(next.token() > guard.token());
        assert!(guard.release().await.is_err());
        next.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_stopped_loses_its_lock_and_knows_it_when_it_wakes() {
    const TEST: &str = "a_holder_that_is_stopped_loses_its_lock_and_knows_it_when_it_wakes";
    let ttl = ms(1_500);
    if let Some(role) = children::role() {
        let (strategy, url) = role.split_once(' ').unwrap();
        let strategy = if strategy == "table" { Strategy::Table } else { Strategy::Advisory };
        let guard = join(url, strategy).await.lock("held").ttl(ttl).acquire().await.unwrap();
        children::say(&guard.token().to_string());
        // Asked without a pause, so that the first answer after the stop is seen.
        while guard.is_held() {
            std::thread::yield_now();
        }
        children::say("lost");
        children::wait_for_the_end();
    }
    let server = PostgresServer::start().unwrap();
    for (strategy, name) in [(Strategy::Advisory, "advisory"), (Strategy::Table, "table")] {
        let child = Child::test(TEST, &format!("{name} {}", server.url())).start().unwrap();
        let token: FencingToken = child.line(Duration::from_secs(20)).unwrap().parse().unwrap();
        let locks = join(&server.url(), strategy).await;
        let next = tokio::spawn(locks.lock("held").acquire());
        tokio::time::sleep(ms(300)).await;
        child.pause().unwrap();
        let stopped = Instant::now();
        let next = by(ttl + ms(1_500), "the next one is granted", next).await.unwrap().unwrap();
        println!("{name}: freed by the server after {:?}", stopped.elapsed());
        assert!(next.token() > token);
        child.resume().unwrap();
        assert_eq!(child.line(Duration::from_secs(5)).unwrap(), "lost");
        assert!(next.is_held());
        next.release().await.unwrap();
        child.kill().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_of_the_server_bring_no_token_back_and_end_no_wait() {
    const KILLS: usize = 50;
    let server = PostgresServer::builder()
        .setting("wal_writer_delay", "10s")
        .setting("checkpoint_timeout", "1h")
        .start()
        .unwrap();
    let server = Arc::new(server);
    server.sql("ALTER ROLE testbed SET synchronous_commit = off").unwrap();
    let advisory = config(&server.url(), Strategy::Advisory);
    let transactions = PostgresProvider::connect(advisory).await.unwrap();
    // The newest token of each name, and how many there were.
    let newest: Arc<Mutex<[(u64, usize); 3]>> = Arc::default();
    let mut tasks = Vec::new();
    for strategy in BOTH {
        let locks = join(&server.url(), strategy).await;
        for _ in 0..3 {
            let (lock, newest) = (locks.lock("loaded").ttl(ms(1_000)), Arc::clone(&newest));
            let slot = usize::from(strategy == Strategy::Table);
            tasks.push(tokio::spawn(async move {
                loop {
                    // It waits through every crash.
                    let guard = lock.acquire().await.unwrap();
                    let token = guard.token().as_u64();
                    {
                        let mut newest = newest.lock().await;
                        let (last, count) = newest[slot];
                        if guard.is_held() {
                            assert!(token > last, "{token} after {last} ({strategy:?})");
                            newest[slot] = (token, count + 1);
                        } else {
                            newest[slot] = (token.max(last), count + 1);
                        }
                    }
                    guard.release().await.ok();
                }
            }));
        }
    }
    // The transaction form, in transactions that are left open as the server dies.
    let (url, seen) = (server.url(), Arc::clone(&newest));
    tasks.push(tokio::spawn(async move {
        let name = LockName::new("transaction").unwrap();
        loop {
            let Ok(mut connection) = PgConnection::connect(&url).await else {
                tokio::time::sleep(ms(20)).await;
                continue;
            };
            while let Ok(mut transaction) = connection.begin().await {
                let Ok(token) = transactions.lock_in(&mut transaction, &name).await else { break };
                let mut newest = seen.lock().await;
                let (last, count) = newest[2];
                assert!(token.as_u64() > last, "{token} after {last} (transaction)");
                newest[2] = (token.as_u64(), count + 1);
                drop(newest);
                if count % 2 == 0 && transaction.commit().await.is_err() {
                    break;
                }
            }
        }
    }));
    let mut before = [0; 3];
    for kill in 0..KILLS {
        tokio::time::sleep(ms(60 + 7 * (kill as u64 % 11))).await;
        let again = Arc::clone(&server);
        tokio::task::spawn_blocking(move || again.restart(Data::Kept).unwrap()).await.unwrap();
        if kill % 10 == 9 {
            let now = newest.lock().await.map(|(_, count)| count);
            println!("after {} kills: {now:?} grants", kill + 1);
        }
    }
    // All go on after the last one.
    let counts = || async { newest.lock().await.map(|(_, count)| count) };
    before.copy_from_slice(&counts().await);
    let began = Instant::now();
    loop {
        let now = counts().await;
        if (0..3).all(|n| now[n] > before[n]) {
            break;
        }
        assert!(began.elapsed() < Duration::from_secs(10), "{before:?} became {now:?} only");
        tokio::time::sleep(ms(20)).await;
    }
    for task in tasks {
        assert!(!task.is_finished(), "{:?}", task.await);
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_and_the_old_primary_are_two_servers_as_declared() {
    let primary = PostgresServer::start().unwrap();
    for strategy in BOTH {
        assert!(!PostgresProvider::declared(strategy).token_survives.failover);
    }
    let mut held = Vec::new();
    for strategy in BOTH {
        let locks = join(&primary.url(), strategy).await;
        held.push(locks.lock("held").ttl(Duration::from_secs(30)).acquire().await.unwrap());
    }
    let standby = PostgresServer::builder().standby_of(primary.address()).start().unwrap();
    // A standby takes no locks, and says what to do.
    for strategy in BOTH {
        let refused = PostgresProvider::connect(config(&standby.url(), strategy)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("recovery") && refused.contains("primary"), "{refused}");
    }
    standby.sql("SELECT pg_promote()").unwrap();
    let old = join(&primary.url(), Strategy::Advisory).await;
    let new = join(&standby.url(), Strategy::Advisory).await;
    // Nothing ties the two together: both grant. What was granted before the promotion is older.
    let there = new.lock("held").acquire().await.unwrap();
    assert!(held[0].is_held() && there.is_held());
    assert!(there.token() > held[0].token());
    let late = old.lock("late").acquire().await.unwrap();
    assert!(there.token() > late.token(), "the promotion began an epoch of its own");
    // A lease is a row, and has been copied: it holds on both until it is renewed no more.
    let table = join(&standby.url(), Strategy::Table).await;
    assert!(table.lock("held").try_acquire().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn futures_dropped_after_any_time_leave_no_ghost_and_no_stuck_connection() {
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (
        join(&server.url(), Strategy::Advisory).await,
        join(&server.url(), Strategy::Advisory).await,
    );
    let ttl = Duration::from_secs(30);
    for round in 0..120_u64 {
        let limit = Duration::from_micros(round * 61 % 4_000);
        let guard = ours.lock("dropped").ttl(ttl).acquire().await.unwrap();
        drop(tokio::time::timeout(limit, theirs.lock("dropped").ttl(ttl).acquire()).await);
        drop(tokio::time::timeout(limit, theirs.lock("other").ttl(ttl).acquire()).await);
        assert!(guard.is_held());
        guard.release().await.unwrap();
    }
    until(ms(1_000), "no ghost", || advisory(&server) == 0).await;
    let guard = by(SLACK, "it is free", theirs.lock("dropped").acquire()).await.unwrap();
    assert_eq!(
        server.sql(&format!("SELECT pg_try_advisory_lock({})", key_of("dropped"))).unwrap(),
        "f"
    );
    guard.release().await.unwrap();
    let stuck = "SELECT count(*) FROM pg_stat_activity \
        WHERE application_name = 'lockkit' AND state <> 'idle'";
    until(ms(1_000), "no connection is stuck", || common::count(&server, stuck) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_left_of_a_client_that_was_closed() {
    let server = PostgresServer::start().unwrap();
    let mut closed = Vec::new();
    for round in 0..10 {
        let locks = join(&server.url(), BOTH[round % 2]).await;
        let guard = locks.lock("closed").acquire().await.unwrap();
        let waiter = tokio::spawn(locks.lock("closed").acquire());
        tokio::time::sleep(ms(20)).await;
        locks.close(ms(3_000)).await.unwrap();
        assert!(!guard.is_held() && waiter.await.unwrap().is_err());
        closed.push(locks);
    }
    let none = || connections(&server) == 0;
    until(ms(5_000), "all connections are closed", none).await;
    // And none is made anew, to look after those that were cut.
    tokio::time::sleep(ms(700)).await;
    assert!(none(), "{} connections", connections(&server));
}
