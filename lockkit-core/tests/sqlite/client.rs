//! What all calls share: the connection, how a transaction runs on it, and the requests.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lockkit_core::kit::{
    self, Alive, Connection, LONGEST_CALL, Mailbox, Notice, Requests, Service, call_limit, wait,
    waiter_life, within,
};
use lockkit_core::{
    Applied, Clock, Error, FencingToken, Holder, Request, RequestId, Result, StoreSays, Term,
};
use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnectOptions, SqliteJournalMode, SqliteRow};
use sqlx::{ConnectOptions, Connection as _, Row, Sqlite, SqliteConnection, query};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

/// How often a client looks for waiters whose turn it is. A waiter of the client that frees the name is
/// told at once.
pub(super) const POLL: Duration = Duration::from_millis(25);
const RENEW: &str = "UPDATE lease SET expires_at = now + ?3 FROM clock \
    WHERE name = ?1 AND request = ?2 AND expires_at >= now; SELECT changes() = 1 AS is_renewed";
/// The lease stays until then under an id that no request has, so that no replay and no renewal finds it. Asked for again,
/// it never stays for longer.
const REST: &str = "UPDATE lease SET released = ?2, request = ?3, \
    expires_at = CASE WHEN request = ?2 THEN now + ?4 ELSE min(expires_at, now + ?4) END FROM clock \
    WHERE name = ?1 AND request IN (?2, ?3) AND expires_at >= now; SELECT changes() = 1 AS rests";
/// The first waiter of each free name. Of a group, SQLite gives the `request` that has the least ticket.
const WHOSE_TURN: &str = "SELECT request, min(ticket) FROM waiter, clock WHERE alive_until >= now \
    AND NOT EXISTS (SELECT 1 FROM lease WHERE lease.name = waiter.name AND request IS NOT NULL \
    AND expires_at >= now) GROUP BY waiter.name";

/// The client of one database file.
#[derive(Debug)]
pub(super) struct Client {
    connection: Connection<Shared>,
    pub(super) requests: Arc<Waiters>,
    watching: Service,
}

/// One connection is enough: SQLite lets one transaction at a time write.
type Shared = Arc<Mutex<SqliteConnection>>;
/// The requests of a client, each with the latest notice to it.
type Waiters = Requests<Mailbox<Infallible>>;
/// A call, or a lease, of a request.
pub(super) type Entry = kit::Entry<Mailbox<Infallible>>;
/// The token and the term of a grant.
pub(super) type Granted = (FencingToken, Term);
/// What runs in a transaction, with its arguments.
type Script = Query<'static, Sqlite, SqliteArguments>;
type Rows = Result<Vec<SqliteRow>>;

