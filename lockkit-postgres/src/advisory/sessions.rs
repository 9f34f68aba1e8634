//! The sessions that locks live on: the server ends each that is not heard of for a ttl.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Result};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;

use super::session::{LockSession, UNUSED, Use, of_key};
use crate::connection::{Columns, Command, LIMIT, PATIENCE};
use crate::protocol::column;

/// How many statements wait for a session before another one is used or opened. They are answered
/// one by one: on a link of 100 ms each way so many take almost a second.
const CROWD: usize = 4;
/// How soon what the server did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(50);

/// What is told of each new session.
pub(super) type Watch = Box<dyn Fn(&Arc<LockSession>) + Send + Sync>;

pub(super) struct Sessions {
    options: PgConnectOptions,
    schema: String,
    most: usize,
    all: Mutex<Vec<Arc<LockSession>>>,
    /// How many are being opened, which are as good as there.
    opening: AtomicUsize,
    closed: AtomicBool,
    one_at_a_time: tokio::sync::Mutex<()>,
    watch: Watch,
}

/// Room for one more session, until it is among the others.
struct Room<'a>(&'a AtomicUsize);

impl Drop for Room<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl fmt::Debug for Sessions {
    /// Without the options: they hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("all", &self.all).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(options: &PgConnectOptions, schema: &str, most: usize, watch: Watch) -> Self {
        let timeout = UNUSED.as_millis().to_string();
        let options = options.clone().options([
            ("default_transaction_isolation", "read committed"),
            ("idle_session_timeout", &timeout),
            // A client that is gone waits no longer, and one that is cut off is found out.
            ("client_connection_check_interval", "500"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
            // A role's own limits would end a wait.
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
        ]);
        // The driver would warn of every wait of a second.
        let options = options.disable_statement_logging();
        Self {
            options,
            schema: schema.to_owned(),
            most,
            all: Mutex::default(),
            opening: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            one_at_a_time: tokio::sync::Mutex::default(),
            watch,
        }
    }

    /// How they connect.
    pub(super) const fn options(&self) -> &PgConnectOptions {
        &self.options
    }

    /// Opens the first session, and leaves it for whoever comes.
    pub(super) async fn warm(&self) -> Result<()> {
        let session = self.open(PATIENCE).await?;
        self.add(session)
    }

    /// A session to try for a lock of this ttl on.
    pub(super) async fn holder(&self, ttl: Duration) -> Result<Use> {
        if let Some(session) = self.for_holder(ttl, true) {
            return Ok(session);
        }
        let _one_at_a_time = self.one_at_a_time.lock().await;
        if let Some(session) = self.for_holder(ttl, true) {
            return Ok(session);
        }
        if let Some(_room) = self.room() {
            let session = self.open(LIMIT).await?;
            let used = Use::of(&session);
            session.aim(ttl);
            self.add(session)?;
            return Ok(used);
        }
        self.for_holder(ttl, false).ok_or_else(|| {
            let what = format!("all {} connections hold locks of other ttls", self.most);
            Error::unavailable(Applied::No, format!("{what}; raise `connections`"))
        })
    }

    /// A session to wait for a lock on; `None`: there are enough that wait.
    pub(super) async fn waiter(&self, ttl: Duration) -> Result<Option<Use>> {
        if let Some(session) = self.for_waiter(ttl) {
            return Ok(Some(session));
        }
        let _one_at_a_time = self.one_at_a_time.lock().await;
        if let Some(session) = self.for_waiter(ttl) {
            return Ok(Some(session));
        }
        if self.blocked() >= self.most / 2 {
            return Ok(None);
        }
        let Some(_room) = self.room() else { return Ok(None) };
        let session = self.open(LIMIT).await?;
        session.block();
        let used = Use::of(&session);
        session.aim(ttl);
        self.add(session)?;
        Ok(Some(used))
    }

    /// Whether a lock on it can go on to a request of this ttl: it has it, or can be given it.
    pub(super) fn suits(&self, session: &LockSession, ttl: Duration) -> bool {
        // Nobody comes to it meanwhile.
        let _all = self.all();
        if session.users() == 1 {
            session.aim(ttl);
        }
        session.ttl() == ttl
    }

    /// Runs a statement that has nothing to do with any lock of ours, on whatever session is free.
    pub(super) async fn control(
        &self,
        clock: &Clock,
        limit: Duration,
        sql: &str,
    ) -> Result<Vec<Columns>> {
        let session = {
            let all = self.all();
            let open = all.iter().filter(|session| session.is_open_to_others());
            open.min_by_key(|session| session.pending()).cloned()
        };
        let session = match session {
            Some(session) => session,
            None => self.fresh().await?,
        };
        self.ask_of(&session, clock, limit, sql).await
    }

    async fn fresh(&self) -> Result<Arc<LockSession>> {
        let Some(_room) = self.room() else {
            let what = format!("all {} connections wait, or do not answer", self.most);
            return Err(Error::unavailable(Applied::No, what));
        };
        let session = self.open(LIMIT).await?;
        self.add(Arc::clone(&session))?;
        Ok(session)
    }

    async fn ask_of(
        &self,
        session: &LockSession,
        clock: &Clock,
        limit: Duration,
        sql: &str,
    ) -> Result<Vec<Columns>> {
        let answer = session.ask(clock, limit, Command::Sql(sql.to_owned())).await;
        if session.is_silent() && session.users() == 0 {
            session.cut();
        }
        answer
    }

