//! What clients of each layout so far have left in a server, and a newer layout.

use std::process::{Child, Stdio};
use std::time::Instant;

use lockkit_core::Error;
use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::PostgresServer;
use testbed::contenders::refused_for_its_layout;

use crate::common::{BOTH, SLACK, by, config, count, gone, join, key_of, ms};

const OBJECTS: &str = include_str!("../layouts/1_objects.sql");
const TABLE: &str = include_str!("../layouts/1_table.sql");
const ADVISORY: &str = include_str!("../layouts/1_advisory.sql");

/// The key of `held`, as two halves, and the last token under the strategy "advisory".
const KEY: i64 = 2_126_441_487 << 32 | 658_852_145;
const TOKEN: u64 = 4_398_046_511_106;

fn recorded(rows: &str) -> PostgresServer {
    let server = PostgresServer::start().unwrap();
    server.sql(OBJECTS).unwrap();
    server.sql(rows).unwrap();
    server
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_layout_1_are_refused_until_they_are_migrated_and_keep_their_end_and_their_token() {
    let (left, life) = (ms(5_000), ms(1_800));
    let rows = TABLE.replace("<left>", &left.as_millis().to_string());
    let server = recorded(&rows.replace("<life>", &life.as_millis().to_string()));
    let began = Instant::now();
    let config = config(&server.url(), Strategy::Table);
    let refused = PostgresProvider::connect(config.clone()).await.unwrap_err();
    let Error::Rejected { what, remedy, .. } = &refused else { panic!("{refused}") };
    assert!(what.contains("layout 1") && remedy.contains("migration_sql()"), "{refused}");
    assert!(server.sql(&config.setup_sql()).is_err(), "the new functions over the old tables");

    server.sql(&config.migration_sql()).unwrap();
    let old =
        "SELECT lockkit.acquire('held', '7da6d6eaf243ea13f1297c5b9edbb243', 1, 1, NULL, '', true)";
    let refused = server.sql(old).unwrap_err().to_string();
    assert!(refused.contains("newer than this program"), "{refused}");
    server.sql(&config.setup_sql()).unwrap();

    let locks = join(&server.url(), Strategy::Table).await;
    let lock = locks.lock("held").ttl(ms(3_000));
    assert!(lock.try_acquire().await.unwrap().is_none());
    let seen = lock.inspect().await.unwrap();
    assert_eq!((&*seen.holders[0].label, seen.waiters), ("recorded holder", Some(0)));
    assert_eq!(seen.holders[0].token.unwrap().as_u64(), 1);
    let next = by(ms(7_000) + SLACK, "a grant", lock.acquire()).await.unwrap();
    // The server may have begun to count before this test did.
    assert!(began.elapsed() + ms(200) >= left, "granted beside the recorded holder");
    assert!(next.token().as_u64() > 1);
    next.release().await.unwrap();
    let next = locks.lock("released").try_acquire().await.unwrap().expect("free");
    assert!(next.token().as_u64() > 1);
    next.release().await.unwrap();
}

/// A session that takes the lock of `held`, or waits for it.
fn session(server: &PostgresServer) -> Child {
    let mut psql = server.psql().unwrap();
    psql.args(["-c", &format!("SELECT pg_advisory_lock({KEY})"), "-c", "SELECT pg_sleep(60)"]);
    psql.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

/// How many sessions hold the lock, or wait for it.
fn locks_of(server: &PostgresServer, granted: bool) -> usize {
    let held = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 2126441487";
    count(server, &format!("{held} AND objid = 658852145 AND granted = {granted}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_of_a_recorded_holder_and_waiter_go_first_and_later_tokens_are_greater() {
    assert_eq!(key_of("held"), KEY);
    let server = recorded(ADVISORY);
    let mut sessions = Vec::new();
    for granted in [true, false] {
        sessions.push(session(&server));
        gone(ms(5_000), "a missing lock", || locks_of(&server, granted) == 1).await;
    }
    let locks = join(&server.url(), Strategy::Advisory).await;
    let lock = locks.lock("held");
    assert!(lock.try_acquire().await.unwrap().is_none());
    let waiting = tokio::spawn(lock.acquire());
    gone(ms(5_000), "our wait not begun", || locks_of(&server, false) == 2).await;
    let end =
        "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND granted";
    server.sql(end).unwrap();
    gone(ms(5_000), "the recorded waiter", || locks_of(&server, false) == 1).await;
    tokio::time::sleep(ms(300)).await;
    assert!(!waiting.is_finished(), "granted before the recorded waiter");
    server.sql(end).unwrap();
    let next = by(ms(1_000) + SLACK, "a grant", waiting).await.unwrap().unwrap();
    assert!(next.token().as_u64() > TOKEN, "{}", next.token());
    next.release().await.unwrap();
    for mut session in sessions {
        session.wait().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_is_refused_at_connect_by_both_strategies_and_another_database_is_not() {
    let server = recorded(ADVISORY);
    let newer = "CREATE OR REPLACE FUNCTION lockkit.lockkit_version() RETURNS int LANGUAGE sql \
        IMMUTABLE AS 'SELECT 2'";
    server.sql(newer).unwrap();
    server.sql("CREATE DATABASE other").unwrap();
    for strategy in BOTH {
        let error = PostgresProvider::connect(config(&server.url(), strategy)).await.unwrap_err();
        refused_for_its_layout(&error, "schema lockkit holds layout 2, newer", "database");
        let other = server.url().replace("/postgres", "/other");
        drop(PostgresProvider::connect(config(&other, strategy)).await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_layout_of_the_table_is_refused_and_advisory_locks_are_not() {
    let server = PostgresServer::start().unwrap();
    drop(join(&server.url(), Strategy::Table).await);
    let newer = "CREATE OR REPLACE FUNCTION lockkit.table_layout() RETURNS int LANGUAGE sql \
        IMMUTABLE AS 'SELECT 3'";
    server.sql(newer).unwrap();
    let table = config(&server.url(), Strategy::Table);
    let error = PostgresProvider::connect(table).await.unwrap_err();
    assert!(error.to_string().contains("schema lockkit holds layout 3, newer"), "{error}");
    drop(join(&server.url(), Strategy::Advisory).await);
}
