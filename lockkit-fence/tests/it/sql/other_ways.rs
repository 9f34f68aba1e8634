//! The ways without `sql::raise`: the function of PostgreSQL, a column of the user's own row, and migrations by a tool.

use std::fs;

use lockkit_fence::sql;
use lockkit_fence::{Access, FencingToken};
use sqlx::migrate::Migrator;
use sqlx::postgres::PgDatabaseError;
use testbed::PostgresServer;

use super::ledger::{Mysql, Postgres, Sqlite};

fn token(value: u64) -> FencingToken {
    FencingToken::new(value).expect("a token")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_function_of_postgres_follows_the_same_rule_and_tells_the_newest() {
    let fixture = Postgres::start().await;
    let pool = &fixture.pool;
    let calls = [
        ("5, 'exclusive', -1", Access::Exclusive(token(5)), None),
        ("8, 'shared', -1", Access::Shared(token(8)), None),
        ("7, 'shared', -1", Access::Shared(token(7)), None),
        ("8, 'exclusive', -1", Access::Exclusive(token(8)), Some("8")),
        ("9, 'exclusive', -1", Access::Exclusive(token(9)), None),
        ("9, 'shared', -1", Access::Shared(token(9)), Some("9")),
        ("3, 'exclusive', 0", Access::Counted { token: token(3), slot: 0 }, None),
        ("2, 'exclusive', 0", Access::Counted { token: token(2), slot: 0 }, Some("3")),
    ];
    for (arguments, access, newest) in calls {
        let call = format!("SELECT lockkit_fence_raise('by function', {arguments})");
        let called = sqlx::raw_sql(sqlx::AssertSqlSafe(call)).execute(pool).await;
        let detail = called.err().map(|error| {
            let error = error.into_database_error().expect("an error of the server");
            assert_eq!(error.code().as_deref(), Some("LK001"), "{error}");
            error.downcast_ref::<PgDatabaseError>().detail().unwrap_or_default().to_owned()
        });
        assert_eq!(detail.as_deref(), newest, "{arguments}");
        let mut transaction = pool.begin().await.expect("a transaction");
        let raised = sql::raise(&mut transaction, "by crate", access).await;
        transaction.commit().await.expect("a commit");
        let told = raised.err().map(|error| error.stale().expect("stale").newest.to_string());
        assert_eq!(told.as_deref(), newest, "{arguments}");
    }
    for none in ["0", "-1", "NULL", "5, 'counted'"] {
        let call = format!("SELECT lockkit_fence_raise('none', {none})");
        let error = sqlx::raw_sql(sqlx::AssertSqlSafe(call)).execute(pool).await.expect_err(none);
        assert!(error.to_string().contains(" is no "), "{none}: {error}");
    }
    let count = "SELECT count(*) FROM lockkit_fence WHERE resource = 'none'";
    assert_eq!(sqlx::query_scalar::<_, i64>(count).fetch_one(pool).await.expect("a count"), 0);
}

/// How many rows each write with a token finds, by the statement that the docs of `sql` give.
macro_rules! by_column {
    ($pool:expr, $update:literal) => {{
        for statement in [
            "CREATE TABLE accounts (id BIGINT PRIMARY KEY, balance BIGINT NOT NULL, fence BIGINT NOT NULL DEFAULT 0)",
            "INSERT INTO accounts (id, balance) VALUES (1, 100)",
        ] {
            sqlx::raw_sql(statement).execute(&$pool).await.expect("a table");
        }
        let mut found = Vec::new();
        for (token, balance) in [(33_i64, 90_i64), (33, 90), (34, 80), (33, 70), (34, 60)] {
            let query = sqlx::query($update).bind(balance).bind(token).bind(token);
            found.push(query.execute(&$pool).await.expect("an update").rows_affected());
        }
        let balance = sqlx::query_scalar::<_, i64>("SELECT balance FROM accounts").fetch_one(&$pool).await;
        (found, balance.expect("a balance"))
    }};
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_the_row_is_a_fence_too() {
    let expected = (vec![1, 1, 1, 0, 1], 60);
    let (postgres, mysql, sqlite) =
        (Postgres::start().await, Mysql::start().await, Sqlite::start().await);
    let update = by_column!(
        postgres.pool,
        "UPDATE accounts SET balance = $1, fence = $2 WHERE id = 1 AND fence <= $3"
    );
    assert_eq!(update, expected, "PostgreSQL");
    let update = by_column!(
        mysql.pool,
        "UPDATE accounts SET balance = ?, fence = ? WHERE id = 1 AND fence <= ?"
    );
    assert_eq!(update, expected, "MariaDB");
    let update = by_column!(
        sqlite.pool,
        "UPDATE accounts SET balance = ?, fence = ? WHERE id = 1 AND fence <= ?"
    );
    assert_eq!(update, expected, "SQLite");
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlxs_migrator_runs_the_file_of_the_crate() {
    let server = PostgresServer::start().expect("PostgreSQL");
    let pool = sqlx::PgPool::connect(&server.url()).await.expect("a connection");
    let directory = tempfile::tempdir().expect("a directory");
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres.sql");
    fs::copy(file, directory.path().join("20260101000000_lockkit_fence.sql")).expect("a copy");
    for _ in 0..2 {
        let migrator = Migrator::new(directory.path()).await.expect("a migration");
        migrator.run(&pool).await.expect("it runs, and once more");
    }
    let mut transaction = pool.begin().await.expect("a transaction");
    sql::raise(&mut transaction, "ledger", token(7)).await.expect("a fence");
}
