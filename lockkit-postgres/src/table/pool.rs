//! The connections for statements: made when needed, given up when they are stuck or gone.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Result};
use sqlx::postgres::PgConnectOptions;

use crate::connection::{Columns, LIMIT, Leaving, PATIENCE, Session, What};

pub(crate) struct Pool {
    options: PgConnectOptions,
    /// What each statement begins with, where a connection cannot be told at its start.
    preamble: &'static str,
    sessions: Mutex<Sessions>,
    most: usize,
    connecting: tokio::sync::Mutex<()>,
}

/// Those that take statements, and those that were given up and have not ended: all are counted.
#[derive(Default)]
struct Sessions {
    open: Vec<Arc<Session>>,
    leaving: VecDeque<Leaving>,
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
            sessions: Mutex::new(Sessions { open: vec![Arc::new(first)], ..Sessions::default() }),
            most,
            connecting: tokio::sync::Mutex::new(()),
        }
    }

    /// Runs a statement within `limit`. Every statement is a replay of itself, so one whose
    /// connection is found dead is sent once more over a new one.
    pub(crate) async fn run(&self, clock: &Clock, limit: Duration, sql: &str) -> Result<Answered> {
        let end = clock.now().saturating_add(limit);
        let sql = format!("{}{sql}", self.preamble);
        let mut replayed = false;
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
            let answer = session.ask(clock, left, What::Sql(sql.clone())).await;
            match answer {
                Ok(rows) => return Ok(Answered { rows, replayed }),
                Err(Error::Unavailable { .. }) if session.is_ended() && !replayed => {
                    // Whatever ended it has ended its idle neighbours too.
                    self.sessions().keep(|other| other.pending() > 0 && !other.is_ended());
                    replayed = true;
                }
                Err(error) => {
                    if matches!(error, Error::Unavailable { applied: Applied::Maybe, .. }) {
                        // Stuck or slow: the next statement gets a connection of its own.
                        self.sessions().keep(|other| !Arc::ptr_eq(other, &session));
                    }
                    return Err(after(replayed, error));
                }
            }
        }
    }

    /// Lets the connections go; statements under way still get their answers.
    pub(crate) fn close(&self) {
        self.sessions().keep(|_| false);
    }

    /// The connection with the least to do, or a new one if all have something to do.
    async fn session(&self) -> Result<Arc<Session>> {
        if let Some(session) = self.least_busy() {
            return Ok(session);
        }
        let _one_at_a_time = self.connecting.lock().await;
        if let Some(session) = self.least_busy() {
            return Ok(session);
        }
        // Those that were given up make room, the oldest first.
        while let Some(oldest) = self.too_many() {
            oldest.end().await;
        }
        let session = Arc::new(Session::open(&self.options, LIMIT, PATIENCE).await?);
        self.sessions().open.push(Arc::clone(&session));
        Ok(session)
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
