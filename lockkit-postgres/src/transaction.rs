//! Locks and fences inside a transaction of the caller's own.

use std::fmt;

use lockkit_core::{Applied, Error, FencingToken, LockName, Result, Stale};
use sqlx::error::DatabaseError;
use sqlx::{AssertSqlSafe, PgConnection, Row};

use crate::PostgresProvider;
use crate::error::to_error;
use crate::protocol::quoted;
use crate::provider::Connected;

/// The SQLSTATE by which the function `fence` refuses a stale token.
pub const STALE: &str = "LK001";

/// Why a write may not go on.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum FenceError {
    /// A newer token has been seen: the lock was lost. The transaction can only be rolled back.
    Stale(Stale),
    /// The server did not say.
    Store(Error),
}

impl fmt::Display for FenceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stale(stale) => stale.fmt(f),
            Self::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for FenceError {}

impl PostgresProvider {
    /// Takes a name inside the caller's own transaction, which frees it when it ends, or is rolled
    /// back to a savepoint before this; waits as long as the transaction's `lock_timeout` lets it.
    ///
    /// It excludes every lock of the strategy [`Advisory`](crate::Strategy::Advisory) by this name,
    /// and the tokens of both grow together. It has no ttl: `idle_in_transaction_session_timeout`
    /// ends a transaction that hangs. Upholds C1 and C4.
    ///
    /// ```no_run
    /// # async fn pay(provider: lockkit_postgres::PostgresProvider, connection: &mut sqlx::PgConnection)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// use sqlx::Connection;
    ///
    /// let mut transaction = connection.begin().await?;
    /// let token = provider.lock_in(&mut transaction, &"billing".parse()?).await?;
    /// // The work, in the same transaction.
    /// transaction.commit().await?;
    /// # drop(token); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `TimedOut`: the transaction's `lock_timeout`. `Invalid`: the strategy is another one.
    /// `Unavailable`, `Rejected`: the server. After each of them the transaction can only be rolled
    /// back.
    ///
    /// # Cancel safety
    /// Not cancel-safe: as every query of the driver that is dropped midway, it leaves the connection
    /// waiting for its answer.
    pub async fn lock_in(
        &self,
        transaction: &mut PgConnection,
        name: &LockName,
    ) -> Result<FencingToken> {
        let key = self.key(name)?;
        let sql = format!(
            "SELECT coalesce({}.next_token(), 0) FROM \
             (SELECT pg_advisory_xact_lock({key}) OFFSET 0) l",
            self.schema
        );
        let token = self.number(transaction, sql).await?;
        self.token_in(transaction, token.unwrap_or(0)).await
    }

    /// The same without waiting: `None` where another holds the name. Upholds C1 and C4.
    ///
    /// ```no_run
    /// # async fn pay(provider: lockkit_postgres::PostgresProvider, connection: &mut sqlx::PgConnection)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// use sqlx::Connection;
    ///
    /// let mut transaction = connection.begin().await?;
    /// match provider.try_lock_in(&mut transaction, &"billing".parse()?).await? {
    ///     Some(token) => println!("ours until the transaction ends, by {token}"),
    ///     None => println!("another process is at work"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`lock_in`](Self::lock_in).
    ///
    /// # Cancel safety
    /// As [`lock_in`](Self::lock_in).
    pub async fn try_lock_in(
        &self,
        transaction: &mut PgConnection,
        name: &LockName,
    ) -> Result<Option<FencingToken>> {
        let key = self.key(name)?;
        let sql = format!(
            "SELECT CASE WHEN pg_try_advisory_xact_lock({key}) \
             THEN coalesce({}.next_token(), 0) END",
            self.schema
        );
        match self.number(transaction, sql).await? {
            Some(token) => self.token_in(transaction, token).await.map(Some),
            None => Ok(None),
        }
    }

