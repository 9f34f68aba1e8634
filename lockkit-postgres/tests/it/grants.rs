//! What a role must be granted to use each strategy: all that is listed, and nothing that is not.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::future::join_all;
use lockkit_core::{LockName, Locks};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use sqlx::{Connection, PgConnection};
use testbed::PostgresServer;

use crate::common::{config, ms};

/// Each privilege, and on what; `@` is the role's database.
type Grants<'a> = &'a [(&'a str, &'a str)];

const EVERY: Grants<'_> = &[
    ("CONNECT", "DATABASE @"),
    ("USAGE", "SCHEMA lockkit"),
    ("EXECUTE", "ALL FUNCTIONS IN SCHEMA lockkit"),
];
const FENCE: Grants<'_> =
    &[("SELECT", "lockkit.fence"), ("INSERT", "lockkit.fence"), ("UPDATE", "lockkit.fence")];
const TABLE: Grants<'_> = &[
    ("SELECT", "lockkit.lease"),
    ("INSERT", "lockkit.lease"),
    ("UPDATE", "lockkit.lease"),
    ("SELECT", "lockkit.waiter"),
    ("INSERT", "lockkit.waiter"),
    ("DELETE", "lockkit.waiter"),
    ("USAGE", "SEQUENCE lockkit.ticket"),
    ("SELECT", "lockkit.client"),
    ("INSERT", "lockkit.client"),
    ("UPDATE", "lockkit.client"),
    ("DELETE", "lockkit.client"),
    ("SELECT", "lockkit.member"),
    ("INSERT", "lockkit.member"),
    ("UPDATE", "lockkit.member"),
    ("DELETE", "lockkit.member"),
    ("SELECT", "lockkit.barrier"),
    ("UPDATE", "lockkit.barrier"),
    ("SELECT", "lockkit.marker"),
    ("INSERT", "lockkit.marker"),
    ("UPDATE", "lockkit.marker"),
];
const ADVISORY: Grants<'_> = &[
    ("USAGE", "SEQUENCE lockkit.token"),
    ("SELECT", "lockkit.epoch"),
    ("UPDATE", "lockkit.epoch"),
    ("SELECT", "lockkit.no_crash_since"),
    ("INSERT", "lockkit.no_crash_since"),
];

const TTL: Duration = Duration::from_secs(30);
/// When a client without waiters takes its row away.
const FAREWELL: Duration = Duration::from_secs(12);

type Used = Result<(), Box<dyn std::error::Error + Send + Sync>>;

/// A role that has all of these and nothing else, in a database of its own that has its name.
fn prepare(server: &PostgresServer, role: &str, grants: &[(&str, &str)]) {
    server.sql(&format!("CREATE DATABASE {role}")).unwrap();
    let config = PostgresConfig::from_url(&server.url()).unwrap();
    let mut sql = format!(
        "{}; CREATE ROLE {role} LOGIN; REVOKE ALL ON DATABASE {role} FROM PUBLIC; \
         REVOKE ALL ON ALL FUNCTIONS IN SCHEMA lockkit FROM PUBLIC; ",
        config.setup_sql()
    );
    for (privilege, on) in grants {
        sql += &format!("GRANT {privilege} ON {} TO {role}; ", on.replace('@', role));
    }
    let made = server.psql().unwrap().args(["-d", role, "-c", &sql]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

/// Uses all that a client of this role can.
async fn use_all(address: SocketAddr, role: &str, strategy: Strategy) -> Used {
    let url = format!("postgres://{role}@{address}/{role}");
    let config = config(&url, strategy).creates(false);
    let provider = PostgresProvider::connect(config.clone()).await?;
    let ours = Locks::new(provider.clone());
    let theirs = Locks::new(PostgresProvider::connect(config).await?);
    let [lock, next] = [&ours, &theirs].map(|locks| locks.lock("granted").ttl(TTL));
    let limit = ms(4_000);
    let held = lock.acquire_within(limit).await?;
    held.renew().await?;
    let waiting = tokio::spawn(next.acquire_within(limit));
    tokio::time::sleep(ms(500)).await;
    // One that leaves the queue.
    next.acquire_within(ms(200)).await.err().ok_or("two at once")?;
    held.release().await?;
    let held = waiting.await??;
    let token = held.token();
    if strategy == Strategy::Table {
        ours.list("", None, 10).await?;
        lock.inspect().await?;
        lock.revoke(token).await?;
        lock.clone().shared().acquire_within(limit).await?.release().await?;
    } else {
        held.release().await?;
    }
    let mut connection = PgConnection::connect(&url).await?;
    let mut transaction = connection.begin().await?;
    if strategy == Strategy::Advisory {
        provider.lock_in(&mut transaction, &LockName::new("granted")?).await?;
    }
    provider.fence_in(&mut transaction, "resource", token).await?;
    transaction.commit().await?;
    tokio::time::sleep(FAREWELL).await;
    Ok(())
}

/// Uses it with all of its privileges, and with all but each of them.
async fn each_is_needed_and_nothing_else(strategy: Strategy, own: Grants<'_>) {
    let server = PostgresServer::builder()
        .setting("max_connections", 400)
        .setting("log_line_prefix", "%u: ")
        .start()
        .unwrap();
    let all = [EVERY, FENCE, own].concat();
    let mut roles = vec![("with_all".to_owned(), None)];
    prepare(&server, "with_all", &all);
    for (n, missing) in all.iter().enumerate() {
        let role = format!("without_{n}");
        let rest: Vec<_> = all.iter().copied().filter(|grant| grant != missing).collect();
        prepare(&server, &role, &rest);
        roles.push((role, Some(missing)));
    }
    let address = server.address();
    let used = roles.iter().map(|(role, _)| use_all(address, role, strategy));
    for ((role, missing), used) in roles.iter().zip(join_all(used).await) {
        let log = server.log();
        let denied = log.lines().find(|line| {
            line.starts_with(&format!("{role}: ")) && line.contains("permission denied")
        });
        match missing {
            None => assert!(used.is_ok() && denied.is_none(), "{used:?}, {denied:?}"),
            Some(missing) => assert!(denied.is_some(), "nothing needs {missing:?}: {used:?}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_page_grants_is_enough_for_both_strategies() {
    let server = PostgresServer::start().unwrap();
    let page = include_str!("../../../docs/postgres.md");
    let block = page.split("```sql\n").find(|block| block.starts_with("GRANT")).unwrap();
    let block = block.split("```").next().unwrap();
    let roles = [("for_the_table", Strategy::Table), ("for_advisory", Strategy::Advisory)];
    for (role, _) in roles {
        prepare(&server, role, &[]);
        let sql = block.replace("TO app", &format!("TO {role}"));
        let sql = sql.replace("DATABASE app", &format!("DATABASE {role}"));
        let made = server.psql().unwrap().args(["-d", role, "-c", &sql]).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }
    let address = server.address();
    for used in join_all(roles.map(|(role, strategy)| use_all(address, role, strategy))).await {
        used.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_needs_each_privilege_that_is_listed_for_the_table_and_no_other() {
    each_is_needed_and_nothing_else(Strategy::Table, TABLE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_needs_each_privilege_that_is_listed_for_advisory_locks_and_no_other() {
    each_is_needed_and_nothing_else(Strategy::Advisory, ADVISORY).await;
}
