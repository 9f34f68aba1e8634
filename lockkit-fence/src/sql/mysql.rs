//! MySQL and MariaDB.

use sqlx::error::DatabaseError;
use sqlx::mysql::MySqlDatabaseError;
use sqlx::{Error, MySql, MySqlConnection};

use super::dialect::{Dialect, Fault, Row, Statements, row};

// The rule, as far as an assignment behind another one sees what that one wrote: each looks at a column that the kind of the token leaves alone,
// and at its own.
const MERGE: &str = "\
    INSERT INTO lockkit_fence (resource, slot, exclusive, shared) VALUES (?, ?, ?, ?) ON DUPLICATE KEY UPDATE \
    exclusive = IF(exclusive <= VALUES(exclusive) AND shared < VALUES(exclusive), VALUES(exclusive), exclusive), \
    shared = IF(exclusive < VALUES(shared) AND shared < VALUES(shared), VALUES(shared), shared)";

const FIND: &str = "SELECT exclusive, shared FROM lockkit_fence WHERE resource = ? AND slot = ?";

/// It reads the row as it is and not as it was at the first read of the transaction, and so fixes nothing for later reads.
const FIND_LOCKED: &str =
    "SELECT exclusive, shared FROM lockkit_fence WHERE resource = ? AND slot = ? FOR UPDATE";

impl Dialect for MySql {
    const MIGRATION: &'static str = include_str!("../../migrations/mysql.sql");
}

impl Statements for MySql {
    async fn merge(
        connection: &mut MySqlConnection,
        resource: &str,
        slot: i64,
        row: Row,
    ) -> Result<Row, Error> {
        let query = sqlx::query(MERGE)
            .bind(resource.as_bytes())
            .bind(slot)
            .bind(row.exclusive)
            .bind(row.shared);
        query.execute(&mut *connection).await?;
        // MySQL has no RETURNING.
        let query = sqlx::query(FIND_LOCKED).bind(resource.as_bytes()).bind(slot);
        row!(query.fetch_one(connection).await)
    }

    async fn find(
        connection: &mut MySqlConnection,
        resource: &str,
        slot: i64,
    ) -> Result<Option<Row>, Error> {
        let query = sqlx::query(FIND).bind(resource.as_bytes()).bind(slot);
        query.fetch_optional(connection).await?.map(|found| row!(Ok(found))).transpose()
    }

    fn fault(error: &dyn DatabaseError) -> Option<Fault> {
        match error.downcast_ref::<MySqlDatabaseError>().number() {
            1146 => Some(Fault::Missing),
            // No such column, a value that does not fit one.
            1054 | 1264 | 1265 | 1292 | 1366 | 1406 => Some(Fault::Differs),
            _ => None,
        }
    }
}
