//! Ways to take a name and give it back: lockkit's two strategies, sqlx's lock, and floors on bare connections.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lockkit_bench::{Store, Way};
use lockkit_core::{Guard, Locks, RequestId};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use sqlx::postgres::{
    PgAdvisoryLock, PgAdvisoryLockGuard, PgConnectOptions, PgConnection, PgListener, PgPoolOptions,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor};
use testbed::PostgresServer;

/// What the floors need in the server: a row for a name, and a queue whose release grants and notifies. No part
/// of it outlives a client that dies.
const OBJECTS: &str = "
CREATE TABLE floor (name text PRIMARY KEY, token bigint NOT NULL DEFAULT 0, request uuid,
    expires_at timestamptz) WITH (fillfactor = 20);
CREATE TABLE floor_queue (ticket bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL,
    client text NOT NULL);
CREATE FUNCTION floor_enter(in_name text, in_client text) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    UPDATE floor SET request = gen_random_uuid(), token = token + 1
        WHERE name = in_name AND request IS NULL;
    IF FOUND THEN RETURN true; END IF;
    PERFORM FROM floor WHERE name = in_name FOR UPDATE;
    UPDATE floor SET request = gen_random_uuid(), token = token + 1
        WHERE name = in_name AND request IS NULL;
    IF FOUND THEN RETURN true; END IF;
    INSERT INTO floor_queue (name, client) VALUES (in_name, in_client);
    RETURN false;
END $$;
CREATE FUNCTION floor_leave(in_name text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    next text;
BEGIN
    PERFORM FROM floor WHERE name = in_name FOR UPDATE;
    DELETE FROM floor_queue WHERE ticket = (SELECT ticket FROM floor_queue WHERE name = in_name
        ORDER BY ticket LIMIT 1) RETURNING client INTO next;
    UPDATE floor SET request = CASE WHEN next IS NOT NULL THEN gen_random_uuid() END,
        token = token + CASE WHEN next IS NULL THEN 0 ELSE 1 END WHERE name = in_name;
    IF next IS NOT NULL THEN PERFORM pg_notify('floor_' || next, in_name); END IF;
END $$;
";

/// A request as the floor writes it.
const REQUEST: &str = "f81d4fae-7dec-11d0-a765-00a0c91e6bf6";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Advisory,
    /// Without a flush for each grant, as the table grants a ttl up to its barrier, or with.
    Table {
        flush: bool,
    },
    /// The calls of the table's functions, over a connection with lockkit's settings.
    Hand,
    /// sqlx's `PgAdvisoryLock`.
    Sqlx,
    /// `pg_try_advisory_lock` and `pg_advisory_unlock`.
    Try {
        prepared: bool,
    },
    /// `pg_advisory_lock` and `pg_advisory_unlock`.
    Blocking,
    /// `INSERT .. ON CONFLICT DO UPDATE`, and an update that sets the request to null.
    Upsert,
    /// A row and a queue table.
    Queue,
}

/// A server, or the URL of one that another process has started.
pub(crate) struct Postgres {
    pub(crate) server: Option<PostgresServer>,
    url: String,
    /// Of the clients that the plan's common parts connect.
    is_advisory: bool,
}

