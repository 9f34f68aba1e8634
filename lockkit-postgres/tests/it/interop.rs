//! Beside other clients of advisory locks: psql, and sqlx's own.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Stdio};

use crate::common::{SLACK, by, config, join, key_of, ms};
use lockkit_core::{LockName, Locks};
use lockkit_postgres::{PostgresProvider, Strategy, key};
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
