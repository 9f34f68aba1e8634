//! One session that locks live on.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Instant, Kind, LossReason, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;

use crate::connection::{After, Session};
use crate::error::POOLER;
use crate::line::{Answer, Command, LIMIT};
use crate::protocol::{Columns, column, garbled, number};

/// Nothing here is waited for longer: locks of others live on the session.
const FOREVER: Duration = Duration::from_secs(u32::MAX as u64);
/// The longest time that the kernel waits for a silent client before it asks.
const LONGEST_SILENCE: u64 = 32_767;
/// The same for a session on which nothing lives.
const SILENCE_AT_REST: u64 = 60;
/// The first statement over a session.
const HELLO: &str = "SELECT pid, backend_start, pg_is_in_recovery(), \
    (SELECT source FROM pg_settings WHERE name = 'idle_session_timeout'), \
    CASE WHEN NOT pg_is_in_recovery() THEN lockkit.enter() END, \
    CASE WHEN current_setting('transaction_timeout', true) IS NOT NULL \
    THEN set_config('transaction_timeout', '0', false) END, current_setting('transaction_read_only') \
    FROM pg_stat_activity WHERE pid = pg_backend_pid(); \
    PREPARE lockkit_try(bigint) AS \
    SELECT CASE WHEN pg_try_advisory_lock($1) THEN nextval('lockkit.token') END; \
    PREPARE lockkit_wait(bigint, int) AS \
    SELECT got, CASE WHEN got > 0 THEN nextval('lockkit.token') END \
    FROM (SELECT lockkit.wait($1, $2) AS got OFFSET 0) waited; \
    PREPARE lockkit_unlock(bigint) AS SELECT pg_advisory_unlock($1); \
    PREPARE lockkit_undo(bigint) AS SELECT pg_advisory_unlock($1) WHERE lockkit.holds($1); \
    PREPARE lockkit_try_shared(bigint) AS \
    SELECT CASE WHEN pg_try_advisory_lock_shared($1) THEN nextval('lockkit.token') END; \
    PREPARE lockkit_join(bigint) AS \
    SELECT CASE WHEN pg_try_advisory_xact_lock_shared($1) THEN nextval('lockkit.token') END; \
    PREPARE lockkit_wait_shared(bigint, int) AS \
    SELECT got, CASE WHEN got > 0 THEN nextval('lockkit.token') END \
    FROM (SELECT lockkit.wait_shared($1, $2) AS got OFFSET 0) waited; \
    PREPARE lockkit_unlock_shared(bigint) AS SELECT pg_advisory_unlock_shared($1); \
    PREPARE lockkit_undo_shared(bigint) AS SELECT pg_advisory_unlock_shared($1) WHERE lockkit.holds($1)";

/// What the statements about locks that are shared end with.
const fn mode(kind: Kind) -> &'static str {
    match kind {
        Kind::Shared => "_shared",
        _ => "",
    }
}

/// One session, and what lives on it.
#[derive(Debug)]
pub(super) struct LockSession {
    session: Session,
    pid: i32,
    since: String,
    /// The epoch, where it stands in a token.
    base: u64,
    /// Its `idle_session_timeout` in milliseconds, none at rest; and whether the server was told.
    ttl: AtomicU64,
    is_aimed: AtomicBool,
    aimed: Arc<Notify>,
    users: AtomicUsize,
    /// It waits for a lock, and serves no other request.
    blocks: AtomicBool,
    held: Mutex<Vec<Weak<dyn Lives>>>,
}

/// A lock that lives on a session.
pub(super) trait Lives: std::fmt::Debug + Send + Sync {
    fn is_live(&self) -> bool;

    /// When it is given back unless it is renewed before: others on its session may be renewed for ever.
    fn lapses(&self) -> Instant;

    /// Ends it, and undoes what is in the server.
    fn lose(&self, reason: LossReason);
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
        if self.0.users.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.unblock();
            if self.0.reads_only() {
                // The next request connects to where the address leads by now.
                self.0.cut();
            }
        }
    }
}

impl std::ops::Deref for LockSession {
    type Target = Session;

    fn deref(&self) -> &Session {
        &self.session
    }
}

impl Drop for LockSession {
    fn drop(&mut self) {
        // Without this it ends in order, once it has nothing to do.
        if self.pending() > 0 {
            self.cut();
        }
    }
}

