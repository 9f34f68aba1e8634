//! A connection of the driver's, and the commands that go over it.

use std::sync::OnceLock;
use std::time::Duration;

use futures_util::TryStreamExt;
use lockkit_core::{Applied, Error, Result};
use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{
    Acquire, AssertSqlSafe, ConnectOptions, Connection, Either, PgConnection, Row, ValueRef,
};
use tokio::runtime::{Builder, Handle};

use crate::error::{READ_ONLY, has_code, is_broken, takes_no_writes, text, to_error};
use crate::protocol::Columns;

/// The longest that a caller waits for the server.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// A connection that is refused is refused by then.
const SOON: Duration = Duration::from_millis(250);

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
    /// One statement that neither waits nor minds what ran before it; those that come together are sent as one
    /// message, which the server runs as one transaction.
    Short(String),
    /// Nothing but a request for an answer; any message does for all that come together.
    Ping,
}

/// What the server says to a command.
pub(crate) type Answer = Result<Vec<Columns>>;

impl Command {
    /// Whether one message may hold both; the pings come last in it, and cost nothing there.
    pub(crate) const fn goes_with(&self, other: &Self) -> bool {
        let are_short = (self, other);
        matches!(are_short, (Self::Short(_) | Self::Ping, Self::Short(_) | Self::Ping))
    }
}

/// What an answer says of its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outlook {
    Good,
    /// It leads to a server that takes no writes, while the address may lead to another by now.
    ReadsOnly,
    /// It is of no more use.
    Ended,
}

impl Outlook {
    /// What an error says; `must`: only the connection's end would do instead of the command.
    fn of(error: &sqlx::Error, must: bool) -> Self {
        match takes_no_writes(error) {
            _ if must || is_broken(error) => Self::Ended,
            true => Self::ReadsOnly,
            false => Self::Good,
        }
    }
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

    /// Runs one command, or short ones, to their end: an answer for each, where the connection does not end with the
    /// last of fewer; and what they say of the connection.
    pub(crate) async fn run(&mut self, commands: &[Command]) -> (Vec<Answer>, Outlook) {
        let (mut answers, mut outlook) = (Vec::with_capacity(commands.len()), Outlook::Good);
        // An error ends its message: the server has run none of the statements behind it.
        while outlook != Outlook::Ended
            && let Some(left @ [first, ..]) = commands.get(answers.len()..)
        {
            let ran = match first {
                Command::Short(_) => self.each(left, &mut answers).await,
                Command::Sql(sql) => {
                    self.rows(sql).await.map(|rows| answers.push(Ok(texts(&rows))))
                }
                Command::Undo(sql) => {
                    let undone = match self.rows(sql).await {
                        // A cancellation that was meant for the wait before it.
                        Err(error) if has_code(&error, CANCELLED) => self.rows(sql).await,
                        undone => undone,
                    };
                    undone.map(|rows| answers.push(Ok(texts(&rows))))
                }
                Command::Ping => {
                    self.ping().await.map(|()| answers.resize(commands.len(), Ok(Vec::new())))
                }
            };
            if let Err(error) = ran {
                outlook = outlook.max(Outlook::of(&error, matches!(first, Command::Undo(_))));
                answers.push(Err(to_error(error, true)));
            }
        }
        (answers, outlook)
    }

    /// Runs short commands as one message: an answer for each before the first that the server refuses.
    async fn each(&mut self, commands: &[Command], answers: &mut Vec<Answer>) -> sqlx::Result<()> {
        let mut sql = String::new();
        for command in commands {
            if let Command::Short(statement) = command {
                sql.push_str(statement);
                sql.push(';');
            }
        }
        let query = sqlx::raw_sql(AssertSqlSafe(sql));
        let due = answers.len() + commands.len();
        let mut said = match self {
            Self::Plain(connection) => query.fetch_many(connection),
            Self::Watched(listener) => query.fetch_many(listener.listener()),
        };
        let mut rows = Vec::new();
        while let Some(next) = said.try_next().await? {
            match next {
                Either::Right(row) => rows.push(row),
                // The statement is complete.
                Either::Left(_) => answers.push(Ok(texts(&std::mem::take(&mut rows)))),
            }
        }
        // The pings.
        answers.resize(due, Ok(Vec::new()));
        Ok(())
    }

    async fn rows(&mut self, sql: &str) -> sqlx::Result<Vec<PgRow>> {
        let sql = sql.to_owned();
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

/// A connection that is read also while no statement runs, for notifications and for its end; closed at once where it
/// is dropped.
#[derive(Debug)]
pub(crate) struct Listener {
    /// Taken only when it is dropped or closed.
    listener: Option<PgListener>,
    pool: PgPool,
}

/// What a listener hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(String),
    Silence,
    /// The connection has ended.
    End,
}

impl Listener {
    async fn connect(options: &PgConnectOptions, limit: Duration) -> sqlx::Result<Self> {
        // The driver listens only over a connection that a pool made: this one has no other.
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .acquire_timeout(limit)
            .test_before_acquire(false)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone());
        let pool = tokio::select! {
            pool = pool => pool?,
            refusal = refusal(options) => return Err(refusal),
        };
        let mut listener = PgListener::connect_with(&pool).await?;
        listener.ignore_pool_close_event(true);
        // A connection that has ended stays so: its caller makes another, and knows it.
        listener.eager_reconnect(false);
        Ok(Self { listener: Some(listener), pool })
    }

