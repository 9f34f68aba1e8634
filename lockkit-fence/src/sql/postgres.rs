//! PostgreSQL.

use sqlx::error::DatabaseError;
use sqlx::{Error, PgConnection, Postgres};

use super::dialect::{Dialect, FIND, Fault, MERGE, Row, Statements, row};

impl Dialect for Postgres {
    const MIGRATION: &'static str = include_str!("../../migrations/postgres.sql");
}

// Not as prepared statements: a pooler that changes servers between transactions would lose them.
impl Statements for Postgres {
    async fn merge(
        connection: &mut PgConnection,
        resource: &str,
        slot: i64,
        row: Row,
    ) -> Result<Row, Error> {
        let query =
            sqlx::query(MERGE).bind(resource).bind(slot).bind(row.exclusive).bind(row.shared);
        row!(query.persistent(false).fetch_one(connection).await)
    }

    async fn find(
        connection: &mut PgConnection,
        resource: &str,
        slot: i64,
    ) -> Result<Option<Row>, Error> {
        let query = sqlx::query(FIND).bind(resource).bind(slot).persistent(false);
        query.fetch_optional(connection).await?.map(|found| row!(Ok(found))).transpose()
    }

    fn fault(error: &dyn DatabaseError) -> Option<Fault> {
        match &*error.code()? {
            "42P01" => Some(Fault::Missing),
            // No such column, columns of other types, no primary key.
            "42703" | "42804" | "42883" | "42P10" | "42P18" | "22P02" => Some(Fault::Differs),
            _ => None,
        }
    }
}