impl LockSession {
    /// Connects, and checks that the session is fit for locks, to which the server answers within `limit`.
    pub(super) async fn open(options: &PgConnectOptions, limit: Duration) -> Result<Self> {
        let session = Session::watched(options, LIMIT, FOREVER).await?;
        let hello = Command::Sql(HELLO.to_owned());
        let answer = session.ask(&Clock::system(), limit, hello).await;
        let answer = answer.inspect_err(|_| session.cut())?;
        let row = answer.first().ok_or_else(|| garbled(&answer))?;
        // Who connects was refused before: since then the address leads elsewhere, for a while.
        if column(row, 2) == Some("t") {
            return Err(Error::unavailable(Applied::No, "the server is in recovery: a standby"));
        }
        if column(row, 6) == Some("on") {
            return Err(Error::unavailable(Applied::No, "the server takes no writes"));
        }
        // Ours came with the first message: a pooler between has swallowed it.
        if column(row, 3) != Some("client") {
            return Err(Error::rejected("a connection through a pooler", POOLER));
        }
        let epoch: u64 = number(row, 4).ok_or_else(|| garbled(&answer))?;
        Ok(Self {
            pid: number(row, 0).ok_or_else(|| garbled(&answer))?,
            since: column(row, 1).unwrap_or_default().to_owned(),
            base: epoch << 42,
            ttl: AtomicU64::new(0),
            is_aimed: AtomicBool::new(true),
            aimed: Arc::default(),
            users: AtomicUsize::new(0),
            blocks: AtomicBool::new(false),
            held: Mutex::default(),
            session,
        })
    }

    /// After this silence the server ends it; none at rest.
    pub(super) fn ttl(&self) -> Duration {
        Duration::from_millis(self.ttl.load(Ordering::SeqCst))
    }

    pub(super) fn users(&self) -> usize {
        self.users.load(Ordering::SeqCst)
    }

    /// From now on the server ends it after this silence; the server is told with the next statement.
    pub(super) fn aim(&self, ttl: Duration) {
        let ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        if self.ttl.swap(ms, Ordering::SeqCst) != ms {
            self.is_aimed.store(false, Ordering::SeqCst);
            self.aimed.notify_one();
        }
    }

    /// Completes when it is given another ttl, and does not keep it alive.
    pub(super) fn aimed(&self) -> impl Future<Output = ()> + Send + use<> {
        let aimed = Arc::clone(&self.aimed);
        async move { aimed.notified().await }
    }

    /// Tries for a lock; the token, if the server grants it.
    pub(super) async fn try_lock(
        &self,
        clock: &Clock,
        limit: Duration,
        kind: Kind,
        key: i64,
    ) -> Result<Option<u64>> {
        let sql = format!("EXECUTE lockkit_try{}({key})", mode(kind));
        let rows = self.run(clock, limit, sql, Command::Short).await?;
        let row = rows.first().ok_or_else(|| garbled(&rows))?;
        self.token(row, 0)
    }

    /// A token for a request that joins those who share a lock on another session of ours; `None` where a request that
    /// wants it alone waits.
    pub(super) async fn join(
        &self,
        clock: &Clock,
        limit: Duration,
        key: i64,
    ) -> Result<Option<u64>> {
        let sql = format!("EXECUTE lockkit_join({key})");
        let rows = self.ask(clock, limit, Command::Short(sql)).await?;
        let row = rows.first().ok_or_else(|| garbled(&rows))?;
        self.token(row, 0)
    }

    /// Waits for a lock within `slice`, and for the answer `limit` longer; the token, if the server grants it, and
    /// whether others held it meanwhile.
    pub(super) async fn wait(
        &self,
        clock: &Clock,
        limit: Duration,
        (kind, key): (Kind, i64),
        slice: Duration,
    ) -> Result<(Option<u64>, bool)> {
        let sql = format!("EXECUTE lockkit_wait{}({key}, {})", mode(kind), slice.as_millis());
        let rows = self.run(clock, slice + limit, sql, Command::Sql).await?;
        let row = rows.first().ok_or_else(|| garbled(&rows))?;
        Ok((self.token(row, 1)?, number(row, 0) != Some(1)))
    }

    /// Frees a lock; whether it was there.
    pub(super) async fn unlock(
        &self,
        clock: &Clock,
        limit: Duration,
        kind: Kind,
        key: i64,
    ) -> Result<bool> {
        let sql = format!("EXECUTE lockkit_unlock{}({key})", mode(kind));
        let rows = self.run(clock, limit, sql, Command::Short).await?;
        match rows.first().and_then(|row| column(row, 0)) {
            Some("t") => Ok(true),
            Some("f") => Ok(false),
            _ => Err(garbled(&rows)),
        }
    }

