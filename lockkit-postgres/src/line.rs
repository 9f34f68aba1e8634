//! A connection of the driver's, and the commands that go over it.

use std::time::Duration;

use lockkit_core::{Applied, Error, Result};
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, ValueRef};

use crate::error::{is_broken, is_cancelled, to_error};
use crate::listener::Listener;

/// The longest that a caller waits for the server.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// The texts of an answer's columns.
pub(crate) type Columns = Vec<Option<String>>;

/// A command to the server.
#[derive(Debug)]
pub(crate) enum Command {
    /// One message of the simple protocol, which the server gets whole or not at all.
    Sql(String),
    /// The same, where only the connection's end would do instead: it ends where that fails.
    Undo(String),
    /// Nothing but a request for an answer; those that come together are sent as one.
    Ping,
}

/// What a session speaks over.
pub(crate) enum Line {
    Plain(PgConnection),
    /// Its end is noticed also while no statement runs.
    Watched(Listener),
}

impl Line {
    pub(crate) async fn plain(options: &PgConnectOptions, limit: Duration) -> Result<Self> {
        connected(limit, async { options.connect().await.map(Self::Plain) }).await
    }

    /// One whose end is noticed also while no statement runs.
    pub(crate) async fn watched(options: &PgConnectOptions, limit: Duration) -> Result<Self> {
        connected(limit, async { Listener::connect(options, limit).await.map(Self::Watched) }).await
    }

    /// Runs a command to its end; whether the connection is of no more use.
    pub(crate) async fn run(&mut self, command: Command) -> (Result<Vec<Columns>>, bool) {
        let must = matches!(command, Command::Undo(_));
        let outcome = match command {
            Command::Sql(sql) => self.rows(sql).await.map(|rows| texts(&rows)),
            Command::Undo(sql) => {
                let undone = match self.rows(sql.clone()).await {
                    // A cancellation that was meant for the wait before it.
                    Err(error) if is_cancelled(&error) => self.rows(sql).await,
                    undone => undone,
                };
                undone.map(|rows| texts(&rows))
            }
            Command::Ping => self.ping().await.map(|()| Vec::new()),
        };
        match outcome {
            Ok(rows) => (Ok(rows), false),
            Err(error) => (Err(to_error(&error, true)), must || is_broken(&error)),
        }
    }

    async fn rows(&mut self, sql: String) -> sqlx::Result<Vec<PgRow>> {
        match self {
            Self::Plain(connection) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await
            }
            Self::Watched(listener) => listener.rows(sql).await,
        }
    }

    async fn ping(&mut self) -> sqlx::Result<()> {
        match self {
            Self::Plain(connection) => connection.ping().await,
            Self::Watched(listener) => listener.ping().await,
        }
    }

    /// Completes when the other side has ended the connection; may be dropped midway.
    pub(crate) async fn ended(&mut self) {
        match self {
            Self::Plain(_) => std::future::pending().await,
            Self::Watched(listener) => listener.ended().await,
        }
    }

    /// Ends it in order: the server then frees at once what the session held.
    pub(crate) async fn close(self) {
        let closed = async {
            match self {
                Self::Plain(connection) => drop(connection.close().await),
                Self::Watched(listener) => listener.close().await,
            }
        };
        tokio::time::timeout(LIMIT, closed).await.ok();
    }
}

/// What `connecting` gives within `limit`.
async fn connected(
    limit: Duration,
    connecting: impl Future<Output = sqlx::Result<Line>>,
) -> Result<Line> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(Err(error)) if !matches!(error, sqlx::Error::PoolTimedOut) => {
            Err(to_error(&error, false))
        }
        Ok(Ok(line)) => Ok(line),
        _ => {
            let silence = format!("PostgreSQL took no connection within {limit:?}");
            Err(Error::unavailable(Applied::No, silence))
        }
    }
}

/// The texts of all columns.
fn texts(rows: &[PgRow]) -> Vec<Columns> {
    let text = |row: &PgRow, column: usize| {
        let value = row.try_get_raw(column).ok().filter(|value| !value.is_null())?;
        value.as_str().ok().map(str::to_owned)
    };
    rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect()).collect()
}

/// The rows of a statement over the caller's connection.
pub(crate) async fn rows(connection: &mut PgConnection, sql: String) -> Result<Vec<Columns>> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await;
    let rows = rows.map_err(|error| {
        let code = error.as_database_error().and_then(DatabaseError::code);
        if code.as_deref() == Some("55P03") {
            return Error::TimedOut { holder: None };
        }
        to_error(&error, true)
    })?;
    Ok(texts(&rows))
}

pub(crate) fn no_answer(applied: Applied, limit: Duration) -> Error {
    Error::unavailable(applied, format!("PostgreSQL gave no answer within {limit:?}"))
}
