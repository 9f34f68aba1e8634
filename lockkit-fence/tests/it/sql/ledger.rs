//! A number in a table of each database, with its fence beside it.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::sql::{self, Dialect, SqlFence};
use lockkit_fence::{Access, Error, Fencing, Result};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Pool};
use testbed::{Data, MariadbServer, PostgresServer};

use crate::pauses::Open;

const TABLE: &str = "CREATE TABLE ledger (name VARCHAR(40) PRIMARY KEY, value BIGINT NOT NULL)";

/// What a database needs to be started again.
pub(crate) enum Server {
    Postgres(PostgresServer),
    Mysql(MariadbServer),
    /// Its file, in this directory.
    Sqlite(tempfile::TempDir),
}

impl Server {
    pub(crate) fn url(&self) -> String {
        match self {
            Self::Postgres(server) => server.url(),
            Self::Mysql(server) => server.url(),
            Self::Sqlite(directory) => format!("sqlite://{}/ledger", directory.path().display()),
        }
    }

    fn restart(&self) {
        match self {
            Self::Postgres(server) => server.restart(Data::Kept).expect("a restart"),
            Self::Mysql(server) => server.restart(Data::Kept).expect("a restart"),
            Self::Sqlite(_) => {}
        }
    }
}

macro_rules! database {
    ($fixture:ident, $ledger:ident, $database:ty, $server:expr, $options:expr) => {
        pub(crate) struct $fixture {
            pub(crate) server: Arc<Server>,
            pub(crate) pool: Pool<$database>,
            names: AtomicU64,
        }

        pub(crate) struct $ledger {
            server: Arc<Server>,
            pool: Mutex<Pool<$database>>,
            name: String,
        }

        impl $fixture {
            pub(crate) async fn start() -> Self {
                let server: Server = $server;
                let pool = Self::connect(&server).await;
                for statements in [<$database>::MIGRATION, TABLE] {
                    sqlx::raw_sql(statements).execute(&pool).await.expect("the tables");
                }
                Self { server: Arc::new(server), pool, names: AtomicU64::new(0) }
            }

            async fn connect(server: &Server) -> Pool<$database> {
                let options = $options(&server.url());
                Pool::<$database>::connect_with(options).await.expect("a connection")
            }
        }

        impl Fixture for $fixture {
            type Resource = $ledger;

            async fn fresh(&self) -> $ledger {
                let name = format!("ledger {}", self.names.fetch_add(1, Ordering::Relaxed));
                let insert = format!("INSERT INTO ledger VALUES ('{name}', 0)");
                sqlx::raw_sql(AssertSqlSafe(insert)).execute(&self.pool).await.expect("a row");
                // One of its own, which a restart closes.
                let pool = Self::connect(&self.server).await;
                $ledger { server: Arc::clone(&self.server), pool: Mutex::new(pool), name }
            }
        }

        impl $ledger {
            fn pool(&self) -> Pool<$database> {
                self.pool.lock().expect("no panic").clone()
            }

            fn fence(&self) -> SqlFence<$database> {
                SqlFence::new(self.pool(), &self.name).expect("a name")
            }

            fn select(&self) -> AssertSqlSafe<String> {
                AssertSqlSafe(format!("SELECT value FROM ledger WHERE name = '{}'", self.name))
            }

            fn update(&self, value: u64) -> AssertSqlSafe<String> {
                AssertSqlSafe(format!(
                    "UPDATE ledger SET value = {value} WHERE name = '{}'",
                    self.name
                ))
            }
        }

        impl Fencing for $ledger {
            async fn raise(&self, access: Access) -> Result<()> {
                self.fence().raise(access).await
            }

            async fn check(&self, access: Access) -> Result<()> {
                self.fence().check(access).await
            }

            fn is_durable(&self) -> bool {
                self.fence().is_durable()
            }
        }

        impl Resource for $ledger {
            async fn begin(&self, access: Access) -> Result<u64> {
                let mut transaction = self.pool().begin().await.map_err(Error::unavailable)?;
                sql::raise(&mut transaction, &self.name, access).await?;
                let read =
                    sqlx::query_scalar::<_, i64>(self.select()).fetch_one(&mut *transaction).await;
                transaction.commit().await.map_err(Error::unavailable)?;
                Ok(read.map_err(Error::unavailable)?.try_into().expect("no negative number"))
            }

            async fn write(&self, access: Access, value: u64) -> Result<()> {
                let mut transaction = self.pool().begin().await.map_err(Error::unavailable)?;
                sql::raise(&mut transaction, &self.name, access).await?;
                let wrote = sqlx::raw_sql(self.update(value)).execute(&mut *transaction).await;
                wrote.map_err(Error::unavailable)?;
                transaction.commit().await.map_err(Error::unavailable)
            }

            async fn restarted(self) -> Self {
                self.pool().close().await;
                self.server.restart();
                let pool = $fixture::connect(&self.server).await;
                Self { pool: Mutex::new(pool), ..self }
            }
        }

        impl Open for $ledger {
            async fn peek(&self) -> u64 {
                let read =
                    sqlx::query_scalar::<_, i64>(self.select()).fetch_one(&self.pool()).await;
                read.expect("the number").try_into().expect("no negative number")
            }

            async fn overwrite(&self, value: u64) {
                sqlx::raw_sql(self.update(value)).execute(&self.pool()).await.expect("a write");
            }
        }
    };
}

fn parsed<T: FromStr<Err = sqlx::Error>>(url: &str) -> T {
    url.parse().expect("a URL")
}

database! {
    Postgres, PostgresLedger, sqlx::Postgres,
    Server::Postgres(PostgresServer::start().expect("PostgreSQL")), parsed
}
database! {
    Mysql, MysqlLedger, sqlx::MySql,
    Server::Mysql(MariadbServer::start().expect("MariaDB")), parsed
}
database! {
    Sqlite, SqliteLedger, sqlx::Sqlite,
    Server::Sqlite(tempfile::tempdir().expect("a directory")),
    |url: &str| parsed::<SqliteConnectOptions>(url).create_if_missing(true)
}