    /// Ends the backend of a session of ours that is of no more use, with all its locks; returns
    /// once it is gone, or the server has had the time to end it by itself.
    pub(super) async fn bury(&self, clock: &Clock, session: &LockSession) {
        session.cut();
        let end = clock.now().saturating_add(session.ttl());
        // Said again each time: it says whether there is anything left to end.
        let sql = session.told("pg_terminate_backend(pid)");
        // What has silenced it may have silenced its neighbours: over a new one, if there may be one.
        let mut fresh: Option<Arc<LockSession>> = None;
        self.all().retain(|other| other.users() > 0 && !other.is_ended());
        // What is cut when all is closed, the server ends by itself.
        while clock.now() < end && !self.is_closed() {
            if fresh.is_none() {
                fresh = self.fresh().await.ok();
            }
            let answer = match &fresh {
                Some(session) => self.ask_of(session, clock, LIMIT / 2, &sql).await,
                None => self.control(clock, LIMIT / 20, &sql).await,
            };
            if answer.is_err() {
                fresh = None;
            }
            match answer {
                Ok(rows) if rows.is_empty() => return,
                Ok(_) => clock.sleep(AGAIN / 10).await,
                Err(_) => clock.sleep(AGAIN).await,
            }
        }
    }

    /// Ends the statement that a session of ours waits in.
    pub(super) async fn cancel(&self, clock: &Clock, session: &LockSession) -> Result<()> {
        self.control(clock, LIMIT / 2, &session.told("pg_cancel_backend(pid)")).await.map(drop)
    }

    /// Whether a session of ours still waits for this lock.
    pub(super) async fn still_waits(
        &self,
        clock: &Clock,
        session: &LockSession,
        key: i64,
    ) -> Result<bool> {
        let sql = format!(
            "SELECT NOT bool_or(l.granted) FROM pg_stat_activity a JOIN pg_locks l USING (pid) \
             WHERE {} AND {}",
            session.is_it(),
            of_key(key),
        );
        let rows = self.control(clock, LIMIT / 2, &sql).await?;
        Ok(rows.first().and_then(|row| column(row, 0)) == Some("t"))
    }

    /// Lets a session go that nobody has used for long, unless it is the last of its kind.
    pub(super) fn retire(&self, session: &Arc<LockSession>) {
        let mut all = self.all();
        let unused = all.iter().filter(|session| session.users() == 0).count();
        if unused > 1 && session.users() == 0 {
            all.retain(|other| !Arc::ptr_eq(other, session));
        }
    }

    /// Ends all of them, and opens no more.
    pub(super) fn close(&self) {
        let mut all = self.all();
        self.closed.store(true, Ordering::SeqCst);
        for session in all.drain(..) {
            session.cut();
        }
    }

    fn add(&self, session: Arc<LockSession>) -> Result<()> {
        let mut all = self.all();
        if self.is_closed() {
            return Err(Error::Closed);
        }
        all.push(session);
        Ok(())
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }

    fn for_holder(&self, ttl: Duration, fits: bool) -> Option<Use> {
        let mut all = self.all();
        all.retain(|session| !session.is_ended());
        let room = all.len() + self.opening.load(Ordering::SeqCst) < self.most;
        let open = || all.iter().filter(|session| session.is_open_to_others());
        let busy = |session: &&Arc<LockSession>| session.pending();
        let same = open().filter(|session| session.users() > 0 && session.ttl() == ttl);
        let least = same.min_by_key(busy);
        if let Some(session) = least.filter(|session| busy(session) < CROWD) {
            return Some(Use::of(session));
        }
        if let Some(session) = open().find(|session| session.users() == 0) {
            let used = Use::of(session);
            session.aim(ttl);
            return Some(used);
        }
        if let Some(session) = least.filter(|_| !room) {
            return Some(Use::of(session));
        }
        if fits {
            return None;
        }
        let longer = open().filter(|session| session.ttl() >= ttl);
        longer.min_by_key(|session| session.ttl()).map(Use::of)
    }

    fn for_waiter(&self, ttl: Duration) -> Option<Use> {
        let mut all = self.all();
        all.retain(|session| !session.is_ended());
        let blocked = all.iter().filter(|session| session.is_waiting()).count();
        let mut unused =
            all.iter().filter(|session| session.is_open_to_others() && session.users() == 0);
        // One is left for those that try, and to look after those that wait.
        let session =
            unused.next().filter(|_| all.len() > blocked + 1 && blocked < self.most / 2)?;
        session.block();
        let used = Use::of(session);
        session.aim(ttl);
        Some(used)
    }

    fn room(&self) -> Option<Room<'_>> {
        let mut all = self.all();
        all.retain(|session| !session.is_ended());
        (all.len() + self.opening.load(Ordering::SeqCst) < self.most).then(|| {
            self.opening.fetch_add(1, Ordering::SeqCst);
            Room(&self.opening)
        })
    }

    fn blocked(&self) -> usize {
        self.all().iter().filter(|session| session.is_waiting()).count()
    }

    async fn open(&self, limit: Duration) -> Result<Arc<LockSession>> {
        let session = Arc::new(LockSession::open(&self.options, &self.schema, limit).await?);
        (self.watch)(&session);
        Ok(session)
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<LockSession>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
