//! Beside other clients of advisory locks: psql, and sqlx's own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use crate::common::{SLACK, by, config, join, key_of, ms};
use lockkit_core::{LockName, Locks};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy, key};
use sqlx::postgres::{PgAdvisoryLock, PgConnection};
use sqlx::{Connection, Either};
use testbed::PostgresServer;

/// A psql that is told one statement after the other.
struct Psql(Child);

impl Psql {
    fn start(server: &PostgresServer) -> Self {
        let mut psql = server.psql().unwrap();
        Self(psql.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    fn say(&mut self, statement: &str) -> String {
        writeln!(self.0.stdin.as_mut().unwrap(), "{statement};").unwrap();
        let mut line = String::new();
        BufReader::with_capacity(1, self.0.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        line.trim().to_owned()
    }
}

impl Drop for Psql {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn psql_and_lockkit_exclude_each_other_both_ways() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let (lock, key) = (locks.lock("billing"), key_of("billing"));
    let mut psql = Psql::start(&server);

    let guard = lock.acquire().await.unwrap();
    assert_eq!(psql.say(&format!("SELECT pg_try_advisory_lock({key})")), "f");
    guard.release().await.unwrap();
    assert_eq!(psql.say(&format!("SELECT pg_try_advisory_lock({key})")), "t");
    assert!(lock.try_acquire().await.unwrap().is_none());
    let waiter = tokio::spawn(lock.acquire());
    tokio::time::sleep(ms(200)).await;
    assert!(!waiter.is_finished());
    assert_eq!(psql.say(&format!("SELECT pg_advisory_unlock({key})")), "t");
    let guard = by(SLACK, "the waiter behind psql is granted", waiter).await.unwrap().unwrap();

    // And psql waits behind us.
    let (granted, when) = tokio::sync::oneshot::channel();
    let waiting = std::thread::spawn(move || {
        let said = psql.say(&format!("SELECT 'mine' FROM pg_advisory_lock({key})"));
        granted.send(said).ok();
        psql
    });
    tokio::time::sleep(ms(200)).await;
    testbed::held!(guard);
    guard.release().await.unwrap();
    assert_eq!(by(SLACK, "psql is granted", when).await.unwrap(), "mine");
    assert!(lock.try_acquire().await.unwrap().is_none());
    drop(waiting.join().unwrap());
    drop(by(SLACK, "what psql held is free", lock.acquire()).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlx_s_own_lock_and_ours_exclude_each_other() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    let theirs = PgAdvisoryLock::new("nightly");
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let guard = locks.lock("nightly").acquire().await.unwrap();
    assert!(matches!(theirs.try_acquire(&mut connection).await.unwrap(), Either::Right(_)));
    guard.release().await.unwrap();
    let Either::Left(held) = theirs.try_acquire(&mut connection).await.unwrap() else {
        panic!("a free name was refused")
    };
    assert!(locks.lock("nightly").try_acquire().await.unwrap().is_none());
    held.release_now().await.unwrap();
    drop(locks.lock("nightly").acquire().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn two_names_with_one_key_exclude_each_other_and_a_given_key_is_used() {
    let server = PostgresServer::start().unwrap();
    let [a, b] = ["a", "b"].map(|name| LockName::new(name).unwrap());
    let given = config(&server.url(), Strategy::Advisory).key(a.clone(), 42).key(b, 42);
    let locks = Locks::new(PostgresProvider::connect(given).await.unwrap());
    let guard = locks.lock("a").acquire().await.unwrap();
    // In one process too, where one session would take a lock twice.
    assert!(locks.lock("b").try_acquire().await.unwrap().is_none());
    assert_eq!(server.sql("SELECT pg_try_advisory_lock(42)").unwrap(), "f");
    assert_eq!(server.sql(&format!("SELECT pg_try_advisory_lock({})", key(&a))).unwrap(), "t");
    guard.release().await.unwrap();
    drop(locks.lock("b").acquire().await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_of_a_name_is_told_by_sql_and_by_a_few_lines_of_python() {
    let server = PostgresServer::start().unwrap();
    drop(join(&server.url(), Strategy::Advisory).await);
    let page = include_str!("../../../docs/postgres.md");
    let recipe = page.split("```python\n").nth(1).unwrap().split("```").next().unwrap();
    let long = "a/name/of/more/than/one/block/".repeat(9);
    for name in ["billing", "n", "Straße 7; é\u{1F512}", "it's", &long] {
        let ours = key_of(name).to_string();
        let quoted = name.replace('\'', "''");
        let by_sql = server.sql(&format!("SELECT lockkit.key('{quoted}')")).unwrap();
        assert_eq!(by_sql, ours, "{name}");
        let mut python = std::process::Command::new("python3");
        let program = format!("{recipe}\nimport sys\nprint(key(sys.argv[1]))\n");
        let told = python.args(["-c", &program, name]).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&told.stdout).trim(), ours, "{name}: {told:?}");
    }
    // A role that may use the strategy may ask.
    server.sql("CREATE ROLE plain LOGIN; GRANT USAGE ON SCHEMA lockkit TO plain").unwrap();
    server.sql("SET ROLE plain; SELECT lockkit.key('billing')").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_given_in_a_url() {
    let server = PostgresServer::start().unwrap();
    let url = format!("{}?key=billing:42,urn:x:y:-7", server.url());
    let locks = join(&url, Strategy::Advisory).await;
    let held = [locks.lock("billing").acquire().await.unwrap()];
    assert_eq!(server.sql("SELECT pg_try_advisory_lock(42)").unwrap(), "f");
    let other = locks.lock("urn:x:y").acquire().await.unwrap();
    assert_eq!(server.sql("SELECT pg_try_advisory_lock(-7)").unwrap(), "f");
    drop((held, other));
    for bad in
        ["42", "billing:", "billing:x", ":42", "a:1,,b:2", "a:9223372036854775808", "a:1,a:2"]
    {
        let error = PostgresConfig::from_url(&format!("postgres://h/db?key={bad}")).unwrap_err();
        assert!(error.to_string().contains("key="), "{error}");
    }
}
