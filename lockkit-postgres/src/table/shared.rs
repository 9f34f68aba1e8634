//! What the calls of the table strategy share with the task that beats.

use std::sync::Arc;
use std::time::Duration;

use lockkit_core::Instant;
use lockkit_core::kit::{Mailbox, Requests};
use sqlx::postgres::PgConnectOptions;

use super::beats::Beats;
use super::pool::Pool;

/// A grant that the server told without being asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct Granted {
    pub(super) token: u64,
    /// When the beat was sent from which the server counts the term.
    pub(super) sent: Instant,
}

/// What the calls share with the task that beats.
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) schema: String,
    /// The server's, for errors.
    pub(super) address: Arc<str>,
    /// How one connects to listen; `None` behind a pooler.
    pub(super) listener: Option<PgConnectOptions>,
    pub(super) waiters: Arc<Requests<Mailbox<Granted>>>,
    pub(super) beats: Beats,
    /// The longest ttl whose grants are not flushed.
    pub(super) barrier: Duration,
}
