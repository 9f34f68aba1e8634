//! One connection, owned by a task that runs one statement after the other to its end.
//!
//! A statement whose caller has gone is still run to its end, and its answer read: a connection
//! that was left in the middle of one would be of no use, and might keep a lock that no request knows of.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::time::Duration;

use lockkit_core::{Applied, Clock, Error, Result};
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgRow};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection, Row, ValueRef};
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::error::{is_broken, to_error};
use crate::listener::Listener;

/// The longest that a caller waits for the server.
pub(crate) const LIMIT: Duration = Duration::from_secs(2);

/// How long a statement's answer is waited for when its caller has gone, and how long somebody who
/// connects first waits: no ttl bounds that, and each connection is a process of the server's.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The texts of an answer's columns.
pub(crate) type Columns = Vec<Option<String>>;

const QUEUED: u8 = 0;
const SENT: u8 = 1;
const GIVEN_UP: u8 = 2;

/// A connection to the server.
#[derive(Debug)]
pub(crate) struct Session {
    queue: mpsc::UnboundedSender<Queued>,
    pending: Arc<AtomicUsize>,
    answers: Arc<AtomicUsize>,
    ended: watch::Receiver<bool>,
    cut: Arc<Notify>,
}

struct Queued {
    command: Command,
    state: Arc<AtomicU8>,
    reply: oneshot::Sender<Result<Vec<Columns>>>,
    after: Option<After>,
}

/// Called once a command has succeeded, and dropped uncalled where the connection has ended.
pub(crate) type After = Box<dyn FnOnce() + Send + Sync>;

/// What a session speaks over.
enum Line {
    Plain(PgConnection),
    /// Its end is noticed also while no statement runs.
    Watched(Listener),
}

impl Line {
    async fn rows(&mut self, sql: String) -> sqlx::Result<Vec<PgRow>> {
        match self {
            Self::Plain(connection) => {
                sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await
            }
            Self::Watched(listener) => listener.rows(sql).await,
        }
    }

    async fn ping(&mut self) -> sqlx::Result<()> {
        match self {
            Self::Plain(connection) => connection.ping().await,
            Self::Watched(listener) => listener.ping().await,
        }
    }

    /// Completes when the other side has ended the connection; may be dropped midway.
    async fn ended(&mut self) {
        match self {
            Self::Plain(_) => std::future::pending().await,
            Self::Watched(listener) => listener.ended().await,
        }
    }

    /// Ends it in order: the server then frees at once what the session held.
    async fn close(self) {
        let closed = async {
            match self {
                Self::Plain(connection) => drop(connection.close().await),
                Self::Watched(listener) => listener.close().await,
            }
        };
        tokio::time::timeout(LIMIT, closed).await.ok();
    }
}

/// A command to the server.
#[derive(Debug)]
pub(crate) enum Command {
    /// One message of the simple protocol, which the server gets whole or not at all.
    Sql(String),
    /// The same, where only the connection's end would do instead: it ends where that fails.
    Undo(String),
    /// Nothing but a request for an answer; those that come together are sent as one.
    Ping,
}

impl Session {
    /// Connects within `limit`; it ends when a statement has no answer within `give_up`.
    pub(crate) async fn open(
        options: &PgConnectOptions,
        limit: Duration,
        give_up: Duration,
    ) -> Result<Self> {
        let connecting = async { options.connect().await.map(Line::Plain) };
        Ok(Self::over(connected(limit, connecting).await?, give_up))
    }

    /// As [`open`](Self::open); its end is noticed also while no statement runs.
    pub(crate) async fn watched(
        options: &PgConnectOptions,
        limit: Duration,
        give_up: Duration,
    ) -> Result<Self> {
        let connecting = async { Listener::connect(options, limit).await.map(Line::Watched) };
        Ok(Self::over(connected(limit, connecting).await?, give_up))
    }

