//! Locks and fences inside a transaction of the caller's own.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use lockkit_core::{Applied, Error, FencingToken, LockName, Result, Stale};
use sqlx::{AssertSqlSafe, PgConnection};

use crate::advisory::key_of;
use crate::error::{has_code, to_error};
use crate::line::rows;
use crate::protocol::{column, garbled, number, quoted};
use crate::setup::{Over, check_server};
use crate::{PostgresConfig, Strategy};

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

impl std::error::Error for FenceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Stale(_) => None,
            // Its own words are shown already.
            Self::Store(error) => error.source(),
        }
    }
}

/// Locks and fences inside transactions of the caller's own, over the caller's connections: it opens none.
///
/// It excludes the locks of the strategy [`Advisory`](crate::Strategy::Advisory), and the tokens of both grow
/// together.
///
/// ```no_run
/// # async fn pay(pool: sqlx::PgPool) -> Result<(), Box<dyn std::error::Error>> {
/// use lockkit_postgres::{PostgresConfig, Strategy, TransactionLocks};
///
/// let config = PostgresConfig::from_environment()?.strategy(Strategy::Advisory);
/// let locks = TransactionLocks::new(&config, &mut *pool.acquire().await?).await?;
/// let mut transaction = pool.begin().await?;
/// let token = locks.lock_in(&mut transaction, &"billing".parse()?).await?;
/// locks.fence_in(&mut transaction, "ledger", token).await?;
/// // The work, in the same transaction.
/// transaction.commit().await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct TransactionLocks {
    schema: Arc<str>,
    keys: Arc<HashMap<LockName, i64>>,
    token_base: u64,
}

impl TransactionLocks {
    /// Checks over this connection, outside a transaction, that the server is fit for locks, and makes our tables and
    /// functions where they are missing.
    ///
    /// Of the configuration it takes the schema, the keys, whether it creates, and the token base.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: as [`PostgresProvider::connect`](crate::PostgresProvider::connect). `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// As [`lock_in`](Self::lock_in).
    pub async fn new(config: &PostgresConfig, connection: &mut PgConnection) -> Result<Self> {
        let config = config.clone().strategy(Strategy::Advisory);
        config.check()?;
        check_server(&config, Over::TheCallers(connection)).await?;
        let locks = Self::of(&config);
        locks.enter(connection).await?;
        Ok(locks)
    }

    pub(crate) fn of(config: &PostgresConfig) -> Self {
        Self {
            schema: config.schema.as_str().into(),
            keys: Arc::new(config.keys.clone()),
            token_base: config.token_base,
        }
    }

    /// Begins an epoch of tokens after a crash of the server, over this connection, outside a transaction; does
    /// nothing where another client has.
    ///
    /// [`new`](Self::new) does it once. Clients of the strategy [`Advisory`](crate::Strategy::Advisory) do it whenever they
    /// connect; where there are none, call it after the error of [`lock_in`](Self::lock_in) that asks for it.
    ///
    /// # Errors
    /// `Unavailable`, `Rejected`: the server.
    ///
    /// # Cancel safety
    /// As [`lock_in`](Self::lock_in).
    pub async fn enter(&self, connection: &mut PgConnection) -> Result<()> {
        rows(connection, "SELECT lockkit.enter()".to_owned()).await.map(drop)
    }

    /// Takes a name inside the caller's own transaction, which frees it when it ends, or is rolled
    /// back to a savepoint before this; waits as long as the transaction's `lock_timeout` lets it.
    ///
    /// It excludes every lock of the strategy [`Advisory`](crate::Strategy::Advisory) by this name,
    /// and the tokens of both grow together. It has no ttl: `idle_in_transaction_session_timeout`
    /// ends a transaction that hangs. Upholds C1 and C4.
    ///
    /// # Errors
    /// `TimedOut`: the transaction's `lock_timeout`. `Unavailable`, `Rejected`: the server; after a crash of it
    /// the error says to call [`enter`](Self::enter). After each of them the transaction can only be rolled back.
    ///
    /// # Cancel safety
    /// Not cancel-safe: as every query of the driver that is dropped midway, it leaves the connection
    /// waiting for its answer.
    pub async fn lock_in(
        &self,
        transaction: &mut PgConnection,
        name: &LockName,
    ) -> Result<FencingToken> {
        let token = self.lock(transaction, name).await?;
        self.token(token.ok_or_else(no_epoch)?)
    }

    /// The same without waiting: `None` where another holds the name. Upholds C1 and C4.
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
        match self.try_lock(transaction, name).await? {
            Some(token) => self.token(token.ok_or_else(no_epoch)?).map(Some),
            None => Ok(None),
        }
    }

    /// Raises the fence of `resource` to `token` inside the caller's own transaction, before its
    /// write: refused where a newer token has written, whatever became of the lock meanwhile.
    ///
    /// Works with the tokens of both strategies. From other languages it is `SELECT lockkit.fence(resource,
    /// token)`, which raises the SQLSTATE [`STALE`]. Upholds C14.
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
        let said = error.as_database_error().filter(|_| has_code(&error, STALE));
        let newest = said.and_then(|said| {
            let detail = said.downcast_ref::<sqlx::postgres::PgDatabaseError>().detail()?;
            detail.parse().ok()
        });
        Err(match newest {
            Some(newest) => FenceError::Stale(Stale { presented: token, newest }),
            None => FenceError::Store(to_error(error, true)),
        })
    }

    fn key(&self, name: &LockName) -> i64 {
        key_of(&self.keys, name)
    }

    /// Locks the name; the token, or none where no client has entered since a crash.
    pub(crate) async fn lock(
        &self,
        transaction: &mut PgConnection,
        name: &LockName,
    ) -> Result<Option<u64>> {
        let key = self.key(name);
        let sql = format!(
            "SELECT lockkit.next_token() FROM (SELECT pg_advisory_xact_lock({key}) OFFSET 0) l"
        );
        let rows = rows(transaction, sql).await?;
        rows.first().map(|row| number(row, 0)).ok_or_else(|| garbled(&rows))
    }

    pub(crate) async fn try_lock(
        &self,
        transaction: &mut PgConnection,
        name: &LockName,
    ) -> Result<Option<Option<u64>>> {
        let key = self.key(name);
        let sql = format!(
            "SELECT got, CASE WHEN got THEN lockkit.next_token() END FROM \
             (SELECT pg_try_advisory_xact_lock({key}) AS got OFFSET 0) l"
        );
        let rows = rows(transaction, sql).await?;
        let row = rows.first().ok_or_else(|| garbled(&rows))?;
        Ok((column(row, 0) == Some("t")).then(|| number(row, 1)))
    }

    pub(crate) fn token(&self, token: u64) -> Result<FencingToken> {
        FencingToken::with_base(self.token_base, token).map_err(Into::into)
    }

    /// A token, once a client has entered.
    pub(crate) async fn next_token(&self, transaction: &mut PgConnection) -> Result<FencingToken> {
        let rows = rows(transaction, "SELECT lockkit.next_token()".to_owned()).await?;
        let token = rows.first().and_then(|row| number(row, 0));
        self.token(token.ok_or_else(no_epoch)?)
    }
}

fn no_epoch() -> Error {
    let why = "the server has crashed, and no client has begun an epoch of tokens since";
    let what = "roll back, call TransactionLocks::enter over a connection outside a transaction";
    Error::unavailable(Applied::No, format!("{why}: {what}, and begin again"))
}
