//! SQLite.

use sqlx::error::DatabaseError;
use sqlx::{Error, Sqlite, SqliteConnection};

use super::dialect::{Dialect, FIND, Fault, MERGE, Row, Statements, row};

impl Dialect for Sqlite {
    const MIGRATION: &'static str = include_str!("../../migrations/sqlite.sql");
}

impl Statements for Sqlite {
    async fn merge(
        connection: &mut SqliteConnection,
        resource: &str,
        slot: i64,
        row: Row,
    ) -> Result<Row, Error> {
        let query =
            sqlx::query(MERGE).bind(resource).bind(slot).bind(row.exclusive).bind(row.shared);
        row!(query.fetch_one(connection).await)
    }

    async fn find(
        connection: &mut SqliteConnection,
        resource: &str,
        slot: i64,
    ) -> Result<Option<Row>, Error> {
        let query = sqlx::query(FIND).bind(resource).bind(slot);
        query.fetch_optional(connection).await?.map(|found| row!(Ok(found))).transpose()
    }

    /// SQLite has one code for all that is wrong with a statement.
    fn fault(error: &dyn DatabaseError) -> Option<Fault> {
        let said = error.message();
        let has = |text| said.contains(text);
        if has("no such table") {
            Some(Fault::Missing)
        } else if has("no column named")
            || has("no such column")
            || has("ON CONFLICT clause does not match")
            || has("cannot store")
        {
            Some(Fault::Differs)
        } else {
            None
        }
    }
}
