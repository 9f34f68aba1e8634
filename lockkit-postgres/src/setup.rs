//! Our objects in the server, and whether it is fit for locks.

use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::check_layout;
use lockkit_core::{Error, Result};
use sqlx::PgConnection;

use crate::config::SCHEMA;
use crate::connection::Session;
use crate::error::{READS_ONLY, STANDBY};
use crate::line::{LIMIT, rows};
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
    /// The connections of a client that has connected.
    Connected(&'a dyn Asks),
}

/// The connections of a client, over one of which a statement that only reads is run.
#[async_trait]
pub(crate) trait Asks: Send + Sync {
    async fn ask(&self, limit: Duration, sql: &str) -> Result<Vec<Columns>>;
}

impl Over<'_> {
    pub(crate) async fn ask(&mut self, sql: String) -> Result<Vec<Columns>> {
        match self {
            Self::Ours(session) => session.first(sql).await,
            Self::TheCallers(connection) => rows(connection, sql).await,
            Self::Connected(asks) => asks.ask(LIMIT, &sql).await,
        }
    }
}

/// Refuses a server that would break what we declare, and makes our objects where they are missing.
pub(crate) async fn check_server(config: &PostgresConfig, mut over: Over<'_>) -> Result<Server> {
    let seen = look(config, &mut over).await?;
    FITNESS.iter().try_for_each(|check| check(&seen))?;
    let server = Server::of(&seen)?;
    if let Some(missing) = missing(config, &mut over, &seen).await? {
        if !config.creates {
            return Err(missing.refusal(config));
        }
        over.ask(missing.sql(config)).await?;
    }
    Ok(server)
}

/// What one statement tells of the server and of our objects there.
pub(crate) async fn look(config: &PostgresConfig, over: &mut Over<'_>) -> Result<Columns> {
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
         to_regprocedure('lockkit.wait_shared(bigint, integer)') IS NOT NULL, \
         '{schema}' <> '{SCHEMA}' AND to_regclass('{schema}.token') IS NOT NULL, \
         current_setting('transaction_read_only'), \
         to_regclass('{schema}.member') IS NOT NULL"
    );
    let mut rows = over.ask(look).await?;
    rows.pop().ok_or_else(|| garbled(&rows))
}

/// Which of our objects are missing; refuses those of a layout that is not ours.
pub(crate) async fn missing(
    config: &PostgresConfig,
    over: &mut Over<'_>,
    seen: &Columns,
) -> Result<Option<Missing>> {
    let schema = &config.schema;
    let is = |n: usize| column(seen, n) == Some("t");
    let is_table = config.strategy == Strategy::Table;
    if !is(5) {
        return Ok(Some(Missing::All));
    }
    // Advisory locks are the database's, and lie in no schema.
    check_number(schema, over, "lockkit_version", LAYOUT, "database").await?;
    if is_table && !is(6) {
        return Err(Error::rejected(
            format!("the schema {schema} holds layout 1 of the strategy \"table\""),
            "stop the programs that use it, run the SQL of PostgresConfig::migration_sql(), and \
             start programs of this version",
        ));
    }
    if is_table {
        check_number(schema, over, "table_layout", TABLE_LAYOUT, "schema").await?;
        // An older version of this layout made what is there: the setup adds what it lacks.
        return Ok((!is(10)).then_some(Missing::All));
    }
    if is(8) {
        return Err(Error::rejected(
            format!("the schema {schema} has a counter of advisory tokens of its own"),
            "stop the programs that use the strategy \"advisory\" in this database, run the SQL of \
             PostgresConfig::migration_sql(), and start programs of this version",
        ));
    }
    Ok((!is(7)).then_some(Missing::Some))
}

/// What decides whether a server is fit for locks: each refuses one that is not.
pub(crate) const FITNESS: [fn(&Columns) -> Result<()>; 4] =
    [check_version, check_primary, check_writes, check_encoding];

fn check_version(seen: &Columns) -> Result<()> {
    let version: u32 = number(seen, 0).unwrap_or(0);
    if version >= OLDEST {
        return Ok(());
    }
    Err(Error::rejected(format!("PostgreSQL {}", version / 10_000), "use PostgreSQL 14 or newer"))
}

fn check_primary(seen: &Columns) -> Result<()> {
    if column(seen, 1) == Some("t") {
        return Err(Error::rejected("a server in recovery", STANDBY));
    }
    Ok(())
}

fn check_writes(seen: &Columns) -> Result<()> {
    // A standby's transactions are read-only too, and it is told so.
    if column(seen, 9) == Some("on") && column(seen, 1) != Some("t") {
        let what = "a server that takes no writes (default_transaction_read_only)";
        return Err(Error::rejected(what, READS_ONLY));
    }
    Ok(())
}

fn check_encoding(seen: &Columns) -> Result<()> {
    if column(seen, 2) != Some("UTF8") {
        return Err(Error::rejected(
            format!("a database in the encoding {}", column(seen, 2).unwrap_or_default()),
            "use a database in UTF8: a name is any UTF-8 text",
        ));
    }
    Ok(())
}

/// Objects of ours that are not there.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Missing {
    All,
    /// What versions lack from before the tokens had one counter.
    Some,
}

impl Missing {
    pub(crate) fn refusal(self, config: &PostgresConfig) -> Error {
        let function = match self {
            Self::All => "setup_sql",
            Self::Some => "migration_sql",
        };
        Error::rejected(
            format!("the schema {} lacks our tables and functions", config.schema),
            format!("run the SQL of PostgresConfig::{function}()"),
        )
    }

    fn sql(self, config: &PostgresConfig) -> String {
        match self {
            Self::All => config.setup_sql(),
            Self::Some => config.migration_sql(),
        }
    }
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

impl Server {
    pub(crate) fn of(seen: &Columns) -> Result<Self> {
        let count = |n| number(seen, n).ok_or_else(|| garbled(std::slice::from_ref(seen)));
        Ok(Self { lock_table: count(3)?, locks: count(4)? })
    }
}