impl Client {
    pub(super) async fn open(file: &Path) -> Result<Self> {
        // In this mode readers do not wait. By default each commit is on the disk before it is told, so
        // no restart of the host takes a token back.
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).busy_timeout(LONGEST_CALL);
        let connection = Connection::new(move || Box::pin(connect(options.clone())));
        connection.get().await?;
        Ok(Self { connection, requests: Arc::default(), watching: Service::default() })
    }

    /// Asks for the name once. `None`: another request holds it, or stands before this one.
    pub(super) async fn ask(&self, entry: &Entry, waits: bool) -> Result<Option<Granted>> {
        let (request, sending) = (entry.request(), entry.send()?);
        let term = request.term();
        let answer = self.about(request, include_str!("acquire.sql"), waits).await;
        if !answer.as_ref().is_err_and(Error::is_ambiguous) {
            sending.answered();
        }
        let row = answer?;
        if row.get("is_ended") {
            return Err(Error::withdrawn());
        }
        if let Some(token) = row.get::<Option<i64>, _>("token") {
            return Ok(Some((FencingToken::try_from(token)?, term)));
        }
        request.report(StoreSays::Held(row.get::<Option<String>, _>("holder").map(Holder::new)));
        Ok(None)
    }

    /// Waits until the request must ask again: for its turn, or to keep its place in the queue.
    pub(super) async fn wait(&self, entry: &Entry) -> Result<()> {
        let connection = self.connection.get().await?.connection;
        let requests = Arc::clone(&self.requests);
        self.watching.ensure(|alive| watch(alive, connection, requests))?;
        let heartbeat = waiter_life(entry.request().ttl()) / 3;
        tokio::select! {
            asks = wait(entry, None, heartbeat) => asks.map(drop),
            // The runtime of the task has ended: the request asks, and then starts the task again.
            () = self.watching.lapsed() => Ok(()),
        }
    }

    /// Extends the grant of the request; whether it still had one.
    pub(super) async fn renew(&self, entry: &Entry) -> Result<bool> {
        self.about(entry.request(), RENEW, false).await.map(|row| row.get("is_renewed"))
    }

    /// Ends the grant of the request, and keeps its name for so long; whether there was such a grant.
    pub(super) async fn rest(&self, entry: &Entry, rest: Duration) -> Result<bool> {
        let request = entry.request();
        let script = query(REST)
            .bind(request.name().as_str().as_bytes().to_vec())
            .bind(request.id().to_bytes().to_vec())
            .bind([&request.id().to_bytes()[..], &[0]].concat())
            .bind(millis(rest) + 1);
        let limit = call_limit(request.ttl());
        let rows = self.transaction(request.clock(), limit, script).await?;
        rows.first()
            .map(|row| row.get("rests"))
            .ok_or_else(|| not_applied(sqlx::Error::RowNotFound))
    }

    /// Ends the request; whether it had a grant until now.
    pub(super) async fn leave(&self, entry: &Entry) -> Result<bool> {
        let (request, tombstone) = (entry.request(), entry.may_still_arrive());
        let row = self.about(request, include_str!("leave.sql"), tombstone).await?;
        tell(&self.requests, row.get("next"));
        Ok(row.get("had_grant"))
    }

    pub(super) fn close(&self) {
        self.watching.stop();
        self.connection.close();
    }

    /// A transaction about a request, within the limit of its ttl.
    async fn about(&self, request: &Request, sql: &'static str, flag: bool) -> Result<SqliteRow> {
        let script = query(sql)
            .bind(request.name().as_str().as_bytes().to_vec())
            .bind(request.id().to_bytes().to_vec())
            .bind(millis(request.ttl()))
            .bind(millis(waiter_life(request.ttl())))
            .bind(request.label().to_string())
            .bind(flag);
        let rows = self.transaction(request.clock(), call_limit(request.ttl()), script).await?;
        rows.into_iter().next().ok_or_else(|| not_applied(sqlx::Error::RowNotFound))
    }

    /// Runs the script as one transaction, which has the database to itself.
    ///
    /// It runs in a task of its own. A caller may stop polling at any point, and must not keep the
    /// database from all others until it goes on.
    pub(super) async fn transaction(&self, clock: &Clock, limit: Duration, script: Script) -> Rows {
        let call = async {
            let connection = self.connection.get().await?.connection;
            let runtime = Handle::try_current().map_err(|_| Error::NoRuntime)?;
            let task = runtime.spawn(run(connection, script));
            task.await.map_err(|ended| Error::unavailable(Applied::Maybe, ended))?
        };
        let busy = || Error::unavailable(Applied::Maybe, format!("no answer within {limit:?}"));
        within(clock, limit, call).await.ok_or_else(busy)?
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.watching.stop();
    }
}

/// An error before the commit takes everything back; after an error of the commit itself, the changes
/// may be on the disk.
async fn run(connection: Shared, script: Script) -> Rows {
    let mut connection = connection.lock().await;
    // IMMEDIATE: it waits here for its turn to write. A reader that turns to writing may fail. SQLite's
    // own wait pauses for up to 100 ms between two tries, and so starves a client among many.
    let mut tries = 0..LONGEST_CALL.as_millis();
    let mut transaction = loop {
        match connection.begin_with("BEGIN IMMEDIATE").await {
            Ok(transaction) => break transaction,
            Err(error) if tries.next().is_none() => return Err(not_applied(error)),
            Err(_) => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    };
    let rows = script.fetch_all(&mut *transaction).await.map_err(not_applied)?;
    let committed = transaction.commit().await;
    committed.map_err(|error| Error::unavailable(Applied::Maybe, error))?;
    Ok(rows)
}

/// Polls for all waiters of a client together, and tells those whose turn it is. It only reads, so it
/// holds up no other client.
async fn watch(mut alive: Alive, connection: Shared, requests: Arc<Waiters>) {
    while !alive.is_stopped() {
        if !requests.in_use().is_empty() {
            let turns = query(WHOSE_TURN).fetch_all(&mut *connection.lock().await).await;
            // After an error the next poll comes soon.
            for row in turns.unwrap_or_default() {
                tell(&requests, row.get("request"));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(POLL) => {}
            () = alive.stopped() => {}
        }
    }
}

/// Has a waiter ask again, if it is one of this client.
fn tell(requests: &Waiters, waiter: Option<Vec<u8>>) {
    let id = waiter.and_then(|id| id.try_into().ok()).map(RequestId::from_bytes);
    if let Some(record) = id.and_then(|id| requests.find(id)) {
        record.data().post(Notice::Ask);
    }
}

async fn connect(options: SqliteConnectOptions) -> Result<Shared> {
    let mut connection = options.connect().await.map_err(not_applied)?;
    let setup = sqlx::raw_sql(include_str!("setup.sql")).execute(&mut connection).await;
    setup.map_err(not_applied)?;
    query("PRAGMA busy_timeout = 0").execute(&mut connection).await.map_err(not_applied)?;
    Ok(Arc::new(Mutex::new(connection)))
}

fn not_applied(error: sqlx::Error) -> Error {
    Error::unavailable(Applied::No, error)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
