//! One session that locks live on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Result};
use sqlx::postgres::PgConnectOptions;

use crate::connection::{Columns, Command, Session};
use crate::error::{POOLER, STANDBY};
use crate::protocol::{column, garbled, number};

/// Nothing here is waited for longer.
pub(super) const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// What an unused session has: longer than any ttl.
pub(super) const UNUSED: Duration = Duration::from_secs(25 * 3600);

/// One session, and what lives on it.
#[derive(Debug)]
pub(super) struct LockSession {
    session: Session,
    pid: i32,
    since: String,
    /// The epoch, where it stands in a token.
    pub(super) base: u64,
    /// Its `idle_session_timeout` in milliseconds, and whether the server was told.
    ttl: AtomicU64,
    is_aimed: AtomicBool,
    users: AtomicUsize,
    /// It waits for a lock, and serves nobody else.
    blocks: AtomicBool,
    /// It did not answer in time, and has not answered since.
    is_silent: AtomicBool,
}

/// A use of a session: a lock that it holds, or that it is asked for.
#[derive(Debug)]
pub(super) struct Use(Arc<LockSession>);

impl Use {
    pub(super) fn of(session: &Arc<LockSession>) -> Self {
        session.users.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(session))
    }

    pub(super) const fn session(&self) -> &Arc<LockSession> {
        &self.0
    }
}

impl std::ops::Deref for Use {
    type Target = LockSession;

    fn deref(&self) -> &LockSession {
        &self.0
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        self.0.users.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for LockSession {
    fn drop(&mut self) {
        self.session.cut();
    }
}

impl LockSession {
    /// Connects, and sees to it that the session is fit for locks, and has an epoch.
    pub(super) async fn open(
        options: &PgConnectOptions,
        schema: &str,
        limit: Duration,
    ) -> Result<Self> {
        // Cut where anything below fails: nobody would end it.
        let mut opened = Self::of(Session::open(options, limit, FOREVER).await?);
        let hello = format!(
            "SELECT pid, backend_start, pg_is_in_recovery(), \
             (SELECT source FROM pg_settings WHERE name = 'idle_session_timeout'), \
             CASE WHEN NOT pg_is_in_recovery() THEN {schema}.enter() END \
             FROM pg_stat_activity WHERE pid = pg_backend_pid()"
        );
        let rows = opened.ask(&Clock::system(), limit, Command::Sql(hello)).await?;
        let row = rows.first().ok_or_else(|| garbled(&rows))?;
        if column(row, 2) == Some("t") {
            return Err(Error::rejected("a server in recovery", STANDBY));
        }
        // Ours came with the first message: whoever stands between has swallowed it.
        if column(row, 3) != Some("client") {
            return Err(Error::rejected("a connection through a pooler", POOLER));
        }
        let epoch: u64 = number(row, 4).ok_or_else(|| garbled(&rows))?;
        opened.pid = number(row, 0).ok_or_else(|| garbled(&rows))?;
        opened.since = column(row, 1).unwrap_or_default().to_owned();
        opened.base = epoch << 42;
        Ok(opened)
    }

    fn of(session: Session) -> Self {
        Self {
            session,
            pid: 0,
            since: String::new(),
            base: 0,
            ttl: AtomicU64::new(u64::try_from(UNUSED.as_millis()).unwrap_or(u64::MAX)),
            is_aimed: AtomicBool::new(true),
            users: AtomicUsize::new(0),
            blocks: AtomicBool::new(false),
            is_silent: AtomicBool::new(false),
        }
    }

    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl.load(Ordering::SeqCst))
    }

    pub(super) fn users(&self) -> usize {
        self.users.load(Ordering::SeqCst)
    }

    /// How many statements are under way or wait for their turn.
    pub(super) fn pending(&self) -> usize {
        self.session.pending()
    }

    pub(super) fn is_ended(&self) -> bool {
        self.session.is_ended()
    }

    /// Whether the runtime that served it has ended.
    pub(super) fn is_orphaned(&self) -> bool {
        self.session.is_orphaned()
    }

