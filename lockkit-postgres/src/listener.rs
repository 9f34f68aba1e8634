//! A connection that is read also while no statement runs: for notifications, and for its end.

use std::sync::OnceLock;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPool, PgPoolOptions, PgRow};
use sqlx::{Acquire, AssertSqlSafe, ConnectOptions, Connection};
use tokio::runtime::{Builder, Handle};

use crate::protocol::{only, texts};

/// A connection that is refused is refused by then.
const SOON: Duration = Duration::from_millis(250);
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(20);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A connection; closed at once where it is dropped.
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
    pub(crate) async fn connect(options: &PgConnectOptions, limit: Duration) -> sqlx::Result<Self> {
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

    pub(crate) fn listener(&mut self) -> &mut PgListener {
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
    pub(crate) async fn ended(&mut self) {
        while let Ok(Some(_)) = self.listener().try_recv().await {}
    }

    /// The rows of these statements, by the simple protocol.
    pub(crate) async fn rows(&mut self, sql: String) -> sqlx::Result<Vec<PgRow>> {
        sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(self.listener()).await
    }

    /// Asks for an answer and nothing else.
    pub(crate) async fn ping(&mut self) -> sqlx::Result<()> {
        self.listener().acquire().await?.ping().await
    }

    /// Asks the server for one text, which may be null; `None`: the connection has ended.
    pub(crate) async fn text(&mut self, sql: String) -> Option<Option<String>> {
        Some(only(texts(&self.rows(sql).await.ok()?)))
    }

    /// Ends the connection in order.
    pub(crate) async fn close(mut self) {
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
