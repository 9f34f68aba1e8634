//! The sessions that locks live on: the server ends each that is not heard of for a ttl.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Instant, Result};
use sqlx::ConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::{LockSession, Use};
use crate::connection::PATIENCE;
use crate::line::{Command, LIMIT};
use crate::protocol::Columns;

/// How many statements wait for a session before another one is used or opened. One message holds all that came while
/// the last one was under way: a crowd costs two round trips, and little more of the server's time than one of them.
const CROWD: usize = 16;
/// How soon what the server did not answer is asked again.
const AGAIN: Duration = Duration::from_millis(50);
/// How long a session is kept that no request uses.
const UNUSED: Duration = Duration::from_secs(10);
/// How often a session is checked, at least.
const CHECK: Duration = Duration::from_millis(500);

pub(super) struct Sessions {
    pub(super) options: PgConnectOptions,
    /// The server's, for errors.
    pub(super) address: Arc<str>,
    most: usize,
    all: Mutex<Vec<Arc<LockSession>>>,
    /// How many are being opened, which are as good as there.
    opening: AtomicUsize,
    closed: AtomicBool,
    one_at_a_time: tokio::sync::Mutex<()>,
    /// When the server took no more connections.
    refused: Mutex<Option<Instant>>,
    /// So many sessions may wait at once, and so many requests want to.
    waits: Arc<Semaphore>,
    wanted: AtomicUsize,
    shared: Weak<Self>,
}