/// What one task uses.
pub(crate) enum Task {
    Lockkit(Locks),
    Sqlx(Option<PgConnection>),
    /// The statements that take and give back a name, which stands for `{name}`.
    Plain(PgConnection, [&'static str; 2]),
    Prepared(PgConnection),
    Queue(Box<PgListener>, String),
    /// With the client that its requests name.
    Hand(PgConnection, RequestId),
}

pub(crate) enum Held {
    Lockkit(Guard),
    Sqlx(PgAdvisoryLockGuard<PgConnection>),
    Request(RequestId),
    Bare,
}

static NUMBERS: AtomicU64 = AtomicU64::new(0);

impl Postgres {
    pub(crate) fn table() -> Self {
        Self::start(false)
    }

    pub(crate) fn advisory() -> Self {
        Self::start(true)
    }

    /// A server whose grants reach the disk when they are flushed.
    fn start(is_advisory: bool) -> Self {
        let server = PostgresServer::builder()
            .on_disk()
            .setting("autovacuum", "on")
            .setting("shared_buffers", "128MB")
            .setting("max_connections", "300")
            .start()
            .unwrap();
        server.sql(OBJECTS).unwrap();
        Self { url: server.url(), server: Some(server), is_advisory }
    }

    async fn connect(&self, way: &Way<Kind>) -> PgConnection {
        self.options(way).connect().await.unwrap()
    }

    fn options(&self, way: &Way<Kind>) -> PgConnectOptions {
        let options: PgConnectOptions = self.url.parse().unwrap();
        options.application_name(way.label).options([("synchronous_commit", "on")])
    }

    /// One connection that asks and hears, and the name by which it is told.
    async fn listener(&self, way: &Way<Kind>) -> Task {
        // The driver listens only over a connection that a pool made.
        let pool = PgPoolOptions::new().max_connections(1).connect_with(self.options(way));
        let mut listener = PgListener::connect_with(&pool.await.unwrap()).await.unwrap();
        let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
        let client = format!("{}_{number}", std::process::id());
        listener.listen(&format!("floor_{client}")).await.unwrap();
        Task::Queue(Box::new(listener), client)
    }

    /// A connection that is set up as lockkit's are.
    async fn by_hand(&self, way: &Way<Kind>) -> Task {
        let options = self.options(way).options([
            ("default_transaction_isolation", "read committed"),
            ("synchronous_commit", "off"),
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
            ("client_connection_check_interval", "1000"),
        ]);
        Task::Hand(options.connect().await.unwrap(), RequestId::random().unwrap())
    }

    async fn client(&self, way: &Way<Kind>) -> Locks {
        let flush = matches!(way.kind, Kind::Table { flush: true });
        let is_advisory = way.kind == Kind::Advisory;
        let label = way.label.replace(' ', "%20");
        locks_at(&format!("{}?application_name={label}", self.url), strategy(is_advisory), flush)
            .await
    }
}

fn strategy(is_advisory: bool) -> &'static str {
    if is_advisory { "advisory" } else { "table" }
}

/// A client of lockkit's with few connections, however many tasks share it.
pub(crate) async fn locks_at(url: &str, strategy: &str, flush: bool) -> Locks {
    let config = PostgresConfig::from_url(url).unwrap().connections(16);
    let config = match strategy {
        "advisory" => config.strategy(Strategy::Advisory),
        _ if flush => config.strategy(Strategy::Table).barrier(Duration::ZERO),
        _ => config.strategy(Strategy::Table),
    };
    Locks::new(PostgresProvider::connect(config).await.unwrap())
}

impl Store for Postgres {
    type Kind = Kind;
    type Task = Task;

    fn server(&self) -> String {
        let version = self.server.as_ref().map(|server| server.sql("SHOW server_version").unwrap());
        format!("PostgreSQL {}, on disk, fsync on", version.unwrap_or_default())
    }

    fn address(&self) -> String {
        format!("{} {}", strategy(self.is_advisory), self.url)
    }

    fn at(address: &str) -> Self {
        let (strategy, url) = address.split_once(' ').unwrap();
        Self { server: None, url: url.to_owned(), is_advisory: strategy == "advisory" }
    }

    async fn tasks(&self, way: &Way<Kind>, count: usize) -> Vec<Task> {
        if matches!(way.kind, Kind::Advisory | Kind::Table { .. }) {
            let clients = way.locks(count, || self.client(way)).await;
            return clients.into_iter().map(Task::Lockkit).collect();
        }
        if way.kind == Kind::Hand {
            // It makes the functions.
            drop(locks_at(&self.url, "table", false).await.close(Duration::from_secs(5)).await);
        }
        let mut tasks = Vec::new();
        for _ in 0..count {
            tasks.push(match way.kind {
                Kind::Hand => self.by_hand(way).await,
                Kind::Sqlx => Task::Sqlx(Some(self.connect(way).await)),
                Kind::Try { prepared: true } => Task::Prepared(self.connect(way).await),
                Kind::Queue => self.listener(way).await,
                kind => Task::Plain(self.connect(way).await, statements(kind)),
            });
        }
        tasks
    }

    async fn locks(&self) -> Locks {
        locks_at(&self.url, strategy(self.is_advisory), false).await
    }

    fn connections(&self, way: &Way<Kind>) -> usize {
        let Some(server) = &self.server else { return 0 };
        let counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name";
        server.sql(&format!("{counted} = '{}'", doubled(way.label))).unwrap().parse().unwrap()
    }

    fn pid(&self) -> Option<u32> {
        self.server.as_ref().and_then(|server| server.pid())
    }
}

const fn statements(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Upsert => [
            "INSERT INTO floor (name, request, expires_at) VALUES ('{name}', '{request}', \
                clock_timestamp() + interval '15 s') ON CONFLICT (name) DO UPDATE SET \
                request = excluded.request, token = floor.token + 1, \
                expires_at = excluded.expires_at RETURNING floor.token",
            "UPDATE floor SET request = NULL WHERE name = '{name}' AND request = '{request}'",
        ],
        Kind::Blocking => ["SELECT pg_advisory_lock({key})", "SELECT pg_advisory_unlock({key})"],
        _ => ["SELECT pg_try_advisory_lock({key})", "SELECT pg_advisory_unlock({key})"],
    }
}

