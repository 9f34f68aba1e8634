//! Shared locks under the strategy "advisory": beside psql, many of one client, and over objects of before them.

use futures_util::future::join_all;
use lockkit_core::{LockName, LossReason};
use lockkit_postgres::{PostgresProvider, Strategy};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};
use testbed::PostgresServer;

use crate::common::{SLACK, advisory, by, config, count, gone, join, key_of, ms, until};

/// What a client of before shared locks made, as recorded at commit 4817be8.
const BEFORE: &str = include_str!("../layouts/2_before_shared.sql");
/// How many wait for an advisory lock.
const WAITING: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";

/// Another program's session.
async fn other(server: &PostgresServer) -> PgConnection {
    PgConnection::connect(&server.url()).await.unwrap()
}

/// What it is told of a function of the server's about the key of `a`.
async fn says(session: &mut PgConnection, function: &str) -> bool {
    let sql = format!("SELECT {function}({})", key_of("a"));
    sqlx::query(AssertSqlSafe(sql)).fetch_one(session).await.unwrap().get(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_locks_of_other_programs_and_ours_are_held_together_and_keep_writers_out() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let (lock, mut other) = (locks.lock("a"), other(&server).await);
    assert!(says(&mut other, "pg_try_advisory_lock_shared").await);
    let guard = lock.clone().shared().try_acquire().await.unwrap().expect("both share");
    assert!(lock.try_acquire().await.unwrap().is_none());
    assert!(says(&mut other, "pg_advisory_unlock_shared").await);
    assert!(!says(&mut other, "pg_try_advisory_lock").await, "beside a reader of ours");
    guard.release().await.unwrap();
    assert!(says(&mut other, "pg_try_advisory_lock").await);
    assert!(lock.clone().shared().try_acquire().await.unwrap().is_none());
    let waiter = tokio::spawn(lock.clone().shared().acquire());
    until(SLACK * 8, "it waits", || count(&server, WAITING) == 1).await;
    assert!(says(&mut other, "pg_advisory_unlock").await);
    let guard = by(ms(5_000), "the reader's grant", waiter).await.unwrap().unwrap();
    guard.release().await.unwrap();
    gone(ms(5_000), "a lock", || advisory(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_readers_of_a_client_share_one_lock_of_the_server_and_the_last_one_frees_it() {
    const READERS: usize = 50;
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (
        join(&server.url(), Strategy::Advisory).await,
        join(&server.url(), Strategy::Advisory).await,
    );
    let shared = ours.lock("a").shared().ttl(ms(15_000));
    let before = theirs.lock("a").acquire().await.unwrap();
    let token = before.token();
    let readers: Vec<_> = (0..READERS).map(|_| tokio::spawn(shared.acquire())).collect();
    until(SLACK * 8, "the first waits", || count(&server, WAITING) == 1).await;
    before.release().await.unwrap();
    let readers = join_all(readers).await.into_iter().map(|reader| reader.unwrap().unwrap());
    let mut readers: Vec<_> = readers.collect();
    assert!(readers.iter().all(|reader| reader.token() > token));
    assert_eq!(advisory(&server), 1);
    let last = readers.pop().unwrap();
    for reader in readers {
        reader.renew().await.unwrap();
        reader.release().await.unwrap();
    }
    assert!(theirs.lock("a").try_acquire().await.unwrap().is_none());
    last.renew().await.unwrap();
    let token = last.token();
    last.release().await.unwrap();
    let writer = theirs.lock("a").try_acquire().await.unwrap().expect("free");
    assert!(writer.token() > token);
    writer.release().await.unwrap();
    gone(ms(5_000), "a lock", || advisory(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_joins_no_others_of_its_client_while_a_writer_of_another_one_waits() {
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (
        join(&server.url(), Strategy::Advisory).await,
        join(&server.url(), Strategy::Advisory).await,
    );
    let shared = ours.lock("a").shared().ttl(ms(15_000));
    let held = shared.acquire().await.unwrap();
    shared.try_acquire().await.unwrap().expect("beside it").release().await.unwrap();
    let writer = tokio::spawn(theirs.lock("a").ttl(ms(15_000)).acquire());
    until(SLACK * 8, "it waits", || count(&server, WAITING) == 1).await;
    assert!(shared.try_acquire().await.unwrap().is_none(), "past a writer that waits");
    let behind = tokio::spawn(shared.acquire());
    until(SLACK * 8, "it waits too", || count(&server, WAITING) == 2).await;
    held.release().await.unwrap();
    let writer = by(ms(5_000), "the writer's grant", writer).await.unwrap().unwrap();
    assert!(!behind.is_finished());
    let token = writer.token();
    writer.release().await.unwrap();
    let behind = by(ms(5_000), "the reader's grant", behind).await.unwrap().unwrap();
    assert!(behind.token() > token);
    behind.release().await.unwrap();
    gone(ms(5_000), "a lock", || advisory(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_their_session_is_told_to_all_readers_that_share_its_lock() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let shared = locks.lock("a").shared().ttl(ms(15_000));
    let readers = [shared.acquire().await.unwrap(), shared.acquire().await.unwrap()];
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    server.sql(end).unwrap();
    for reader in readers {
        assert_eq!(by(ms(5_000), "the loss", reader.lost()).await, LossReason::SessionEnded);
        reader.release().await.unwrap_err();
    }
    let next = by(ms(5_000), "the next grant", locks.lock("a").acquire()).await.unwrap();
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_and_writers_in_one_client_leave_no_lock_whenever_they_leave() {
    let server = PostgresServer::start().unwrap();
    let provider =
        PostgresProvider::connect(config(&server.url(), Strategy::Advisory)).await.unwrap();
    let locks = lockkit_core::Locks::new(provider);
    let tasks = (0..16_u64).map(|task| {
        let lock = locks.lock("a").ttl(ms(15_000));
        tokio::spawn(async move {
            for round in 0..25 {
                let lock =
                    if (task + round) % 3 == 0 { lock.clone() } else { lock.clone().shared() };
                // Some leave while they ask, or wait.
                let limit = ms(if (task + round) % 4 == 0 { round % 7 } else { 15_000 });
                if let Ok(guard) = lock.acquire_within(limit).await {
                    guard.release().await.unwrap();
                }
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        by(ms(60_000), "a task's end", task).await.unwrap();
    }
    gone(ms(10_000), "a lock", || advisory(&server) == 0).await;
    locks.lock("a").try_acquire().await.unwrap().expect("free").release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_before_shared_locks_get_what_advisory_ones_need() {
    let server = PostgresServer::start().unwrap();
    server.sql(BEFORE).unwrap();
    let with = config(&server.url(), Strategy::Advisory);
    let refused = PostgresProvider::connect(with.clone().creates(false)).await.unwrap_err();
    assert!(refused.to_string().contains("migration_sql"), "{refused}");
    let provider = PostgresProvider::connect(with).await.unwrap();
    let name = LockName::new("a").unwrap();
    let locks = lockkit_core::Locks::new(provider);
    let held = locks.lock(name.as_str()).shared().acquire().await.unwrap();
    assert!(locks.lock(name.as_str()).try_acquire().await.unwrap().is_none());
    held.release().await.unwrap();
}
