//! Statements that fail, or take long, once they have taken a lock: it stays with no session.

use std::time::Duration;

use crate::common::{SLACK, advisory, by, gone, join, key_of, ms, until};
use lockkit_core::{Error, FencingToken, Guard, Locks};
use lockkit_postgres::{PostgresProvider, Strategy};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use testbed::{Link, PostgresServer};

const TTL: Duration = Duration::from_secs(5);

/// The server has no token left; or has all of them again.
fn exhaust(server: &PostgresServer, is_exhausted: bool) {
    let last = "SELECT max(nextval('lockkit.token')) FROM generate_series(1, 2)";
    let most = if is_exhausted { server.sql(last).unwrap() } else { "4398046511103".to_owned() };
    server.sql(&format!("ALTER SEQUENCE lockkit.token MAXVALUE {most}")).unwrap();
}

/// A lock on the shared session, which its renewals keep.
async fn neighbour(locks: &Locks) -> Guard {
    locks.lock("neighbour").ttl(TTL).acquire().await.unwrap()
}

async fn is_free_but_for_the_neighbour(server: &PostgresServer, name: &str) {
    gone(ms(1_000), "only the neighbour's lock is left", || advisory(server) == 1).await;
    let free = format!("SELECT pg_try_advisory_lock({})", key_of(name));
    assert_eq!(server.sql(&free).unwrap(), "t", "{name}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_attempt_that_fails_once_it_has_the_lock_leaves_none_on_the_shared_session() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let neighbour = neighbour(&locks).await;
    exhaust(&server, true);
    let failed = locks.lock("a").ttl(TTL).try_acquire().await.unwrap_err();
    assert!(failed.to_string().contains("reached maximum value"), "{failed}");
    is_free_but_for_the_neighbour(&server, "a").await;
    exhaust(&server, false);
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    assert!(guard.token() > neighbour.token());
    testbed::held!(neighbour);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_that_fails_once_it_has_the_lock_leaves_none_either() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let other = join(&server.url(), Strategy::Advisory).await;
    let neighbour = neighbour(&locks).await;
    let held = other.lock("a").ttl(TTL).acquire().await.unwrap();
    let waiter = tokio::spawn(locks.lock("a").ttl(TTL).acquire_within(ms(4_000)));
    until(SLACK * 4, "it waits in the server", || advisory(&server) == 3).await;
    exhaust(&server, true);
    held.release().await.unwrap();
    by(ms(4_000) + SLACK, "an answer", waiter).await.unwrap().unwrap_err();
    is_free_but_for_the_neighbour(&server, "a").await;
    // Nor does a hand-off, whose tokens are drawn by whoever releases.
    exhaust(&server, false);
    let held = locks.lock("b").ttl(TTL).acquire().await.unwrap();
    let waiter = tokio::spawn(locks.lock("b").ttl(TTL).acquire_within(ms(1_500)));
    tokio::time::sleep(ms(200)).await;
    exhaust(&server, true);
    held.release().await.unwrap();
    by(ms(4_000) + SLACK, "an answer", waiter).await.unwrap().unwrap_err();
    is_free_but_for_the_neighbour(&server, "b").await;
    testbed::held!(neighbour);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_fails_is_done_in_another_way() {
    let server = PostgresServer::start().unwrap();
    drop(join(&server.url(), Strategy::Advisory).await);
    server
        .sql(
            "CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA lockkit TO plain; \
             GRANT ALL ON ALL TABLES IN SCHEMA lockkit TO plain; \
             GRANT ALL ON ALL SEQUENCES IN SCHEMA lockkit TO plain",
        )
        .unwrap();
    let url = format!("postgres://plain@{}/postgres", server.address());
    let locks = join(&url, Strategy::Advisory).await;
    let neighbour = neighbour(&locks).await;
    let revoke = |function: &str| {
        server.sql(&format!("REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")).unwrap();
    };
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    // The part that tells those beside the queue: the lock is freed by itself.
    revoke("pg_try_advisory_xact_lock(int, int)");
    guard.release().await.unwrap();
    is_free_but_for_the_neighbour(&server, "a").await;
    testbed::held!(neighbour);
    // Nothing but the session's end is left.
    let guard = locks.lock("b").ttl(TTL).acquire().await.unwrap();
    revoke("pg_advisory_unlock(bigint)");
    guard.release().await.ok();
    gone(ms(1_000), "the session has ended", || advisory(&server) == 0).await;
    by(ms(1_000), "its other lock is lost", neighbour.lost()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_that_take_long_cost_the_other_locks_of_the_session_nothing() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let neighbour = neighbour(&locks).await;
    let first = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    let second = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
    tokio::time::sleep(ms(200)).await;
    // Longer than a call may take, shorter than their ttl.
    let held = "BEGIN; ALTER SEQUENCE lockkit.token CACHE 1; SELECT pg_sleep(2.5); ROLLBACK";
    let mut holding = server.psql().unwrap().args(["-c", held]).spawn().unwrap();
    let altered = "SELECT count(*) FROM pg_locks WHERE mode = 'ShareRowExclusiveLock'";
    until(SLACK, "the sequence is locked", || crate::common::count(&server, altered) > 0).await;
    let token: FencingToken = first.token();
    match first.release().await {
        Ok(()) | Err(Error::Unavailable { .. }) => {}
        Err(error) => panic!("{error}"),
    }
    let second = by(ms(3_000) + SLACK, "the second is granted", second).await.unwrap().unwrap();
    assert!(second.token() > token);
    testbed::held!(neighbour);
    assert!(holding.wait().unwrap().success());
    neighbour.release().await.unwrap();
    second.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_beyond_the_greatest_are_refused_and_nothing_is_held() {
    let server = PostgresServer::start().unwrap();
    for strategy in crate::common::BOTH {
        let config = crate::common::config(&server.url(), strategy).token_base(i64::MAX as u64);
        let locks = Locks::new(PostgresProvider::connect(config).await.unwrap());
        let refused = by(ms(3_000), "an answer", locks.lock("a").acquire()).await.unwrap_err();
        assert!(matches!(refused, Error::Invalid { .. }), "{refused}");
        gone(ms(1_000), "nothing is held", || advisory(&server) == 0).await;
    }
}

/// How many connections to this port there are, at the side that made them: the server may notice
/// late that one has ended.
#[cfg(target_os = "linux")]
fn open_to(port: u16) -> usize {
    let sockets = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
    let remote = format!(":{port:04X}");
    let is_open = |line: &&str| {
        let mut columns = line.split_whitespace().skip(2);
        columns.next().is_some_and(|to| to.ends_with(&remote)) && columns.next() == Some("01")
    };
    sockets.lines().filter(is_open).count()
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_connections_than_allowed_however_many_calls_get_no_answer() {
    const MOST: usize = 3;
    let server = PostgresServer::start().unwrap();
    for strategy in crate::common::BOTH {
        let link = Link::to(server.address()).unwrap();
        let url = format!("{}?sslmode=disable", server.url_at(link.address()));
        let config = crate::common::config(&url, strategy).connections(MOST);
        let locks = Locks::new(PostgresProvider::connect(config).await.unwrap());
        drop(locks.lock("first").acquire().await.unwrap().release().await);
        // What new connections are asked waits in the server, and so does what others ask.
        let table = if strategy == Strategy::Table { "lease" } else { "epoch" };
        let lock = format!("BEGIN; LOCK TABLE lockkit.{table}; SELECT pg_sleep(4); ROLLBACK");
        let mut holding = server.psql().unwrap().args(["-c", &lock]).spawn().unwrap();
        let locked = "SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock'";
        until(SLACK, "the table is locked", || crate::common::count(&server, locked) > 0).await;
        let trying: Vec<_> = (0..24)
            .map(|n| tokio::spawn(locks.lock(format!("{n}")).ttl(ms(300)).try_acquire()))
            .collect();
        let mut most = 0;
        while holding.try_wait().unwrap().is_none() {
            most = most.max(open_to(link.port()));
            tokio::time::sleep(ms(5)).await;
        }
        assert!(holding.wait().unwrap().success());
        for tried in trying {
            drop(tried.await.unwrap());
        }
        println!("{strategy:?}: {most} connections");
        assert!((1..=MOST).contains(&most), "{most} connections ({strategy:?})");
        locks.close(ms(3_000)).await.ok();
        gone(ms(3_000), "all are closed", || crate::common::connections(&server) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withdrawal_waits_for_the_first_acquire_of_a_new_name_that_is_under_way() {
    let server = PostgresServer::start().unwrap();
    drop(join(&server.url(), Strategy::Table).await);
    let mut first = PgConnection::connect(&server.url()).await.unwrap();
    let mut acquiring = first.begin().await.unwrap();
    let request = "'00000000-0000-0000-0000-000000000abc'";
    let acquire =
        format!("SELECT lockkit.acquire('new', {request}, {request}, 60000, 'me', true, 60000)");
    sqlx::raw_sql(AssertSqlSafe(acquire.clone())).execute(&mut *acquiring).await.unwrap();
    let mut second = PgConnection::connect(&server.url()).await.unwrap();
    let leave = format!("SELECT lockkit.leave('new', {request}, true, false)");
    let leaving =
        tokio::spawn(async move { sqlx::raw_sql(AssertSqlSafe(leave)).execute(&mut second).await });
    tokio::time::sleep(ms(200)).await;
    acquiring.commit().await.unwrap();
    by(SLACK, "the withdrawal", leaving).await.unwrap().unwrap();
    let held = "SELECT count(*) FROM lockkit.lease WHERE request IS NOT NULL";
    assert_eq!(crate::common::count(&server, held), 0);
    // And one that comes later finds that it was withdrawn.
    assert!(server.sql(&acquire).unwrap().contains("withdrawn"));
}