/// Counted until it is dropped.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn of(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Counted<'_> {
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
    pub(super) fn new(options: &PgConnectOptions, address: &Arc<str>, most: usize) -> Arc<Self> {
        let options = options.clone().options([
            ("default_transaction_isolation", "read committed"),
            ("idle_session_timeout", "0"),
            // A client that is gone waits no longer.
            ("client_connection_check_interval", "500"),
            // No silence ends a session before its ttl: longer than any.
            ("tcp_user_timeout", "90000000"),
            ("tcp_keepalives_count", "3"),
            ("plan_cache_mode", "force_generic_plan"),
            // A role's own limits would end a wait.
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
        ]);
        // The driver would warn of every wait of a second.
        let options = options.disable_statement_logging();
        Arc::new_cyclic(|shared| Self {
            options,
            address: Arc::clone(address),
            most,
            all: Mutex::default(),
            opening: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            one_at_a_time: tokio::sync::Mutex::default(),
            refused: Mutex::default(),
            waits: Arc::new(Semaphore::new(most / 2)),
            wanted: AtomicUsize::new(0),
            shared: Weak::clone(shared),
        })
    }

    /// Opens the first session, for the first request.
    pub(super) async fn warm(&self) -> Result<()> {
        let session = self.open(PATIENCE).await?;
        self.add(session)
    }

    /// A session to try for a lock of this ttl on.
    pub(super) async fn holder(&self, ttl: Duration) -> Result<Use> {
        match self.found_or_opened(ttl, false, || self.for_holder(ttl)).await {
            Ok(Some(session)) => Ok(session),
            // The server may have no room either: then a session is shared although it has much to do, or lives longer.
            otherwise => self.for_want_of_room(ttl).ok_or_else(|| {
                let what = format!("all {} connections hold locks of other ttls", self.most);
                let full = Error::unavailable(Applied::No, format!("{what}; raise `connections`"));
                otherwise.err().unwrap_or(full)
            }),
        }
    }

    /// The right to wait for a lock on a session; requests get it in the order of arrival. It may be left
    /// unpolled: it holds nothing that others need.
    pub(super) async fn may_wait(&self) -> Result<OwnedSemaphorePermit> {
        let _wanting = Counted::of(&self.wanted);
        Arc::clone(&self.waits).acquire_owned().await.map_err(|_| Error::Closed)
    }

    /// A session to wait for a lock on; `None`: all others hold locks or are being undone, or the server takes no
    /// more connections.
    pub(super) async fn waiter(&self, ttl: Duration) -> Result<Option<Use>> {
        match self.found_or_opened(ttl, true, || self.for_waiter(ttl)).await {
            Err(Error::Unavailable { .. }) => Ok(None),
            session => session,
        }
    }

    /// Whether a request wants to wait, and every connection that may wait does.
    pub(super) fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::SeqCst) > 0 && self.waits.available_permits() == 0
    }

    /// What `find` gives, or a new session for a lock of this ttl, one at a time; `None`: there is no room for it.
    async fn found_or_opened(
        &self,
        ttl: Duration,
        waits: bool,
        find: impl Fn() -> Option<Use> + Send,
    ) -> Result<Option<Use>> {
        if let Some(session) = find() {
            return Ok(Some(session));
        }
        let _one_at_a_time = self.one_at_a_time.lock().await;
        if let Some(session) = find() {
            return Ok(Some(session));
        }
        let Some(_room) = self.room() else { return Ok(None) };
        let session = self.open(LIMIT).await?;
        if waits {
            session.block();
        }
        let used = Use::of(&session);
        session.aim(ttl);
        self.add(session)?;
        Ok(Some(used))
    }

    /// Runs a statement that has nothing to do with any lock of ours, over the session with the least to do.
    pub(super) async fn control(
        &self,
        clock: &Clock,
        limit: Duration,
        sql: &str,
    ) -> Result<Vec<Columns>> {
        let session = {
            let all = self.all();
            let open = all.iter().filter(|session| session.is_good_for_others());
            open.min_by_key(|session| session.pending()).cloned()
        };
        let session = match session {
            Some(session) => session,
            None => self.fresh().await?,
        };
        let answer = session.ask(clock, limit, Command::Sql(sql.to_owned())).await;
        if session.is_silent() && session.users() == 0 {
            session.cut();
        }
        answer
    }

    /// The session with the least to do of those that are none of these.
    pub(super) async fn beside(
        &self,
        these: impl Fn(&LockSession) -> bool + Send,
    ) -> Result<Arc<LockSession>> {
        let other = {
            let all = self.all();
            let others = all.iter().filter(|other| !these(other));
            let open = others.filter(|other| other.is_good_for_others());
            open.min_by_key(|other| other.pending()).cloned()
        };
        match other {
            Some(other) => Ok(other),
            None => self.fresh().await,
        }
    }

    async fn fresh(&self) -> Result<Arc<LockSession>> {
        if self.is_closed() {
            return Err(Error::Closed);
        }
        let Some(_room) = self.room() else {
            let what = format!("all {} connections wait, or do not answer", self.most);
            return Err(Error::unavailable(Applied::No, what));
        };
        let session = self.open(LIMIT).await?;
        self.add(Arc::clone(&session))?;
        Ok(session)
    }

    /// Has the server end the backend of a session of ours that has ended here; returns once it is gone.
    pub(super) async fn bury(&self, clock: &Clock, session: &LockSession) -> Result<()> {
        // Said again each time: the answer says whether there is anything left to end.
        let sql = session.told("pg_terminate_backend(pid)");
        loop {
            match self.control(clock, LIMIT / 4, &sql).await {
                Ok(rows) if rows.is_empty() => return Ok(()),
                Ok(_) => clock.sleep(AGAIN / 10).await,
                Err(Error::Closed) => return Err(Error::Closed),
                Err(_) => clock.sleep(AGAIN).await,
            }
        }
    }

    /// Ends the statement that a session of ours waits for a lock in.
    pub(super) async fn cancel(&self, clock: &Clock, session: &LockSession) -> Result<()> {
        let told = session.told("pg_cancel_backend(pid)");
        let sql = format!("{told} AND wait_event_type = 'Lock' AND wait_event = 'advisory'");
        self.control(clock, LIMIT / 4, &sql).await.map(drop)
    }

    /// Looks after a session that no request has used for so long.
    async fn unused(&self, clock: &Clock, session: &Arc<LockSession>, unused: Duration) {
        if session.ttl().is_zero() {
            if unused > UNUSED {
                self.retire(session);
            }
        } else if unused >= session.ttl() / 6
            && let Some(resting) = self.rest(session)
        {
            resting.run(clock, LIMIT, "SELECT 1".to_owned(), Command::Sql).await.ok();
        }
    }

    /// Nothing lives on this session, and the server is to be told: it would end it otherwise, and write that
    /// into its log. `None`: a request uses it.
    fn rest(&self, session: &Arc<LockSession>) -> Option<Use> {
        // No request comes to it meanwhile.
        let _all = self.all();
        if session.users() > 0 {
            return None;
        }
        session.aim(Duration::ZERO);
        Some(Use::of(session))
    }

    /// Lets a session go that no request has used for long, unless it is the last of its kind.
    fn retire(&self, session: &Arc<LockSession>) {
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
            if session.users() > 0 || session.pending() > 0 {
                session.cut();
            }
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

    fn for_holder(&self, ttl: Duration) -> Option<Use> {
        let all = self.open_ones();
        let open = || all.iter().filter(|session| session.is_good_for_others());
        let same = open().filter(|session| session.users() > 0 && session.ttl() == ttl);
        let least = same.min_by_key(|session| session.pending());
        if let Some(session) = least.filter(|session| session.pending() < CROWD) {
            return Some(Use::of(session));
        }
        if let Some(session) = open().find(|session| session.users() == 0) {
            let used = Use::of(session);
            session.aim(ttl);
            return Some(used);
        }
        let is_full = all.len() + self.opening.load(Ordering::SeqCst) >= self.most;
        least.filter(|_| is_full || self.is_refused()).map(Use::of)
    }

    fn for_want_of_room(&self, ttl: Duration) -> Option<Use> {
        let all = self.all();
        let open = all.iter().filter(|session| session.is_open_to_others());
        let lives_on = open.filter(|session| session.users() > 0 && session.ttl() >= ttl);
        lives_on.min_by_key(|session| (session.ttl(), session.pending())).map(Use::of)
    }

    /// Whether the server took no more connections a moment ago.
    fn is_refused(&self) -> bool {
        let refused = *self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.is_some_and(|at| Clock::system().now().saturating_since(at) < LIMIT)
    }

    fn for_waiter(&self, ttl: Duration) -> Option<Use> {
        let all = self.open_ones();
        let blocked = all.iter().filter(|session| session.is_waiting()).count();
        let mut unused =
            all.iter().filter(|session| session.is_good_for_others() && session.users() == 0);
        // One is left for those that try, and to cancel the waits of the others.
        let session = unused.next().filter(|_| all.len() > blocked + 1)?;
        session.block();
        let used = Use::of(session);
        session.aim(ttl);
        Some(used)
    }

    /// Room for one more session, until it is among the others.
    fn room(&self) -> Option<Counted<'_>> {
        let all = self.open_ones();
        (all.len() + self.opening.load(Ordering::SeqCst) < self.most)
            .then(|| Counted::of(&self.opening))
    }

    async fn open(&self, limit: Duration) -> Result<Arc<LockSession>> {
        let opened = LockSession::open(&self.options, limit).await;
        let refused = opened.is_err().then(|| Clock::system().now());
        *self.refused.lock().unwrap_or_else(PoisonError::into_inner) = refused;
        let session = Arc::new(opened?);
        watch(Weak::clone(&self.shared), &session);
        Ok(session)
    }

    /// Those that have not ended.
    fn open_ones(&self) -> MutexGuard<'_, Vec<Arc<LockSession>>> {
        let mut all = self.all();
        all.retain(|session| !session.is_ended());
        all
    }

    fn all(&self) -> MutexGuard<'_, Vec<Arc<LockSession>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Ends what lives on a session with the runtime that it lives in, or with itself.