    /// Connects within `limit` and listens; `None`: it cannot now.
    pub(crate) async fn open(
        options: &PgConnectOptions,
        channel: &str,
        limit: Duration,
    ) -> Option<Self> {
        let start = async {
            let mut listener = Self::connect(options, limit).await?;
            listener.listener().listen(channel).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        tokio::time::timeout(limit, start).await.ok()?.ok()
    }

    fn listener(&mut self) -> &mut PgListener {
        self.listener.as_mut().expect("only `close` and `drop` take it, and both end this")
    }

    /// What comes within `limit`; may be dropped midway.
    pub(crate) async fn hear(&mut self, limit: Duration) -> Heard {
        match tokio::time::timeout(limit, self.listener().try_recv()).await {
            Ok(Ok(Some(message))) => Heard::Message(message.payload().to_owned()),
            Ok(_) => Heard::End,
            Err(_) => Heard::Silence,
        }
    }

    /// Completes when the other side has ended the connection; may be dropped midway.
    async fn ended(&mut self) {
        while let Ok(Some(_)) = self.listener().try_recv().await {}
    }

    /// The rows of these statements, by the simple protocol.
    async fn rows(&mut self, sql: String) -> sqlx::Result<Vec<PgRow>> {
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(self.listener()).await
    }

    /// Asks for an answer and nothing else.
    async fn ping(&mut self) -> sqlx::Result<()> {
        self.listener().acquire().await?.ping().await
    }

    /// Asks the server for one text, which may be null; `None`: the connection has ended.
    pub(crate) async fn text(&mut self, sql: String) -> Option<Option<String>> {
        Some(only(texts(&self.rows(sql).await.ok()?)))
    }

    /// Ends the connection in order.
    async fn close(mut self) {
        drop(self.listener.take());
        self.pool.close().await;
    }
}

/// Why the server takes no connection. A pool keeps that to itself: it tries again until its limit.
async fn refusal(options: &PgConnectOptions) -> sqlx::Error {
    tokio::time::sleep(SOON).await;
    match options.connect().await {
        Ok(connection) => drop(connection.close().await),
        Err(error) => return error,
    }
    std::future::pending().await
}

impl Drop for Listener {
    fn drop(&mut self) {
        // The driver would first have a task wait for the statement under way, and say that it listens no more.
        // A runtime that has ended drops that task, and the connection with it.
        let _ended = ended_runtime().map(Handle::enter);
        drop(self.listener.take());
    }
}

/// A runtime that has ended; `None`: the system had no room for one.
fn ended_runtime() -> Option<&'static Handle> {
    static ENDED: OnceLock<Option<Handle>> = OnceLock::new();
    let make = || {
        let runtime = Builder::new_current_thread().build().ok()?;
        let handle = runtime.handle().clone();
        runtime.shutdown_background();
        Some(handle)
    };
    ENDED.get_or_init(make).as_ref()
}

/// The texts of all columns.
fn texts(rows: &[PgRow]) -> Vec<Columns> {
    let text = |row: &PgRow, column: usize| {
        let value = row.try_get_raw(column).ok().filter(|value| !value.is_null())?;
        value.as_str().ok().map(str::to_owned)
    };
    rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect()).collect()
}

/// The text of an answer of one row and one column, which may be null.
pub(crate) fn only(rows: Vec<Columns>) -> Option<String> {
    rows.into_iter().next()?.into_iter().next()?
}

#[cfg(test)]
mod tests {
    use testbed::PostgresServer;

    use super::*;

    #[tokio::test]
    async fn statements_of_one_message_are_run_once_each_and_answered_each_for_itself() {
        let server = PostgresServer::start().expect("a server");
        let options: PgConnectOptions = server.url().parse().expect("a URL");
        server.sql("CREATE SEQUENCE run; CREATE SEQUENCE failed").expect("sequences");
        let short = |sql: &str| Command::Short(sql.to_owned());
        let lines = [
            Line::plain(&options, LIMIT).await.expect("a connection"),
            Line::watched(&options, LIMIT).await.expect("a connection"),
        ];
        for (before, mut line) in [0, 4].into_iter().zip(lines) {
            let commands = [
                short("SELECT nextval('run')"),
                short("SELECT nextval('run') WHERE nextval('failed') / 0 = 1"),
                short("SELECT nextval('run') WHERE false"),
                short("SELECT nextval('run') UNION ALL SELECT nextval('run') + 10"),
                short("SELECT 1 / 0"),
                short("SELECT nextval('run')"),
                Command::Ping,
            ];
            let (answers, outlook) = line.run(&commands).await;
            assert_eq!(outlook, Outlook::Good);
            let row = |n: i64| vec![Some((before + n).to_string())];
            let said: Vec<_> = answers.into_iter().map(Result::ok).collect();
            let expected = [
                Some(vec![row(1)]),
                None,
                Some(vec![]),
                Some(vec![row(2), row(13)]),
                None,
                Some(vec![row(4)]),
                Some(vec![]),
            ];
            assert_eq!(said, expected);
            let end = short("SELECT pg_terminate_backend(pg_backend_pid())");
            let (answers, outlook) = line.run(&[short("SELECT 1"), end, Command::Ping]).await;
            assert_eq!(outlook, Outlook::Ended);
            assert!(answers.last().is_some_and(Result::is_err), "{answers:?}");
        }
        assert_eq!(server.sql("SELECT last_value FROM failed").expect("a number"), "2");
    }
}
