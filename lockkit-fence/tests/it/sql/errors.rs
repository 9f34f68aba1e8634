//! What is refused, with what it says, and that nothing is written then.

use lockkit_fence::sql;
use lockkit_fence::{Access, Error, FencingToken, Stale};
use sqlx::{AssertSqlSafe, Pool};

use super::ledger::{Mysql, Postgres, Sqlite};

fn token(value: u64) -> FencingToken {
    FencingToken::new(value).expect("a token")
}

/// What raising the fence says in this database, within a transaction that is committed all the same.
macro_rules! said {
    ($pool:expr, $resource:expr, $access:expr) => {{
        let mut transaction = $pool.begin().await.expect("a transaction");
        let said = sql::raise(&mut transaction, $resource, $access).await;
        transaction.commit().await.expect("a commit, or what is one after an error");
        said
    }};
}

macro_rules! refusals {
    ($test:ident, $fixture:ident, $database:ty, $texts:expr) => {
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            let fixture = $fixture::start().await;
            let pool: &Pool<$database> = &fixture.pool;
            let run = async |statement: &str| {
                let ran = sqlx::raw_sql(AssertSqlSafe(statement.to_owned())).execute(pool).await;
                ran.unwrap_or_else(|error| panic!("{statement}: {error}"));
            };
            let rows = async || {
                let count = "SELECT count(*) FROM lockkit_fence";
                sqlx::query_scalar::<_, i64>(count).fetch_one(pool).await.expect("a count")
            };
            for name in ["", "a\0b", "line\n", &"x".repeat(256)] {
                let error = said!(pool, name, token(5)).expect_err(name);
                assert!(matches!(&error, Error::Invalid { .. }), "{name:?}: {error}");
                assert!(error.to_string().contains("resource name"), "{error}");
            }
            assert_eq!(rows().await, 0);

            let far = token(1_800_000_000_000_000);
            said!(pool, "ledger", far).expect("the first token");
            let stale = said!(pool, "ledger", token(41)).expect_err("far below");
            assert_eq!(stale.stale(), Some(Stale { presented: token(41), newest: far }));
            assert!(stale.to_string().contains("another store"), "{stale}");
            // Names that differ in case, or by a blank, are other resources.
            for other in ["Ledger", "ledger "] {
                said!(pool, other, token(41)).expect("another resource");
            }
            assert_eq!(rows().await, 3);
            said!(pool, "ledger", Access::Counted { token: token(1), slot: u32::MAX })
                .expect("a slot");

            // A token of 0 is none: no row of the table may have it, and no program can make it.
            assert!(FencingToken::new(0).is_err());

            run("DROP TABLE lockkit_fence").await;
            let missing = said!(pool, "ledger", token(5)).expect_err("no table");
            assert!(matches!(&missing, Error::Invalid { .. }), "{missing:?}");
            let text = missing.to_string();
            assert!(
                text.contains("lockkit_fence is missing") && text.contains("migration"),
                "{text}"
            );

            for columns in $texts {
                run(&format!("CREATE TABLE lockkit_fence ({columns})")).await;
                let differs = said!(pool, "ledger", token(5)).expect_err(columns);
                assert!(matches!(&differs, Error::Invalid { .. }), "{columns}: {differs:?}");
                assert!(differs.to_string().contains("differs from the migration"), "{differs}");
                run("DROP TABLE lockkit_fence").await;
            }
        }
    };
}

const TEXT: &str = "resource VARCHAR(200), slot BIGINT, exclusive VARCHAR(20), shared VARCHAR(20), PRIMARY KEY (resource, slot)";
const FEWER: &str =
    "resource VARCHAR(200), slot BIGINT, exclusive BIGINT, PRIMARY KEY (resource, slot)";

refusals!(
    postgres_refuses_with_a_clear_error_what_it_cannot_serve,
    Postgres,
    sqlx::Postgres,
    [TEXT, FEWER]
);
refusals!(
    mariadb_refuses_with_a_clear_error_what_it_cannot_serve,
    Mysql,
    sqlx::MySql,
    [TEXT, FEWER]
);
refusals!(
    sqlite_refuses_with_a_clear_error_what_it_cannot_serve,
    Sqlite,
    sqlx::Sqlite,
    [TEXT, FEWER]
);
