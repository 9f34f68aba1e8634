//! What differs from database to database.

use std::future::Future;

use sqlx::error::DatabaseError;
use sqlx::{Database, Error as SqlxError};

use crate::Error;

/// A row of the table; 0 means that no token was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Row {
    pub(crate) exclusive: i64,
    pub(crate) shared: i64,
}

/// A database with fences: `sqlx::Postgres`, `sqlx::MySql` or `sqlx::Sqlite`.
pub trait Dialect: Database + Statements {
    /// The statements that make the table, and for PostgreSQL the function for other languages.
    ///
    /// The crate has them as files too: `migrations/postgres.sql`, `mysql.sql` and `sqlite.sql`. Copy one to your migrations, with the
    /// name that your tool wants, such as `20260101000000_lockkit_fence.sql` (sqlx) or `V7__lockkit_fence.sql` (refinery, Flyway).
    const MIGRATION: &'static str;
}

/// The statements of a database; no other crate can implement it.
pub trait Statements: Database {
    /// Raises the row of this resource and slot by the rule, and gives it.
    fn merge(
        connection: &mut Self::Connection,
        resource: &str,
        slot: i64,
        row: Row,
    ) -> impl Future<Output = Result<Row, SqlxError>> + Send;

    /// The row of this resource and slot.
    fn find(
        connection: &mut Self::Connection,
        resource: &str,
        slot: i64,
    ) -> impl Future<Output = Result<Option<Row>, SqlxError>> + Send;

    /// What is wrong with the table, where that is what this error says.
    fn fault(error: &dyn DatabaseError) -> Option<Fault>;
}

/// What is wrong with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// There is none.
    Missing,
    /// Its columns are not those of the migration.
    Differs,
}

/// The error of this crate for one of sqlx's.
pub(crate) fn failed<D: Dialect>(error: SqlxError) -> Error {
    let fault = match &error {
        SqlxError::Database(error) => D::fault(&**error),
        SqlxError::ColumnDecode { .. } | SqlxError::ColumnNotFound(_) => Some(Fault::Differs),
        _ => None,
    };
    let what = match fault {
        None => return Error::unavailable(error),
        Some(Fault::Missing) => format!("the table lockkit_fence is missing: {error}"),
        Some(Fault::Differs) => {
            format!("the table lockkit_fence differs from the migration's: {error}")
        }
    };
    Error::invalid(what, format!("run lockkit-fence's migration for {}", D::NAME))
}

/// The row in the first two columns of an answer, which must be numbers.
macro_rules! row {
    ($answer:expr) => {
        $answer.and_then(|found| {
            use sqlx::Row as _;
            Ok($crate::sql::dialect::Row {
                exclusive: found.try_get(0)?,
                shared: found.try_get(1)?,
            })
        })
    };
}
pub(crate) use row;

/// The one statement of PostgreSQL and SQLite, which follows the rule and answers with the row. A stale token leaves the row as it is.
#[cfg(any(feature = "sqlx-postgres", feature = "sqlx-sqlite"))]
pub(crate) const MERGE: &str = "\
    INSERT INTO lockkit_fence AS f (resource, slot, exclusive, shared) VALUES ($1, $2, $3, $4) \
    ON CONFLICT (resource, slot) DO UPDATE SET \
    exclusive = CASE WHEN f.exclusive <= excluded.exclusive AND f.shared < excluded.exclusive \
        THEN excluded.exclusive ELSE f.exclusive END, \
    shared = CASE WHEN f.exclusive < excluded.shared AND f.shared < excluded.shared \
        THEN excluded.shared ELSE f.shared END \
    RETURNING exclusive, shared";

#[cfg(any(feature = "sqlx-postgres", feature = "sqlx-sqlite"))]
pub(crate) const FIND: &str =
    "SELECT exclusive, shared FROM lockkit_fence WHERE resource = $1 AND slot = $2";
