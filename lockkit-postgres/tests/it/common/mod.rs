//! What the tests on a real server share.

use std::process::{Child, Stdio};
use std::time::Duration;

use lockkit_core::{LockName, Locks};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy, key};
pub(crate) use testbed::contenders::by;
pub(crate) use testbed::timing::until;
use testbed::{PostgresServer, timing};

pub(crate) const BOTH: [Strategy; 2] = [Strategy::Advisory, Strategy::Table];

/// One at a time: those that load the machine, and have bounds of time.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// How long a noisy machine may take beyond a bound.
pub(crate) const SLACK: Duration = Duration::from_millis(700);

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

pub(crate) fn config(url: &str, strategy: Strategy) -> PostgresConfig {
    PostgresConfig::from_url(url).unwrap().strategy(strategy)
}

/// A client of its own.
pub(crate) async fn join(url: &str, strategy: Strategy) -> Locks {
    Locks::new(PostgresProvider::connect(config(url, strategy)).await.unwrap())
}

pub(crate) fn key_of(name: &str) -> i64 {
    key(&LockName::new(name).unwrap())
}

/// A number that a statement gives, run past every link.
pub(crate) fn count(server: &PostgresServer, sql: &str) -> usize {
    server.sql(sql).unwrap().parse().unwrap()
}

/// How many hold or wait for advisory locks on the server.
pub(crate) fn advisory(server: &PostgresServer) -> usize {
    count(server, "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
}

/// How many connections of ours there are.
pub(crate) fn connections(server: &PostgresServer) -> usize {
    count(server, "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'lockkit'")
}

/// Has a server take only reads, or writes again; returns once new sessions know it, as others do a moment later.
pub(crate) async fn read_only(server: &PostgresServer, is_read_only: bool) {
    let value = if is_read_only { "on" } else { "off" };
    let sql = |sql: &str| server.sql(sql).unwrap();
    sql(&format!("ALTER SYSTEM SET default_transaction_read_only = {value}"));
    sql("SELECT pg_reload_conf()");
    let is_set = || sql("SHOW default_transaction_read_only") == value;
    until(ms(10_000), "the setting", is_set).await;
}

/// Waits until something is gone from the server.
pub(crate) async fn gone(limit: Duration, what: &str, mut is_gone: impl FnMut() -> bool) {
    timing::gone(limit, what, async || is_gone()).await;
}

/// A transaction that sees the server's rows as they are now, until it is dropped.
pub(crate) struct Snapshot(Child);

impl Snapshot {
    pub(crate) async fn open(server: &PostgresServer) -> Self {
        let open = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM lockkit.lease; \
            SELECT pg_sleep(300)";
        let psql = server.psql().unwrap().args(["-c", open]).stdout(Stdio::null()).spawn().unwrap();
        let is_open = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        until(SLACK * 4, "a snapshot is open", || count(server, is_open) == 1).await;
        Self(psql)
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