struct Watching(Weak<LockSession>);

impl Drop for Watching {
    fn drop(&mut self) {
        if let Some(session) = self.0.upgrade() {
            session.cut();
            session.lose();
        }
    }
}

/// Looks after a session for as long as it lives: what lapses on it, and whether it is needed.
fn watch(sessions: Weak<Sessions>, session: &Arc<LockSession>) {
    let (ended, session) = (session.ended(), Arc::downgrade(session));
    let watching = Watching(Weak::clone(&session));
    #[allow(clippy::disallowed_methods)] // it ends with the session
    tokio::spawn(async move {
        let _watching = watching;
        let mut ended = std::pin::pin!(ended);
        let clock = Clock::system();
        let mut unused_since = None;
        while let Some(live) = session.upgrade() {
            let now = clock.now();
            let mut until = now.saturating_add(CHECK);
            if !live.ttl().is_zero() {
                until = until.min(now.saturating_add(live.ttl() / 6));
            }
            if let Some(due) = live.lapse(now) {
                until = until.min(due);
            }
            if live.is_silent() && !live.is_lived_on() {
                live.cut();
            }
            unused_since = if live.users() > 0 { None } else { unused_since.or(Some(now)) };
            if let (Some(since), Some(sessions)) = (unused_since, sessions.upgrade()) {
                sessions.unused(&clock, &live, now.saturating_since(since)).await;
            }
            let aimed = live.aimed();
            drop(live);
            tokio::select! {
                () = &mut ended => return,
                () = aimed => {}
                () = clock.sleep_until(until) => {}
            }
        }
    });
}
