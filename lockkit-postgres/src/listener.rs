//! A connection that listens.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolOptions};
use sqlx::{AssertSqlSafe, Row, ValueRef};

use crate::connection::LIMIT;

/// How often a silent connection is asked whether it lives.
pub(crate) const PROBE: Duration = Duration::from_secs(5);
pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(20);
pub(crate) const LONGEST_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct Listener(PgListener);

/// What a listener hears.
#[derive(Debug)]
pub(crate) enum Heard {
    Message(String),
    Silence,
    /// The connection has ended.
    End,
}

impl Listener {
    /// Connects and listens; `None`: it cannot now.
    pub(crate) async fn open(options: &PgConnectOptions, channel: &str) -> Option<Self> {
        let start = async {
            // The driver listens only over a connection that a pool made: this one has no other.
            let pool = PgPoolOptions::new()
                .max_connections(1)
                .acquire_timeout(LIMIT)
                .idle_timeout(None)
                .max_lifetime(None)
                .connect_with(options.clone())
                .await?;
            let mut listener = PgListener::connect_with(&pool).await?;
            // The listening task makes it again, and asks for what came meanwhile.
            listener.eager_reconnect(false);
            listener.listen(channel).await?;
            Ok::<_, sqlx::Error>(listener)
        };
        tokio::time::timeout(LIMIT, start).await.ok()?.ok().map(Self)
    }

    /// What comes within `limit`; may be dropped midway.
    pub(crate) async fn hear(&mut self, limit: Duration) -> Heard {
        match tokio::time::timeout(limit, self.0.try_recv()).await {
            Ok(Ok(Some(message))) => Heard::Message(message.payload().to_owned()),
            Ok(_) => Heard::End,
            Err(_) => Heard::Silence,
        }
    }

    /// Asks the server yes or no; `None`: the connection has ended.
    pub(crate) async fn ask(&mut self, sql: String) -> Option<bool> {
        Some(self.text(sql).await?.as_deref() == Some("t"))
    }

    /// Asks the server for one text, which may be null; `None`: the connection has ended.
    pub(crate) async fn text(&mut self, sql: String) -> Option<Option<String>> {
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_optional(&mut self.0);
        let Some(row) = tokio::time::timeout(LIMIT, asked).await.ok()?.ok()? else {
            return Some(None);
        };
        let value = row.try_get_raw(0).ok()?;
        Some(if value.is_null() { None } else { Some(value.as_str().ok()?.to_owned()) })
    }

    /// Whether the connection lives.
    pub(crate) async fn lives(&mut self) -> bool {
        self.ask("SELECT true".to_owned()).await.is_some()
    }
}
