//! What the strategy "advisory" promises beside the suite: its tokens, the server's log, and full servers.

use std::time::Duration;

use futures_util::future::join_all;
use lockkit_core::{Clock, Error, LockName, LockProvider, Locks, Request};
use lockkit_postgres::{PostgresProvider, Strategy};
use sqlx::{Connection, PgConnection};
use testbed::log::Log;
use testbed::{PostgresServer, in_time, timing};

use crate::common::{SLACK, advisory, by, config, connections, gone, join, ms, until};

/// What an older version made, in the schema "old".
const OBJECTS: &str = include_str!("../layouts/1_objects.sql");

async fn in_schema(server: &PostgresServer, schema: &str) -> Locks {
    let config = config(&server.url(), Strategy::Advisory).schema(schema);
    Locks::new(PostgresProvider::connect(config).await.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_of_a_name_grow_whatever_the_schema_of_its_clients() {
    let server = PostgresServer::start().unwrap();
    let clients = [in_schema(&server, "one").await, in_schema(&server, "two").await];
    let mut last = None;
    for round in 0..20 {
        let guard = clients[round % 2].lock("shared").acquire().await.unwrap();
        assert!(Some(guard.token()) > last, "{} after {last:?}", guard.token());
        last = Some(guard.token());
        assert!(clients[1 - round % 2].lock("shared").try_acquire().await.unwrap().is_none());
        guard.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_with_a_counter_of_its_own_is_refused_until_it_has_joined_the_database_s() {
    let server = PostgresServer::start().unwrap();
    let objects = OBJECTS.replace("lockkit.", "old.");
    server.sql(&objects.replace("IF NOT EXISTS lockkit", "IF NOT EXISTS old")).unwrap();
    // Its clients have seen seven crashes, and the database's counter none.
    server.sql("UPDATE old.epoch SET number = 7; SELECT setval('old.token', 1000)").unwrap();
    let before = (7 << 42) + 1_000;
    let config = config(&server.url(), Strategy::Advisory).schema("old");
    let refused = PostgresProvider::connect(config.clone()).await.unwrap_err();
    let Error::Rejected { what, remedy, .. } = &refused else { panic!("{refused}") };
    assert!(what.contains("old") && remedy.contains("migration_sql()"), "{refused}");
    for _ in 0..2 {
        server.sql(&config.migration_sql()).unwrap();
    }
    let guard = in_schema(&server, "old").await.lock("a").acquire().await.unwrap();
    assert!(guard.token().as_u64() > before, "{} after {before}", guard.token());
    let other = join(&server.url(), Strategy::Advisory).await.lock("b").acquire().await.unwrap();
    assert!(other.token() > guard.token());
    // An older client is refused: its tokens would go back.
    let old = server.sql("SELECT nextval('old.token')").unwrap_err().to_string();
    assert!(old.contains("does not exist"), "{old}");
}

#[tokio::test(flavor = "multi_thread")]
async fn cycles_cancels_idle_times_and_closes_leave_no_complaint_in_the_servers_log() {
    let (server, began) = (PostgresServer::start().unwrap(), timing::start());
    let url = server.url();
    let clients = join_all((0..4).map(|_| join(&url, Strategy::Advisory))).await;
    let work = clients.iter().enumerate().map(|(number, locks)| async move {
        for round in 0..150_u64 {
            let lock = locks.lock("busy").ttl(ms(10_000));
            // Some leave before their turn.
            let limit = ms(if (round + number as u64).is_multiple_of(5) { 3 } else { 10_000 });
            if let Ok(guard) = lock.acquire_within(limit).await {
                guard.release().await.unwrap();
            }
            // Names that are held for longer than a wait's slice are waited for by two more.
            if round == 50 {
                let held = lock.acquire().await.unwrap();
                let late = locks.lock("busy").ttl(ms(10_000)).acquire_within(ms(1));
                assert!(late.await.is_err());
                tokio::time::sleep(ms(2_500)).await;
                held.release().await.unwrap();
            }
        }
        // Idle for longer than the ttl of what it held.
        locks.lock("short").ttl(ms(300)).try_acquire().await.unwrap();
        tokio::time::sleep(ms(1_000)).await;
    });
    join_all(work).await;
    for locks in &clients {
        locks.close(ms(5_000)).await.unwrap();
    }
    gone(SLACK * 4, "every connection", || connections(&server) == 0).await;
    let log = server.log();
    let complains =
        |line: &&str| ["WARNING:", "ERROR:", "FATAL:"].iter().any(|what| line.contains(what));
    let complaints: Vec<_> = log.lines().filter(complains).collect();
    // What had no answer in time is cancelled.
    in_time!(began, complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test]
async fn a_close_in_order_tells_of_no_loss() {
    let log = Log::of_this_thread();
    let (server, began) = (PostgresServer::start().unwrap(), timing::start());
    let locks = join(&server.url(), Strategy::Advisory).await;
    let held = locks.lock("held").acquire().await.unwrap();
    let waits = tokio::spawn(locks.lock("held").acquire());
    tokio::time::sleep(ms(100)).await;
    locks.close(ms(5_000)).await.unwrap();
    assert!(waits.await.unwrap().is_err() && !held.is_held());
    let text = log.text();
    let complaints: Vec<_> = text.lines().filter(|line| line.contains("WARN")).collect();
    assert!(text.contains("granted"), "{text}");
    in_time!(began, complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_server_takes_no_more_connections_locks_live_on_and_others_are_granted() {
    let server = PostgresServer::builder().setting("max_connections", 12).start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let held = locks.lock("held").ttl(ms(1_500)).acquire().await.unwrap();
    let mut others = Vec::new();
    while let Ok(other) = PgConnection::connect(&server.url()).await {
        others.push(other);
    }
    // Another ttl, for which a connection of its own would be made.
    let shorter = locks.lock("shorter").ttl(ms(1_000)).acquire_within(ms(3_000)).await.unwrap();
    let names: Vec<_> = (0..20).map(|n| locks.lock(format!("more/{n}")).ttl(ms(1_500))).collect();
    let more = join_all(names.iter().map(lockkit_core::Lock::try_acquire)).await;
    assert!(more.iter().all(|tried| matches!(tried, Ok(Some(_)))), "{more:?}");
    // Longer than their ttls: they are renewed.
    tokio::time::sleep(ms(2_500)).await;
    testbed::held!(held);
    testbed::held!(shorter);
    let waits = tokio::spawn(locks.lock("held").ttl(ms(1_500)).acquire());
    tokio::time::sleep(ms(100)).await;
    held.release().await.unwrap();
    drop(by(SLACK * 3, "the next grant", waits).await.unwrap().unwrap());
    for other in others {
        other.close().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_try_beside_a_waiter_that_leaves_is_told_what_the_server_says() {
    let server = PostgresServer::start().unwrap();
    let ours = PostgresProvider::connect(config(&server.url(), Strategy::Advisory)).await.unwrap();
    let theirs = join(&server.url(), Strategy::Advisory).await;
    let (name, ttl) = (LockName::new("left").unwrap(), Duration::from_secs(10));
    let request = || Request::new(name.clone(), ttl, Clock::system()).unwrap();
    for round in 0..20 {
        let held = theirs.lock("left").ttl(ttl).acquire().await.unwrap();
        let (client, waiting) = (ours.clone(), request());
        let leaving = waiting.clone();
        let waits = tokio::spawn(async move { client.acquire(&waiting).await });
        until(SLACK * 4, "it waits in the server", || advisory(&server) == 2).await;
        let beside = ours.try_acquire(&request()).await.unwrap();
        assert!(beside.is_none(), "round {round}: another client holds it");
        let leaves = ours.withdraw(&leaving);
        let tries = async {
            held.release().await.unwrap();
            ours.try_acquire(&request()).await.unwrap()
        };
        let (left, tried) = tokio::join!(leaves, tries);
        left.unwrap();
        assert!(waits.await.unwrap().is_err());
        let tried = tried.expect("only a waiter that leaves is there");
        tried.lease.release().await.unwrap();
    }
}