    /// Raises the fence of `resource` to `token` inside the caller's own transaction, before its
    /// write: refused where a newer token has written, whatever became of the lock meanwhile.
    ///
    /// Works under both strategies. From other languages it is `SELECT lockkit.fence(resource,
    /// token)`, which raises the SQLSTATE [`STALE`]. Upholds C14.
    ///
    /// ```no_run
    /// # async fn write(provider: lockkit_postgres::PostgresProvider, guard: lockkit_core::Guard,
    /// #     connection: &mut sqlx::PgConnection) -> Result<(), Box<dyn std::error::Error>> {
    /// use lockkit_postgres::FenceError;
    /// use sqlx::Connection;
    ///
    /// let mut transaction = connection.begin().await?;
    /// match provider.fence_in(&mut transaction, "ledger", guard.token()).await {
    ///     Ok(()) => {
    ///         // The write, in the same transaction.
    ///         transaction.commit().await?;
    ///     }
    ///     Err(FenceError::Stale(stale)) => println!("lost to {}: nothing is written", stale.newest),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`FenceError::Stale`]: a newer token has been seen. [`FenceError::Store`]: no answer, or a
    /// `resource` with a NUL in it, which PostgreSQL keeps in no text (`Invalid`, and nothing was
    /// asked).
    ///
    /// # Cancel safety
    /// As [`lock_in`](Self::lock_in).
    pub async fn fence_in(
        &self,
        transaction: &mut PgConnection,
        resource: &str,
        token: FencingToken,
    ) -> Result<(), FenceError> {
        if resource.contains('\0') {
            return Err(FenceError::Store(Error::invalid(
                format!("the resource {resource:?}"),
                "name it without NUL: PostgreSQL keeps none in a text",
            )));
        }
        let sql = format!("SELECT {}.fence({}, {token})", self.schema, quoted(resource));
        let Err(error) = sqlx::raw_sql(AssertSqlSafe(sql)).execute(transaction).await else {
            return Ok(());
        };
        let said = error.as_database_error();
        let newest = said.filter(|said| said.code().as_deref() == Some(STALE)).and_then(|said| {
            let detail = said.downcast_ref::<sqlx::postgres::PgDatabaseError>().detail()?;
            detail.parse().ok()
        });
        Err(match newest {
            Some(newest) => FenceError::Stale(Stale { offered: token, newest }),
            None => FenceError::Store(to_error(&error, true)),
        })
    }

    fn key(&self, name: &LockName) -> Result<i64> {
        match &self.strategy {
            Connected::Advisory(advisory) => Ok(advisory.key(name)),
            Connected::Table(_) => Err(Error::invalid(
                "a lock inside a transaction under the strategy \"table\"",
                "use the strategy \"advisory\": a lease outlives the transactions that change it",
            )),
        }
    }

    async fn number(&self, transaction: &mut PgConnection, sql: String) -> Result<Option<u64>> {
        let row = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_one(transaction).await;
        let row = row.map_err(|error| {
            let code = error.as_database_error().and_then(DatabaseError::code);
            if code.as_deref() == Some("55P03") {
                return Error::TimedOut { holder: None };
            }
            to_error(&error, true)
        })?;
        let garbled = || Error::unavailable(Applied::Maybe, "PostgreSQL answered with no number");
        let value = row.try_get_raw(0).map_err(|_| garbled())?;
        if sqlx::ValueRef::is_null(&value) {
            return Ok(None);
        }
        value.as_str().ok().and_then(|text| text.parse().ok()).map(Some).ok_or_else(garbled)
    }

    /// A token: where nobody has entered since a crash of the server, after we have.
    async fn token_in(&self, transaction: &mut PgConnection, token: u64) -> Result<FencingToken> {
        let Connected::Advisory(advisory) = &self.strategy else {
            return Err(Error::invalid("another strategy", "use the strategy \"advisory\""));
        };
        let mut token = token;
        if token == 0 {
            advisory.enter().await?;
            let sql = format!("SELECT {}.next_token()", self.schema);
            let again = self.number(transaction, sql).await?;
            token = again.ok_or_else(|| {
                let why = "the transaction began before a restart of the server was noticed";
                Error::unavailable(Applied::No, format!("{why}: begin it again"))
            })?;
        }
        FencingToken::with_base(advisory.token_base(), token)
    }
}