    /// Completes when the session has ended, and does not keep it alive.
    pub(super) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        self.session.ended()
    }

    pub(super) fn cut(&self) {
        self.session.cut();
    }

    pub(super) fn is_silent(&self) -> bool {
        self.is_silent.load(Ordering::SeqCst)
    }

    /// From now on it expires after this; nobody else may use it.
    pub(super) fn aim(&self, ttl: Duration) {
        let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if self.ttl.swap(ms, Ordering::SeqCst) != ms {
            self.is_aimed.store(false, Ordering::SeqCst);
        }
    }

    /// Whether the server knows its ttl: it is told with the next statement, and not by a ping.
    pub(super) fn is_aimed(&self) -> bool {
        self.is_aimed.load(Ordering::SeqCst)
    }

    /// It did not answer in time: others keep away from it until it does.
    pub(super) fn hush(&self) {
        self.is_silent.store(true, Ordering::SeqCst);
    }

    /// Runs a statement, telling the server the ttl first where it does not know it.
    pub(super) async fn run(
        &self,
        clock: &Clock,
        limit: Duration,
        sql: &str,
    ) -> Result<Vec<Columns>> {
        let is_aimed = self.is_aimed();
        let sql = if is_aimed {
            sql.to_owned()
        } else {
            format!("SET idle_session_timeout = {}; {sql}", self.ttl.load(Ordering::SeqCst))
        };
        let answer = self.ask(clock, limit, Command::Sql(sql)).await;
        if !is_aimed && answer.is_ok() {
            self.is_aimed.store(true, Ordering::SeqCst);
        }
        answer
    }

    /// Frees a lock that nobody owns, if it is there; the session ends where that fails.
    pub(super) async fn undo(&self, clock: &Clock, key: i64) -> Result<()> {
        self.ask(clock, FOREVER, free(key)).await.map(drop)
    }

    /// The same, without waiting for the answer.
    pub(super) fn undo_later(&self, key: i64) {
        self.session.tell(free(key));
    }

    /// Lets the server hear of us.
    pub(super) async fn ping(&self, clock: &Clock, limit: Duration) -> Result<()> {
        self.ask(clock, limit, Command::Ping).await.map(drop)
    }

    pub(super) async fn ask(
        &self,
        clock: &Clock,
        limit: Duration,
        command: Command,
    ) -> Result<Vec<Columns>> {
        let answer = self.session.ask(clock, limit, command).await;
        let unanswered = matches!(answer, Err(Error::Unavailable { applied: Applied::Maybe, .. }));
        self.is_silent.store(unanswered && !self.is_ended(), Ordering::SeqCst);
        answer
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.blocks.load(Ordering::SeqCst)
    }

    /// It waits for a lock from now on, and serves nobody else.
    pub(super) fn block(&self) {
        self.blocks.store(true, Ordering::SeqCst);
    }

    /// It waits no longer for a lock, and others may use it.
    pub(super) fn unblock(&self) {
        self.blocks.store(false, Ordering::SeqCst);
    }

    /// Whether others may use it too.
    pub(super) fn is_open_to_others(&self) -> bool {
        let closed = self.blocks.load(Ordering::SeqCst) || self.is_silent() || self.is_ended();
        !closed
    }

    /// Something that is done to this very backend, and to no later one with its number.
    pub(super) fn told(&self, what: &str) -> String {
        format!("SELECT {what} FROM pg_stat_activity WHERE {}", self.is_it())
    }

    /// The condition that a row of `pg_stat_activity` is about it.
    pub(super) fn is_it(&self) -> String {
        format!("pid = {} AND backend_start = '{}'", self.pid, self.since)
    }
}

fn free(key: i64) -> Command {
    Command::Undo(format!("SELECT pg_advisory_unlock({key})"))
}

/// The condition that a row of `pg_locks` is about this key.
pub(super) fn of_key(key: i64) -> String {
    format!(
        "locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = \
         current_database()) AND objsubid = 1 AND (classid::bigint << 32) | objid::bigint = {key}"
    )
}
