//! Fences in a table of the caller's database, raised in the caller's own transaction: PostgreSQL, MySQL, MariaDB and SQLite, by sqlx.
//!
//! The lock may be in any store. Run the migration of the database once ([`Dialect::MIGRATION`]), and raise the fence first in every
//! transaction that the lock protects:
//!
//! ```no_run
//! # #[cfg(feature = "sqlx-sqlite")]
//! # async fn pay(pool: sqlx::SqlitePool, token: lockkit_fence::FencingToken) -> Result<(), Box<dyn std::error::Error>> {
//! use lockkit_fence::sql;
//!
//! let mut transaction = pool.begin().await?;
//! sql::raise(&mut transaction, "ledger", token).await?;
//! sqlx::query("UPDATE ledger SET balance = balance - 5").execute(&mut *transaction).await?;
//! transaction.commit().await?;
//! # Ok(()) }
//! ```
//!
//! The fence's row is locked until the transaction ends, so that transactions under one fence run one after the other. Reads before the fence was raised
//! do not count: where the isolation level is `REPEATABLE READ` or higher, they fix what later reads see.
//!
//! # A column of your own
//!
//! Where one row is the resource, a column of it can be the fence, with no other table:
//!
//! ```sql
//! ALTER TABLE accounts ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
//! -- The new holder raises the fence before it reads. No row: stale, or no such account.
//! UPDATE accounts SET fence = $1 WHERE id = $2 AND fence <= $1;
//! SELECT balance FROM accounts WHERE id = $2;
//! -- Each write. No row: stale; roll back.
//! UPDATE accounts SET balance = $3, fence = $1 WHERE id = $2 AND fence <= $1;
//! ```
//!
//! It is for exclusive grants. MySQL counts changed rows by default, not found ones: sqlx asks it for found ones.

mod dialect;
#[cfg(feature = "sqlx-mysql")]
mod mysql;
#[cfg(feature = "sqlx-postgres")]
mod postgres;
#[cfg(feature = "sqlx-sqlite")]
mod sqlite;

use sqlx::{Database, Pool, Transaction};

use crate::name::checked_name;
use crate::{Access, Error, Fencing, FencingToken, Result, Seen};
pub use dialect::Dialect;
use dialect::{Row, failed};

/// Raises the fence of `resource` in the caller's own transaction, before its reads and writes.
///
/// A resource that was never named has seen no token. Upholds C14.
///
/// # Errors
/// `Stale`: a newer token has been seen. `Invalid`: the name of the resource, a missing table, or one with other columns than the migration's.
/// `Unavailable`: the database. After each of them roll the transaction back; nothing is written then.
///
/// # Cancel safety
/// Not cancel-safe: as every query that is dropped midway. Drop the transaction too.
pub async fn raise<D: Dialect>(
    transaction: &mut Transaction<'_, D>,
    resource: &str,
    access: impl Into<Access> + Send,
) -> Result<()> {
    let (resource, access) = (checked_name(resource)?, access.into());
    let token = access.token().as_i64();
    let row = if access.is_shared() {
        Row { exclusive: 0, shared: token }
    } else {
        Row { exclusive: token, shared: 0 }
    };
    let answer = D::merge(&mut **transaction, resource, slot(access), row).await;
    Ok(seen(answer.map_err(failed::<D>)?)?.check(access)?)
}

/// Whether this access is not stale by what the transaction sees; remembers nothing.
///
/// Another transaction may raise the fence right behind it: a write must [`raise`] it.
///
/// # Errors
/// As [`raise`].
///
/// # Cancel safety
/// As [`raise`].
pub async fn check<D: Dialect>(
    transaction: &mut Transaction<'_, D>,
    resource: &str,
    access: impl Into<Access> + Send,
) -> Result<()> {
    let (resource, access) = (checked_name(resource)?, access.into());
    let answer = D::find(&mut **transaction, resource, slot(access)).await;
    Ok(seen(answer.map_err(failed::<D>)?.unwrap_or_default())?.check(access)?)
}

/// The fence of one resource, raised in transactions of its own: for a resource that is elsewhere.
///
/// It survives restarts of the program and of the database.
#[derive(Debug)]
pub struct SqlFence<D: Database> {
    pool: Pool<D>,
    resource: String,
}

impl<D: Dialect> SqlFence<D> {
    /// The fence of this resource in the database behind `pool`.
    ///
    /// # Errors
    /// `Invalid`: the name of the resource.
    pub fn new(pool: Pool<D>, resource: &str) -> Result<Self> {
        Ok(Self { pool, resource: checked_name(resource)?.to_owned() })
    }
}

impl<D: Dialect> Fencing for SqlFence<D> {
    async fn raise(&self, access: Access) -> Result<()> {
        let mut transaction = self.pool.begin().await.map_err(failed::<D>)?;
        raise(&mut transaction, &self.resource, access).await?;
        transaction.commit().await.map_err(failed::<D>)
    }

    async fn check(&self, access: Access) -> Result<()> {
        let mut transaction = self.pool.begin().await.map_err(failed::<D>)?;
        check(&mut transaction, &self.resource, access).await
    }

    fn is_durable(&self) -> bool {
        true
    }
}

/// What stands in the column `slot`.
fn slot(access: Access) -> i64 {
    access.slot().map_or(-1, i64::from)
}

fn seen(row: Row) -> Result<Seen> {
    let token = |value: i64| match value {
        0 => Ok(None),
        value => FencingToken::try_from(value).map(Some),
    };
    match (token(row.exclusive), token(row.shared)) {
        (Ok(exclusive), Ok(shared)) => Ok(Seen { exclusive, shared }),
        _ => Err(Error::invalid(
            format!("the table lockkit_fence has tokens {} and {}", row.exclusive, row.shared),
            "set them to 0 or to tokens that were seen",
        )),
    }
}
