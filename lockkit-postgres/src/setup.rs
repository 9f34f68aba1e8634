//! Our objects in the server, and whether it is fit for locks.

use lockkit_core::kit::check_layout;
use lockkit_core::{Error, Result};
use sqlx::PgConnection;

use crate::config::SCHEMA;
use crate::connection::Session;
use crate::error::{READS_ONLY, STANDBY};
use crate::line::rows;
use crate::protocol::{Columns, column, garbled, number};
use crate::{PostgresConfig, Strategy};

/// The oldest server that ends idle sessions.
const OLDEST: u32 = 140_000;

/// The layout of what both strategies and the fence share, the newest that this version can share.
const LAYOUT: u32 = 1;
/// The layout of the strategy "table", the only one that this version can share.
const TABLE_LAYOUT: u32 = 2;

/// A connection over which the server is checked, outside any transaction.
pub(crate) enum Over<'a> {
    Ours(&'a Session),
    TheCallers(&'a mut PgConnection),
}

impl Over<'_> {
    async fn ask(&mut self, sql: String) -> Result<Vec<Columns>> {
        match self {
            Self::Ours(session) => session.first(sql).await,
            Self::TheCallers(connection) => rows(connection, sql).await,
        }
    }
}

/// Refuses a server that would break what we declare, and makes our objects where they are missing.
pub(crate) async fn check_server(config: &PostgresConfig, mut over: Over<'_>) -> Result<Server> {
    let schema = &config.schema;
    let look = format!(
        "SELECT current_setting('server_version_num'), pg_is_in_recovery(), \
         current_setting('server_encoding'), \
         current_setting('max_locks_per_transaction')::bigint * \
         (current_setting('max_connections')::bigint \
         + current_setting('max_prepared_transactions')::bigint), \
         (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'), \
         to_regprocedure('{schema}.lockkit_version()') IS NOT NULL, \
         to_regprocedure('{schema}.table_layout()') IS NOT NULL, \
         to_regprocedure('lockkit.wait(bigint, integer)') IS NOT NULL, \
         '{schema}' <> '{SCHEMA}' AND to_regclass('{schema}.token') IS NOT NULL, \
         current_setting('transaction_read_only')"
    );
    let rows = over.ask(look).await?;
    let row = rows.first().ok_or_else(|| garbled(&rows))?;
    let is = |n: usize| column(row, n) == Some("t");
    check_fitness(row)?;
    let server = Server {
        lock_table: number(row, 3).ok_or_else(|| garbled(&rows))?,
        locks: number(row, 4).ok_or_else(|| garbled(&rows))?,
    };
    let is_table = config.strategy == Strategy::Table;
    if !is(5) {
        make(config, &mut over, config.setup_sql(), "setup_sql").await?;
        return Ok(server);
    }
    // Advisory locks are the database's, and lie in no schema.
    check_number(schema, &mut over, "lockkit_version", LAYOUT, "database").await?;
    if is_table && !is(6) {
        return Err(Error::rejected(
            format!("the schema {schema} holds layout 1 of the strategy \"table\""),
            "stop the programs that use it, run the SQL of PostgresConfig::migration_sql(), and \
             start programs of this version",
        ));
    }
    if is_table {
        check_number(schema, &mut over, "table_layout", TABLE_LAYOUT, "schema").await?;
        return Ok(server);
    }
    if is(8) {
        return Err(Error::rejected(
            format!("the schema {schema} has a counter of advisory tokens of its own"),
            "stop the programs that use the strategy \"advisory\" in this database, run the SQL of \
             PostgresConfig::migration_sql(), and start programs of this version",
        ));
    }
    if !is(7) {
        make(config, &mut over, config.migration_sql(), "migration_sql").await?;
    }
    Ok(server)
}

/// Refuses a server that is not fit for locks.
fn check_fitness(row: &Columns) -> Result<()> {
    let version: u32 = number(row, 0).unwrap_or(0);
    if version < OLDEST {
        return Err(Error::rejected(
            format!("PostgreSQL {}", version / 10_000),
            "use PostgreSQL 14 or newer",
        ));
    }
    if column(row, 1) == Some("t") {
        return Err(Error::rejected("a server in recovery", STANDBY));
    }
    if column(row, 9) == Some("on") {
        let what = "a server that takes no writes (default_transaction_read_only)";
        return Err(Error::rejected(what, READS_ONLY));
    }
    if column(row, 2) != Some("UTF8") {
        return Err(Error::rejected(
            format!("a database in the encoding {}", column(row, 2).unwrap_or_default()),
            "use a database in UTF8: a name is any UTF-8 text",
        ));
    }
    Ok(())
}

/// Makes what is missing, where we may.
async fn make(
    config: &PostgresConfig,
    over: &mut Over<'_>,
    sql: String,
    function: &str,
) -> Result<()> {
    if !config.creates {
        return Err(Error::rejected(
            format!("the schema {} lacks our tables and functions", config.schema),
            format!("run the SQL of PostgresConfig::{function}()"),
        ));
    }
    over.ask(sql).await.map(drop)
}

/// Refuses a schema in which this function gives a newer layout than `newest`.
async fn check_number(
    schema: &str,
    over: &mut Over<'_>,
    function: &str,
    newest: u32,
    other: &str,
) -> Result<()> {
    let rows = over.ask(format!("SELECT {schema}.{function}()")).await?;
    let number = rows.first().and_then(|row| column(row, 0));
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