    fn over(line: Line, give_up: Duration) -> Self {
        let (queue, mut queued) = mpsc::unbounded_channel();
        let (ending, ended) = watch::channel(false);
        let (pending, cut) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
        let (count, until) = (Arc::clone(&pending), Arc::clone(&cut));
        let answers = Arc::new(AtomicUsize::new(0));
        let answered = Arc::clone(&answers);
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        tokio::spawn(async move {
            let ending = ending;
            // Dropped here, so that the connection is closed before its end is told: a connection that
            // takes its room is made after that. The commands that are left are dropped later: their
            // callers find it ended.
            let last = tokio::select! {
                last = serve(line, &mut queued, &count, &answered, give_up) => last,
                () = until.notified() => None,
            };
            // Before a caller has its answer.
            ending.send_replace(true);
            if let Some((replies, answer)) = last {
                reply(replies, &answer);
            }
        });
        Self { queue, pending, answers, ended, cut }
    }

    /// Sends it after what was sent before, and waits for the answer within `limit`.
    ///
    /// Dropped midway, it is sent or not; what was sent is run to its end.
    pub(crate) async fn ask(
        &self,
        clock: &Clock,
        limit: Duration,
        command: Command,
    ) -> Result<Vec<Columns>> {
        let (reply, answer) = oneshot::channel();
        let state = Asked(Arc::new(AtomicU8::new(QUEUED)));
        self.pending.fetch_add(1, Ordering::SeqCst);
        let queued = Queued { command, state: Arc::clone(&state.0), reply, after: None };
        if self.queue.send(queued).is_err() {
            return Err(Error::unavailable(Applied::No, "the connection has ended"));
        }
        tokio::select! {
            biased;
            answered = answer => answered.unwrap_or_else(|_| {
                Err(Error::unavailable(state.give_up(), "the connection has ended"))
            }),
            () = clock.sleep(limit) => {
                let silence = format!("PostgreSQL gave no answer within {limit:?}");
                Err(Error::unavailable(state.give_up(), silence))
            }
        }
    }

    /// The answer to a statement of a client that connects.
    pub(crate) async fn first(&self, sql: String) -> Result<Vec<Columns>> {
        self.ask(&Clock::system(), PATIENCE, Command::Sql(sql)).await
    }

    /// Sends it after what was sent before, waits for no answer, and has `after` called once it has succeeded.
    pub(crate) fn tell(&self, command: Command, after: After) {
        let ((reply, _), state) = (oneshot::channel(), Arc::default());
        self.pending.fetch_add(1, Ordering::SeqCst);
        // Where no task takes it, the connection has ended.
        self.queue.send(Queued { command, state, reply, after: Some(after) }).ok();
    }

    /// How many statements are under way or wait for their turn.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::SeqCst)
    }

    /// How many times the server has answered so far.
    pub(crate) fn answers(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }

    pub(crate) fn is_ended(&self) -> bool {
        *self.ended.borrow() || self.is_orphaned()
    }

    /// Whether its task is gone with its runtime, and has said nothing.
    pub(crate) fn is_orphaned(&self) -> bool {
        self.ended.has_changed().is_err() && !*self.ended.borrow()
    }

    /// Completes when the connection has ended; level-triggered.
    pub(crate) fn ended(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ended = self.ended.clone();
        async move {
            // An error says that its task has ended, and the connection with it.
            ended.wait_for(|ended| *ended).await.ok();
        }
    }

    /// What is left of it when this is dropped.
    pub(crate) fn leaving(&self) -> Leaving {
        Leaving { ended: self.ended.clone(), cut: Arc::clone(&self.cut) }
    }

    /// Closes the connection at once, also in the middle of a statement.
    pub(crate) fn cut(&self) {
        self.cut.notify_one();
    }
}

/// What is left of a connection that gets no more commands: it ends with its last answer, or when it
/// has to make room.
#[derive(Debug)]
pub(crate) struct Leaving {
    ended: watch::Receiver<bool>,
    cut: Arc<Notify>,
}

impl Leaving {
    pub(crate) fn is_over(&self) -> bool {
        *self.ended.borrow() || self.ended.has_changed().is_err()
    }

    /// Ends it now; returns once it has ended.
    pub(crate) async fn end(mut self) {
        self.cut.notify_one();
        self.ended.wait_for(|ended| *ended).await.ok();
    }
}

/// A caller's side of a command: one that was given up before it was sent is not sent at all.
struct Asked(Arc<AtomicU8>);