    /// The token in this column, with the epoch; `None`: the server has granted none.
    fn token(&self, row: &Columns, n: usize) -> Result<Option<u64>> {
        let Some(low) = row.get(n).and_then(Option::as_deref) else { return Ok(None) };
        let low: u64 = low.parse().map_err(|_| garbled(std::slice::from_ref(row)))?;
        Ok(Some(self.base + low))
    }

    /// Runs a statement, and tells the server the ttl first where it does not know it.
    pub(super) async fn run(
        &self,
        clock: &Clock,
        limit: Duration,
        sql: String,
        command: impl FnOnce(String) -> Command,
    ) -> Answer {
        if self.is_aimed.load(Ordering::SeqCst) {
            return self.ask(clock, limit, command(sql)).await;
        }
        // Alone: a statement beside it that fails would take the settings back.
        let sql = format!("{}; {sql}", silence(self.ttl.load(Ordering::SeqCst)));
        let answer = self.ask(clock, limit, Command::Sql(sql)).await;
        if answer.is_ok() {
            self.is_aimed.store(true, Ordering::SeqCst);
        }
        answer
    }

    /// Frees a lock that no request owns, if it is there, and then calls `after`; the session ends where that
    /// fails.
    pub(super) fn undo_later(&self, kind: Kind, key: i64, after: After) {
        let sql = format!("EXECUTE lockkit_undo{}({key})", mode(kind));
        self.session.tell(Command::Undo(sql), after);
    }

    /// Lets the server hear of us.
    pub(super) async fn ping(&self, clock: &Clock, limit: Duration) -> Result<()> {
        self.ask(clock, limit, Command::Ping).await.map(drop)
    }

    pub(super) fn is_waiting(&self) -> bool {
        self.blocks.load(Ordering::SeqCst)
    }

    /// It waits for a lock from now on, and serves no other request.
    pub(super) fn block(&self) {
        self.blocks.store(true, Ordering::SeqCst);
    }

    /// It waits no longer for a lock, and other requests may use it.
    pub(super) fn unblock(&self) {
        self.blocks.store(false, Ordering::SeqCst);
    }

    /// Whether other requests may use it too, and had better.
    pub(super) fn is_good_for_others(&self) -> bool {
        self.is_open_to_others() && !self.reads_only()
    }

    /// Whether other requests may use it too.
    pub(super) fn is_open_to_others(&self) -> bool {
        let closed = self.is_waiting() || self.is_silent() || self.is_ended();
        !closed
    }

    /// Something that is done to this very backend, and to no later one with its number.
    pub(super) fn told(&self, what: &str) -> String {
        format!(
            "SELECT {what} FROM pg_stat_activity WHERE pid = {} AND backend_start = '{}'",
            self.pid, self.since
        )
    }

    /// Notes a lock that lives on it.
    pub(super) fn hold(&self, held: Weak<dyn Lives>) {
        let mut all = self.all_held();
        all.retain(|held| held.strong_count() > 0);
        all.push(held);
    }

    /// Gives back what is renewed no more, where others keep the session alive; when the next lock is due.
    pub(super) fn lapse(&self, now: Instant) -> Option<Instant> {
        let live: Vec<_> = self.all_held().iter().filter_map(Weak::upgrade).collect();
        let mut next: Option<Instant> = None;
        for held in live.iter().filter(|held| held.is_live()) {
            let due = held.lapses();
            if due <= now {
                held.lose(LossReason::Expired);
            } else {
                next = Some(next.map_or(due, |next| next.min(due)));
            }
        }
        next
    }

    /// Whether a lock lives on it.
    pub(super) fn is_lived_on(&self) -> bool {
        self.all_held().iter().filter_map(Weak::upgrade).any(|held| held.is_live())
    }

    /// All that lives on it is lost.
    pub(super) fn lose(&self) {
        let all: Vec<_> = std::mem::take(&mut *self.all_held());
        for held in all.iter().filter_map(Weak::upgrade) {
            held.lose(LossReason::SessionEnded);
        }
    }

    fn all_held(&self) -> MutexGuard<'_, Vec<Weak<dyn Lives>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The statements that have the server end a session after a silence of this many milliseconds, and not before.
fn silence(ttl: u64) -> String {
    let seconds = if ttl == 0 { SILENCE_AT_REST } else { ttl.div_ceil(1_000) };
    let (idle, beyond) = (seconds.min(LONGEST_SILENCE), seconds.saturating_sub(LONGEST_SILENCE));
    // One more question after as long as is left, and two more for a lost one.
    let interval = beyond.clamp(10, LONGEST_SILENCE);
    format!(
        "SET idle_session_timeout = {ttl}; SET tcp_keepalives_idle = {idle}; \
         SET tcp_keepalives_interval = {interval}"
    )
}
