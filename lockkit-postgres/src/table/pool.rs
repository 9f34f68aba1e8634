//! The connections for statements: made when needed, given up when they are stuck or gone.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Instant, Result};
use sqlx::postgres::PgConnectOptions;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::connection::{Leaving, PATIENCE, Session};
use crate::line::{Command, LIMIT};
use crate::protocol::Columns;

pub(crate) struct Pool {
    options: PgConnectOptions,
    /// What each statement begins with, where a connection cannot be told at its start.
    preamble: &'static str,
    sessions: Arc<Mutex<Sessions>>,
    most: usize,
    connecting: tokio::sync::Mutex<Option<Opening>>,
    /// Told once for each statement that is waited for no more.
    freed: Notify,
}

/// A connection that is being made, in a task of its own: on a slow link that takes longer than a
/// caller has, and the next caller goes on with it.
struct Opening {
    begun: Instant,
    task: JoinHandle<Result<()>>,
}

impl Opening {
    /// Whether no caller need wait for it any more: it has ended, or its runtime stands still.
    fn is_over(&self) -> bool {
        let age = Clock::system().now().saturating_since(self.begun);
        self.task.is_finished() || age > 2 * LIMIT
    }
}

/// Those that take statements, and those that were given up and have not ended: all are counted.
#[derive(Default)]
struct Sessions {
    open: Vec<Arc<Session>>,
    leaving: VecDeque<Leaving>,
    closed: bool,
}

impl Sessions {
    /// Gives up those that are not as they should be.
    fn keep(&mut self, stays: impl Fn(&Arc<Session>) -> bool) {
        self.leaving.retain(|leaving| !leaving.is_over());
        let leaving = &mut self.leaving;
        self.open.retain(|session| {
            let stays = stays(session);
            if !stays && !session.is_ended() {
                leaving.push_back(session.leaving());
            }
            stays
        });
    }
}

/// A statement under way: a caller that waits for a connection looks again when this one has an answer,
/// or has left.
struct Freed<'a>(&'a Notify);

impl Drop for Freed<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A statement's answer.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) rows: Vec<Columns>,
    /// Whether it was sent twice, so that the first sending may still arrive.
    pub(crate) replayed: bool,
}

impl Pool {
    /// One that has made its first connection.
    pub(crate) fn new(
        options: PgConnectOptions,
        preamble: &'static str,
        most: usize,
        first: Session,
    ) -> Self {
        Self {
            options,
            preamble,
            sessions: Arc::new(Mutex::new(Sessions {
                open: vec![Arc::new(first)],
                ..Sessions::default()
            })),
            most,
            connecting: tokio::sync::Mutex::new(None),
            freed: Notify::new(),
        }
    }

    /// Runs a statement within `limit`. Every statement is a replay of itself, so one whose
    /// connection is found dead is sent once more over a new one.
    pub(crate) async fn run(&self, clock: &Clock, limit: Duration, sql: &str) -> Result<Answered> {
        let end = clock.now().saturating_add(limit);
        let sql = format!("{}{sql}", self.preamble);
        let (mut is_again, mut replayed) = (false, false);
        loop {
            let session = tokio::select! {
                biased;
                session = self.session() => session.map_err(|error| after(replayed, error))?,
                () = clock.sleep_until(end) => {
                    let silence = format!("PostgreSQL took no connection within {limit:?}");
                    return Err(after(replayed, Error::unavailable(Applied::No, silence)));
                }
            };
            let left = end.saturating_since(clock.now());
            let answers = session.answers();
            let freed = Freed(&self.freed);
            let answer = session.ask(clock, left, Command::Sql(sql.clone())).await;
            drop(freed);
            match answer {
                Ok(rows) => return Ok(Answered { rows, replayed }),
                Err(error @ Error::Unavailable { .. }) if session.is_ended() && !is_again => {
                    // Whatever ended it has ended its idle neighbours too.
                    self.sessions().keep(|other| other.pending() > 0 && !other.is_ended());
                    (is_again, replayed) = (true, error.is_ambiguous());
                }
                Err(error) => {
                    let is_unclear =
                        matches!(error, Error::Unavailable { applied: Applied::Maybe, .. });
                    if is_unclear && session.answers() == answers {
                        // Stuck, and not just busy with others': the next statement gets a
                        // connection of its own.
                        self.sessions().keep(|other| !Arc::ptr_eq(other, &session));
                    }
                    return Err(after(replayed, error));
                }
            }
        }
    }

    /// Lets the connections go; statements under way still get their answers.
    pub(crate) fn close(&self) {
        let mut sessions = self.sessions();
        sessions.closed = true;
        sessions.keep(|_| false);
    }

    /// The connection with the least to do; if all have something to do, the first of them that is
    /// free, or a new one.
    async fn session(&self) -> Result<Arc<Session>> {
        loop {
            if let Some(session) = self.least_busy() {
                return Ok(session);
            }
            if self.sessions().closed {
                return Err(Error::Closed);
            }
            tokio::select! {
                biased;
                // Looked at again: between the two another caller may have been faster.
                () = self.freed.notified() => {}
                opened = self.opened() => opened?,
            }
        }
    }

    /// Completes with a new connection among the others, one at a time.
    async fn opened(&self) -> Result<()> {
        let mut connecting = self.connecting.lock().await;
        if let Some(over) = connecting.take_if(|opening| opening.is_over()) {
            over.task.abort();
        }
        if self.least_busy().is_some() {
            return Ok(());
        }
        if connecting.is_none() {
            // Those that were given up make room, the oldest first.
            while let Some(oldest) = self.too_many() {
                oldest.end().await;
            }
        }
        let opened = (&mut connecting.get_or_insert_with(|| self.open()).task).await;
        *connecting = None;
        let ended = |_| Error::unavailable(Applied::No, "the runtime that connected has ended");
        opened.map_err(ended)?
    }

    fn open(&self) -> Opening {
        let (options, sessions) = (self.options.clone(), Arc::clone(&self.sessions));
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        let task = tokio::spawn(async move {
            let session = Arc::new(Session::open(&options, LIMIT, PATIENCE).await?);
            let mut sessions = sessions.lock().unwrap_or_else(PoisonError::into_inner);
            // One that comes after all were closed is dropped.
            if !sessions.closed {
                sessions.open.push(session);
            }
            Ok(())
        });
        Opening { begun: Clock::system().now(), task }
    }

    fn too_many(&self) -> Option<Leaving> {
        let mut sessions = self.sessions();
        sessions.keep(|session| !session.is_ended());
        let is_full = sessions.open.len() + sessions.leaving.len() >= self.most;
        if is_full { sessions.leaving.pop_front() } else { None }
    }

    fn least_busy(&self) -> Option<Arc<Session>> {
        let mut sessions = self.sessions();
        sessions.keep(|session| !session.is_ended());
        let least = sessions.open.iter().min_by_key(|session| session.pending())?;
        (least.pending() == 0 || sessions.open.len() >= self.most).then(|| Arc::clone(least))
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Pool {
    /// Without the options: they hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("most", &self.most).finish_non_exhaustive()
    }
}

/// What an error says of both sendings: whatever became of the second, the first may have arrived.
fn after(replayed: bool, error: Error) -> Error {
    match error {
        Error::Unavailable { cause, .. } if replayed => Error::unavailable(Applied::Maybe, cause),
        other => other,
    }
}