impl Asked {
    fn give_up(&self) -> Applied {
        match self.0.compare_exchange(QUEUED, GIVEN_UP, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) | Err(GIVEN_UP) => Applied::No,
            Err(_) => Applied::Maybe,
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl Queued {
    /// Whether its caller still waits for it; from then on it counts as sent.
    fn take_up(&self) -> bool {
        self.state.compare_exchange(QUEUED, SENT, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// The callers that wait for an answer.
type Replies = Vec<oneshot::Sender<Result<Vec<Columns>>>>;

fn reply(replies: Replies, answer: &Result<Vec<Columns>>) {
    for reply in replies {
        // It may have left.
        reply.send(answer.clone()).ok();
    }
}

/// Runs the commands until one breaks the connection, or no caller is left that could give another; what is to be
/// told of the last one.
async fn serve(
    mut line: Line,
    queue: &mut mpsc::UnboundedReceiver<Queued>,
    pending: &AtomicUsize,
    answers: &AtomicUsize,
    give_up: Duration,
) -> Option<(Replies, Result<Vec<Columns>>)> {
    let mut next = None;
    loop {
        if next.is_none() {
            tokio::select! {
                biased;
                queued = queue.recv() => next = queued,
                () = line.ended() => return None,
            }
        }
        let Some(queued) = next.take() else {
            line.close().await;
            return None;
        };
        if !queued.take_up() {
            pending.fetch_sub(1, Ordering::SeqCst);
            continue;
        }
        let mut together = vec![queued.reply];
        let must = matches!(queued.command, Command::Undo(_));
        let outcome = match queued.command {
            Command::Sql(sql) | Command::Undo(sql) => {
                let run = tokio::time::timeout(give_up, line.rows(sql)).await;
                run.map(|rows| rows.map(|rows| texts(&rows)))
            }
            Command::Ping => {
                while let Ok(queued) = queue.try_recv() {
                    match queued.command {
                        Command::Ping if queued.take_up() => together.push(queued.reply),
                        Command::Ping => drop(pending.fetch_sub(1, Ordering::SeqCst)),
                        Command::Sql(_) | Command::Undo(_) => {
                            next = Some(queued);
                            break;
                        }
                    }
                }
                let ping = tokio::time::timeout(give_up, line.ping()).await;
                ping.map(|done| done.map(|()| Vec::new()))
            }
        };
        pending.fetch_sub(together.len(), Ordering::SeqCst);
        let (answer, is_over) = match outcome {
            Ok(Ok(rows)) => (Ok(rows), false),
            Ok(Err(error)) => (Err(to_error(&error, true)), must || is_broken(&error)),
            Err(_) => {
                let silence = format!("PostgreSQL gave no answer within {give_up:?}");
                (Err(Error::unavailable(Applied::Maybe, silence)), true)
            }
        };
        if is_over {
            return Some((together, answer));
        }
        answers.fetch_add(1, Ordering::SeqCst);
        if let (Some(after), Ok(_)) = (queued.after, &answer) {
            after();
        }
        reply(together, &answer);
    }
}

/// What `connecting` gives within `limit`.
async fn connected(
    limit: Duration,
    connecting: impl Future<Output = sqlx::Result<Line>>,
) -> Result<Line> {
    match tokio::time::timeout(limit, connecting).await {
        Ok(Err(error)) if !matches!(error, sqlx::Error::PoolTimedOut) => {
            Err(to_error(&error, false))
        }
        Ok(Ok(line)) => Ok(line),
        _ => {
            let silence = format!("PostgreSQL took no connection within {limit:?}");
            Err(Error::unavailable(Applied::No, silence))
        }
    }
}

/// The texts of all columns.
fn texts(rows: &[PgRow]) -> Vec<Columns> {
    let text = |row: &PgRow, column: usize| {
        let value = row.try_get_raw(column).ok().filter(|value| !value.is_null())?;
        value.as_str().ok().map(str::to_owned)
    };
    rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect()).collect()
}

/// The rows of a statement over the caller's connection.
pub(crate) async fn rows(connection: &mut PgConnection, sql: String) -> Result<Vec<Columns>> {
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection).await;
    let rows = rows.map_err(|error| {
        let code = error.as_database_error().and_then(DatabaseError::code);
        if code.as_deref() == Some("55P03") {
            return Error::TimedOut { holder: None };
        }
        to_error(&error, true)
    })?;
    Ok(texts(&rows))
}