/// A text within a literal.
fn doubled(text: &str) -> String {
    text.replace('\'', "''")
}

fn key_of(name: &str) -> i64 {
    lockkit_postgres::key(&name.parse().unwrap())
}

/// The first column of the first row.
async fn said<'c>(
    executor: impl Executor<'c, Database = sqlx::Postgres>,
    sql: String,
) -> Option<String> {
    use sqlx::{Row, ValueRef};
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(executor).await.unwrap();
    let value = rows.first()?.try_get_raw(0).ok().filter(|value| !value.is_null())?;
    value.as_str().ok().map(str::to_owned)
}

async fn run<'c>(executor: impl Executor<'c, Database = sqlx::Postgres>, sql: String) -> bool {
    said(executor, sql).await.is_some_and(|said| said == "t")
}

impl lockkit_bench::Task for Task {
    type Held = Held;

    /// Makes the rows of these names, where the way needs one.
    async fn prepare(&mut self, name: &str) {
        if let Self::Queue(connection, _) = self {
            let row = "INSERT INTO floor (name) VALUES ('{name}') ON CONFLICT DO NOTHING";
            run(&mut **connection, row.replace("{name}", name)).await;
        }
    }

    async fn take(&mut self, name: &str) -> Held {
        match self {
            Self::Lockkit(locks) => {
                return Held::Lockkit(locks.lock(name).acquire().await.unwrap());
            }
            Self::Sqlx(connection) => {
                let lock = PgAdvisoryLock::new(name);
                return Held::Sqlx(lock.acquire(connection.take().unwrap()).await.unwrap());
            }
            Self::Plain(connection, [take, _]) => {
                run(connection, filled(take, name)).await;
            }
            Self::Prepared(connection) => {
                let take = sqlx::query("SELECT pg_try_advisory_lock($1)").bind(key_of(name));
                take.fetch_one(connection).await.unwrap();
            }
            Self::Hand(connection, client) => {
                let request = RequestId::random().unwrap();
                let acquire = format!(
                    "SELECT lockkit.acquire(E'{}', '{request}', '{client}', 15000, \
                     E'host/12345/postgres-0123456789abcdef', false, 60000)",
                    doubled(name)
                );
                let said = said(connection, acquire).await.unwrap();
                assert!(said.starts_with("granted "), "{said}: it does not wait");
                return Held::Request(request);
            }
            Self::Queue(connection, client) => {
                let enter = format!("SELECT floor_enter('{name}', '{client}')");
                if !run(&mut **connection, enter).await {
                    connection.recv().await.unwrap();
                }
            }
        }
        Held::Bare
    }

    async fn give(&mut self, name: &str, held: Held) {
        match (self, held) {
            (_, Held::Lockkit(guard)) => guard.release().await.unwrap(),
            (Self::Sqlx(connection), Held::Sqlx(guard)) => {
                *connection = Some(guard.release_now().await.unwrap());
            }
            (Self::Plain(connection, [_, give]), _) => {
                run(connection, filled(give, name)).await;
            }
            (Self::Prepared(connection), _) => {
                let give = sqlx::query("SELECT pg_advisory_unlock($1)").bind(key_of(name));
                give.fetch_one(connection).await.unwrap();
            }
            (Self::Hand(connection, _), Held::Request(request)) => {
                let name = doubled(name);
                let leave = format!("SELECT lockkit.leave(E'{name}', '{request}', false, false)");
                assert_eq!(said(connection, leave).await.unwrap(), "released");
            }
            (Self::Queue(connection, _), _) => {
                run(&mut **connection, format!("SELECT floor_leave('{name}')")).await;
            }
            _ => unreachable!("a task gives back what it took"),
        }
    }

    async fn close(self) {
        match self {
            Self::Lockkit(locks) => drop(locks.close(Duration::from_secs(5)).await),
            Self::Sqlx(Some(connection))
            | Self::Plain(connection, _)
            | Self::Hand(connection, _)
            | Self::Prepared(connection) => {
                connection.close().await.unwrap();
            }
            Self::Sqlx(None) => {}
            Self::Queue(listener, _) => drop(listener),
        }
    }
}

fn filled(sql: &str, name: &str) -> String {
    let key = key_of(name).to_string();
    sql.replace("{name}", name).replace("{key}", &key).replace("{request}", REQUEST)
}
