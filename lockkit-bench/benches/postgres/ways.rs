//! Ways to take a name and give it back: lockkit's two strategies, sqlx's lock, and floors on bare connections.

use std::time::Duration;

use lockkit_core::Locks;
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use sqlx::postgres::{PgAdvisoryLock, PgConnectOptions, PgConnection, PgListener, PgPoolOptions};
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
    /// sqlx's `PgAdvisoryLock`.
    Sqlx,
    /// `pg_try_advisory_lock` and `pg_advisory_unlock`.
    Try {
        prepared: bool,
    },
    /// `pg_advisory_lock` and `pg_advisory_unlock`.
    Blocking,
    /// `INSERT .. ON CONFLICT DO UPDATE`, and an update that sets the request to null.
    Upsert {
        flush: bool,
    },
    /// A row and a queue table.
    Queue {
        flush: bool,
    },
}

/// A way; its connections bear its label.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) label: &'static str,
    pub(crate) kind: Kind,
    /// How many clients the tasks share; `None`: each has its own.
    pub(crate) clients: Option<usize>,
    /// How many connections a client of lockkit's may have.
    pub(crate) connections: usize,
}

/// What one task uses.
pub(crate) enum Task {
    Lockkit(Locks),
    Sqlx(PgConnection),
    /// The statements that take and give back a name, which stands for `{name}`.
    Plain(PgConnection, [&'static str; 2]),
    Prepared(PgConnection),
    Queue(Box<PgListener>, usize),
}

/// A server whose grants reach the disk when they are flushed.
pub(crate) fn server() -> PostgresServer {
    let server = PostgresServer::builder()
        .on_disk()
        .setting("autovacuum", "on")
        .setting("shared_buffers", "128MB")
        .setting("max_connections", "300")
        .start()
        .unwrap();
    server.sql(OBJECTS).unwrap();
    server
}

impl Way {
    pub(crate) const fn new(label: &'static str, kind: Kind) -> Self {
        Self { label, kind, clients: None, connections: 8 }
    }

    pub(crate) const fn shared_by_all(self) -> Self {
        Self { clients: Some(1), ..self }
    }

    pub(crate) const fn clients(self, clients: usize) -> Self {
        Self { clients: Some(clients), ..self }
    }

    pub(crate) const fn connections(self, connections: usize) -> Self {
        Self { connections, ..self }
    }

    /// A client of lockkit's.
    pub(crate) async fn locks(&self, server: &PostgresServer) -> Locks {
        self.locks_at(&server.url()).await
    }

    pub(crate) async fn locks_at(&self, url: &str) -> Locks {
        let url = format!("{url}?application_name={}", self.label.replace(' ', "%20"));
        let config = PostgresConfig::from_url(&url).unwrap().connections(self.connections);
        let config = match self.kind {
            Kind::Table { flush: true } => config.strategy(Strategy::Table).barrier(Duration::ZERO),
            Kind::Table { flush: false } => config.strategy(Strategy::Table),
            _ => config.strategy(Strategy::Advisory),
        };
        Locks::new(PostgresProvider::connect(config).await.unwrap())
    }

    async fn connect(&self, server: &PostgresServer) -> PgConnection {
        self.options(server).connect().await.unwrap()
    }

    fn options(&self, server: &PostgresServer) -> PgConnectOptions {
        let options: PgConnectOptions = server.url().parse().unwrap();
        let is_flushed =
            !matches!(self.kind, Kind::Upsert { flush: false } | Kind::Queue { flush: false });
        options
            .application_name(self.label)
            .options([("synchronous_commit", if is_flushed { "on" } else { "off" })])
    }

    /// What so many tasks use.
    pub(crate) async fn tasks(&self, server: &PostgresServer, count: usize) -> Vec<Task> {
        let mut tasks = Vec::new();
        if matches!(self.kind, Kind::Advisory | Kind::Table { .. }) {
            let mut clients = Vec::new();
            for _ in 0..self.clients.unwrap_or(count) {
                clients.push(self.locks(server).await);
            }
            tasks.extend(clients.iter().cycle().take(count).cloned().map(Task::Lockkit));
            return tasks;
        }
        for number in 0..count {
            tasks.push(match self.kind {
                Kind::Sqlx => Task::Sqlx(self.connect(server).await),
                Kind::Try { prepared: true } => Task::Prepared(self.connect(server).await),
                Kind::Queue { .. } => Task::Queue(self.listener(server, number).await, number),
                kind => Task::Plain(self.connect(server).await, statements(kind)),
            });
        }
        tasks
    }

    /// One connection that asks and hears, as `floor_<number>`.
    async fn listener(&self, server: &PostgresServer, number: usize) -> Box<PgListener> {
        // The driver listens only over a connection that a pool made.
        let pool = PgPoolOptions::new().max_connections(1).connect_with(self.options(server));
        let mut listener = PgListener::connect_with(&pool.await.unwrap()).await.unwrap();
        listener.listen(&format!("floor_{number}")).await.unwrap();
        Box::new(listener)
    }
}

const fn statements(kind: Kind) -> [&'static str; 2] {
    match kind {
        Kind::Upsert { .. } => [
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

fn key_of(name: &str) -> i64 {
    lockkit_postgres::key(&name.parse().unwrap())
}

async fn run<'c>(executor: impl Executor<'c, Database = sqlx::Postgres>, sql: String) -> bool {
    use sqlx::{Row, ValueRef};
    let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(executor).await.unwrap();
    let first = rows.first().and_then(|row| row.try_get_raw(0).ok());
    first.is_some_and(|value| !value.is_null() && value.as_str().is_ok_and(|text| text == "t"))
}

impl Task {
    /// Takes the name, calls `granted`, and gives it back.
    pub(crate) async fn cycle(&mut self, name: &str, granted: impl FnOnce()) {
        match self {
            Self::Lockkit(locks) => {
                let guard = locks.lock(name).acquire().await.unwrap();
                granted();
                guard.release().await.unwrap();
            }
            Self::Sqlx(connection) => {
                let lock = PgAdvisoryLock::new(name);
                let guard = lock.acquire(connection).await.unwrap();
                granted();
                guard.release_now().await.unwrap();
            }
            Self::Plain(connection, statements) => {
                let key = key_of(name).to_string();
                let [take, give] = statements.map(|sql| {
                    let sql = sql.replace("{name}", name).replace("{key}", &key);
                    sql.replace("{request}", REQUEST)
                });
                run(&mut *connection, take).await;
                granted();
                run(connection, give).await;
            }
            Self::Prepared(connection) => {
                let take = sqlx::query("SELECT pg_try_advisory_lock($1)").bind(key_of(name));
                take.fetch_one(&mut *connection).await.unwrap();
                granted();
                let give = sqlx::query("SELECT pg_advisory_unlock($1)").bind(key_of(name));
                give.fetch_one(connection).await.unwrap();
            }
            Self::Queue(connection, number) => {
                let enter = format!("SELECT floor_enter('{name}', '{number}')");
                if !run(&mut **connection, enter).await {
                    connection.recv().await.unwrap();
                }
                granted();
                run(&mut **connection, format!("SELECT floor_leave('{name}')")).await;
            }
        }
    }

    /// Makes the rows of these names, where the way needs one.
    pub(crate) async fn prepare(&mut self, name: &str) {
        if let Self::Queue(connection, _) = self {
            let row = "INSERT INTO floor (name) VALUES ('{name}') ON CONFLICT DO NOTHING";
            run(&mut **connection, row.replace("{name}", name)).await;
        }
    }

    /// Lets the connections go before the next way begins.
    pub(crate) async fn close(self) {
        match self {
            Self::Lockkit(locks) => drop(locks.close(Duration::from_secs(5)).await),
            Self::Sqlx(connection) | Self::Plain(connection, _) | Self::Prepared(connection) => {
                connection.close().await.unwrap();
            }
            Self::Queue(listener, _) => drop(listener),
        }
    }
}
