//! What all calls of the table strategy share, and how they ask the server.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::{self, Mailbox, Service, call_limit, waiter_life};
use lockkit_core::{Request, Result};
use sqlx::postgres::PgConnectOptions;

use super::pool::{Answered, Pool};
use super::wake::{self, Waiters};
use crate::connection::Columns;
use crate::protocol::{column, garbled, number, quoted, stored};

pub(super) struct Client {
    pub(super) pool: Pool,
    pub(super) schema: String,
    pub(super) token_base: u64,
    /// How the listener connects, and its channel; `None` behind a pooler.
    pub(super) listener: Option<(PgConnectOptions, String)>,
    pub(super) waiters: Arc<Waiters>,
    pub(super) listening: Service,
}

/// A call, or a lease, of a request.
pub(super) type Entry = kit::Entry<Mailbox<Infallible>>;

impl fmt::Debug for Client {
    /// Without the options: they hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("pool", &self.pool).finish_non_exhaustive()
    }
}

/// The answer to an acquire.
#[derive(Debug)]
pub(super) enum Answer {
    Granted {
        token: u64,
    },
    /// Held by another, or another's turn; in how long one of us asks again.
    Held {
        ask_in: Option<Duration>,
        label: Option<String>,
    },
    Withdrawn,
}

impl Answer {
    fn of(rows: &[Columns]) -> Result<Self> {
        let row = rows.first().ok_or_else(|| garbled(rows))?;
        match column(row, 0) {
            Some("granted") => {
                Ok(Self::Granted { token: number(row, 1).ok_or_else(|| garbled(rows))? })
            }
            Some("held") => Ok(Self::Held {
                ask_in: number(row, 1).map(Duration::from_millis),
                label: column(row, 2).map(str::to_owned),
            }),
            Some("withdrawn") => Ok(Self::Withdrawn),
            _ => Err(garbled(rows)),
        }
    }
}

impl Client {
    /// Calls one of our functions about this request's lock.
    async fn call(&self, request: &Request, function: &str, more: &str) -> Result<Answered> {
        let name = quoted(&stored(request.name().as_str()));
        let (schema, id) = (&self.schema, request.id());
        let sql = format!("SELECT * FROM {schema}.{function}({name}, '{id}'{more})");
        self.pool.run(request.clock(), call_limit(request.ttl()), &sql).await
    }

    /// Calls one that answers yes or no.
    pub(super) async fn is_so(
        &self,
        request: &Request,
        function: &str,
        more: &str,
    ) -> Result<bool> {
        let rows = self.call(request, function, more).await?.rows;
        match rows.first().and_then(|row| column(row, 0)) {
            Some("t") => Ok(true),
            Some("f") => Ok(false),
            _ => Err(garbled(&rows)),
        }
    }

    pub(super) async fn ask(&self, entry: &Entry, waits: bool) -> Result<Answer> {
        let request = entry.request();
        let Ok(sending) = entry.send() else { return Ok(Answer::Withdrawn) };
        let (ttl, life) = (request.ttl().as_millis(), waiter_life(request.ttl()).as_millis());
        let wake = match &self.listener {
            Some((_, channel)) => format!("'{channel}'"),
            None => "NULL".to_owned(),
        };
        let label = quoted(&request.label().replace('\0', "\u{fffd}"));
        let more = format!(", {ttl}, {life}, {wake}, {label}, {waits}");
        let answer = self.call(request, "acquire", &more).await;
        let is_answered = match &answer {
            Ok(answer) => !answer.replayed,
            Err(error) => !error.is_ambiguous(),
        };
        if is_answered {
            sending.answered();
        }
        Answer::of(&answer?.rows)
    }

    /// Ends a request; whether it held the name.
    pub(super) async fn leave(&self, entry: &Entry) -> Result<bool> {
        let tombstone = entry.may_still_arrive();
        self.is_so(entry.request(), "leave", &format!(", {tombstone}")).await
    }

    /// A waiter listens from now on.
    pub(super) fn listen(&self) -> Result<()> {
        let Some((options, channel)) = &self.listener else { return Ok(()) };
        self.listening.ensure(|alive| {
            wake::serve(alive, Arc::clone(&self.waiters), options.clone(), channel.clone())
        })
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.listening.stop();
    }
}
