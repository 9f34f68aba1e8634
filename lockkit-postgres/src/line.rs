//! A connection of the driver's, and the commands that go over it.

use std::time::Duration;

use lockkit_core::{Applied, Error, Result};
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};

use crate::error::{READ_ONLY, has_code, is_broken, takes_no_writes, text, to_error};
use crate::listener::Listener;
use crate::protocol::{Columns, texts};

/// The longest that a caller waits for the server.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// The SQLSTATEs of a statement that was cancelled, and of one whose `lock_timeout` has passed.
const CANCELLED: &str = "57014";
const LOCK_NOT_AVAILABLE: &str = "55P03";

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

/// What an answer says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Outlook {
    Good,
    /// It leads to a server that takes no writes, while the address may lead to another by now.
    ReadsOnly,
    /// It is of no more use.
    Ended,
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

    /// Runs a command to its end; the answer, and what it says of the connection.
    pub(crate) async fn run(&mut self, command: Command) -> (Result<Vec<Columns>>, Outlook) {
        let must = matches!(command, Command::Undo(_));
        let outcome = match command {
            Command::Sql(sql) => self.rows(sql).await.map(|rows| texts(&rows)),
            Command::Undo(sql) => {
                let undone = match self.rows(sql.clone()).await {
                    // A cancellation that was meant for the wait before it.
                    Err(error) if has_code(&error, CANCELLED) => self.rows(sql).await,
                    undone => undone,
                };
                undone.map(|rows| texts(&rows))
            }
            Command::Ping => self.ping().await.map(|()| Vec::new()),
        };
        match outcome {
            Ok(rows) => (Ok(rows), Outlook::Good),
            Err(error) => {
                let outlook = match takes_no_writes(&error) {
                    _ if must || is_broken(&error) => Outlook::Ended,
                    true => Outlook::ReadsOnly,
                    false => Outlook::Good,
                };
                (Err(to_error(error, true)), outlook)
            }
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
            Err(to_error(error, false))
        }
        Ok(Ok(line)) => Ok(line),
        _ => {
            let silence = format!("PostgreSQL took no connection within {limit:?}");
            Err(Error::unavailable(Applied::No, silence))
        }
    }
}

/// The rows of a statement over the caller's connection.
pub(crate) async fn rows(connection: &mut PgConnection, sql: String) -> Result<Vec<Columns>> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await;
    let rows = rows.map_err(|error| {
        if has_code(&error, LOCK_NOT_AVAILABLE) {
            return Error::timed_out(None);
        }
        if has_code(&error, READ_ONLY) {
            return Error::rejected(
                text(&error),
                "begin a transaction that may write, on the primary",
            );
        }
        to_error(error, true)
    })?;
    Ok(texts(&rows))
}

pub(crate) fn no_answer(applied: Applied, limit: Duration) -> Error {
    Error::unavailable(applied, format!("PostgreSQL gave no answer within {limit:?}"))
}
