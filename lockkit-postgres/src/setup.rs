//! Our objects in the server, and whether it is fit for locks.

use lockkit_core::kit::check_layout;
use lockkit_core::{Applied, Clock, Error, Result};

use crate::connection::{Command, PATIENCE, Session};
use crate::error::STANDBY;
use crate::{PostgresConfig, Strategy};

/// The oldest server that ends idle sessions.
const OLDEST: u32 = 140_000;

/// The layout of what both strategies and the fence share, the newest that this version can share.
const LAYOUT: u32 = 1;
/// The layout of the strategy "table", the only one that this version can share.
const TABLE_LAYOUT: u32 = 2;

/// Refuses a server that would break what we declare, and makes our objects where they are missing.
pub(crate) async fn check_server(config: &PostgresConfig, session: &Session) -> Result<Server> {
    let schema = &config.schema;
    let look = format!(
        "SELECT current_setting('server_version_num'), pg_is_in_recovery(), \
         current_setting('server_encoding'), \
         to_regprocedure('{schema}.lockkit_version()') IS NOT NULL, \
         current_setting('max_locks_per_transaction')::bigint * \
         (current_setting('max_connections')::bigint \
         + current_setting('max_prepared_transactions')::bigint), \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), \
         to_regprocedure('{schema}.table_layout()') IS NOT NULL"
    );
    let clock = Clock::system();
    let rows = session.ask(&clock, PATIENCE, Command::Sql(look)).await?;
    let row = rows.first();
    let column = |n: usize| row.and_then(|row| row.get(n)?.as_deref()).unwrap_or_default();
    let version: u32 = column(0).parse().unwrap_or(0);
    if version < OLDEST {
        return Err(Error::rejected(
            format!("PostgreSQL {}", version / 10_000),
            "use PostgreSQL 14 or newer",
        ));
    }
    if column(1) == "t" {
        return Err(Error::rejected("a server in recovery", STANDBY));
    }
    if column(2) != "UTF8" {
        return Err(Error::rejected(
            format!("a database in the encoding {}", column(2)),
            "use a database in UTF8: a name is any UTF-8 text",
        ));
    }
    if column(3) != "t" {
        if !config.creates {
            return Err(Error::rejected(
                format!("the schema {schema} lacks our tables and functions"),
                "run the SQL of PostgresConfig::setup_sql()",
            ));
        }
        session.ask(&clock, PATIENCE, Command::Sql(config.setup_sql())).await?;
    } else {
        // Advisory locks are the database's, whatever the schema.
        check_number(schema, session, "lockkit_version", LAYOUT, "database").await?;
        if config.strategy == Strategy::Table {
            if column(6) != "t" {
                return Err(Error::rejected(
                    format!("the schema {schema} holds layout 1 of the strategy \"table\""),
                    "stop the programs that use it, run the SQL of PostgresConfig::migration_sql(), and \
                     start programs of this version",
                ));
            }
            check_number(schema, session, "table_layout", TABLE_LAYOUT, "schema").await?;
        }
    }
    let garbled = || Error::unavailable(Applied::No, "PostgreSQL's settings make no sense");
    Ok(Server {
        lock_table: column(4).parse().map_err(|_| garbled())?,
        locks: column(5).parse().map_err(|_| garbled())?,
    })
}

/// Refuses a schema in which this function gives a newer layout than `newest`.
async fn check_number(
    schema: &str,
    session: &Session,
    function: &str,
    newest: u32,
    other: &str,
) -> Result<()> {
    let ask = Command::Sql(format!("SELECT {schema}.{function}()"));
    let rows = session.ask(&Clock::system(), PATIENCE, ask).await?;
    let number = rows.first().and_then(|row| row.first()?.as_deref());
    check_layout(format_args!("the schema {schema}"), number, newest, other)
}

/// What matters of the server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Server {
    /// How many locks its lock table is made for.
    pub(crate) lock_table: usize,
    /// How many advisory locks there are, ours and others'.
    pub(crate) locks: usize,
}
