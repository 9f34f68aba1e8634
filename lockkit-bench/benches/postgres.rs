//! Locks on a real PostgreSQL: lockkit's two strategies, a bare `pg_try_advisory_lock`, and sqlx's
//! `PgAdvisoryLock` with a connection for each task, in one run.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockkit_core::Locks;
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use sqlx::postgres::{PgAdvisoryLock, PgConnection};
use sqlx::{AssertSqlSafe, Connection};
use testbed::PostgresServer;

const CYCLES: u32 = 200;
/// Many short rounds by turns: what else the machine does meets all of them.
const ROUND: Duration = Duration::from_millis(500);
const ROUNDS: u32 = 8;

/// A way to take a name and give it back.
enum Way {
    /// Its tasks share these clients, as those of so many processes do.
    Lockkit(Vec<Locks>),
    /// Each task has a connection.
    Sqlx,
    Floor,
}

/// What one task uses.
enum Task {
    Lockkit(Locks),
    Sqlx(PgConnection),
    Floor(PgConnection),
}

/// A way, and its connections bear its label.
struct Contender {
    label: &'static str,
    way: Way,
    alone: Duration,
    /// By the number of tasks: grants in all rounds, and the most connections.
    contended: Vec<(usize, u64, usize)>,
}

impl Task {
    async fn cycle(&mut self, name: &str) {
        match self {
            Self::Lockkit(locks) => {
                locks.lock(name).acquire().await.unwrap().release().await.unwrap();
            }
            Self::Sqlx(connection) => {
                let lock = PgAdvisoryLock::new(name);
                lock.acquire(connection).await.unwrap().release_now().await.unwrap();
            }
            Self::Floor(connection) => {
                for call in ["try_advisory_lock", "advisory_unlock"] {
                    let sql = AssertSqlSafe(format!("SELECT pg_{call}(1)"));
                    sqlx::raw_sql(sql).fetch_all(&mut *connection).await.unwrap();
                }
            }
        }
    }
}

impl Contender {
    async fn new(
        server: &PostgresServer,
        label: &'static str,
        strategy: Strategy,
        clients: usize,
    ) -> Self {
        let mut all = Vec::new();
        for _ in 0..clients {
            let config = PostgresConfig::from_url(&url(server, label)).unwrap().strategy(strategy);
            all.push(Locks::new(PostgresProvider::connect(config).await.unwrap()));
        }
        Self::of(label, Way::Lockkit(all))
    }

    const fn of(label: &'static str, way: Way) -> Self {
        Self { label, way, alone: Duration::MAX, contended: Vec::new() }
    }

    async fn task(&self, server: &PostgresServer, number: usize) -> Task {
        let connect = async || PgConnection::connect(&url(server, self.label)).await.unwrap();
        match &self.way {
            Way::Lockkit(clients) => Task::Lockkit(clients[number % clients.len()].clone()),
            Way::Sqlx => Task::Sqlx(connect().await),
            Way::Floor => Task::Floor(connect().await),
        }
    }

    /// The time of one acquire and release that nobody disturbs, in one more round: the least counts.
    async fn alone(&mut self, server: &PostgresServer) {
        let mut task = self.task(server, 0).await;
        task.cycle(self.label).await;
        let began = Instant::now();
        for _ in 0..CYCLES {
            task.cycle(self.label).await;
        }
        self.alone = self.alone.min(began.elapsed() / CYCLES);
    }

    /// One round of so many tasks that hold nothing.
    async fn contend(&mut self, server: &PostgresServer, tasks: usize) {
        let over = Arc::new(AtomicBool::new(false));
        let mut all = Vec::new();
        for number in 0..tasks {
            all.push(self.task(server, number).await);
        }
        let name = format!("{} {tasks}", self.label);
        let running: Vec<_> = all
            .into_iter()
            .map(|mut task| {
                let (over, name) = (Arc::clone(&over), name.clone());
                tokio::spawn(async move {
                    let mut grants = 0_u64;
                    while !over.load(Ordering::Relaxed) {
                        task.cycle(&name).await;
                        grants += 1;
                    }
                    grants
                })
            })
            .collect();
        tokio::time::sleep(ROUND).await;
        over.store(true, Ordering::Relaxed);
        let mut grants = 0;
        for task in running {
            grants += task.await.unwrap();
        }
        let counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name";
        let used = server.sql(&format!("{counted} = '{}'", self.label)).unwrap().parse().unwrap();
        let used = match self.way {
            Way::Lockkit(_) => used,
            // They have gone with their tasks.
            Way::Sqlx | Way::Floor => tasks,
        };
        match self.contended.iter_mut().find(|(of, ..)| *of == tasks) {
            Some((_, all, most)) => (*all, *most) = (*all + grants, (*most).max(used)),
            None => self.contended.push((tasks, grants, used)),
        }
    }

    fn print(&self) {
        print!("{:<22} {:>14.1?}", self.label, self.alone);
        for (_, grants, used) in &self.contended {
            let rate = *grants as f64 / (ROUND * ROUNDS).as_secs_f64();
            print!(" {rate:>14.0}/s on {used:>2}");
        }
        println!();
    }
}

fn url(server: &PostgresServer, label: &str) -> String {
    format!("{}?application_name={}", server.url(), label.replace(' ', "%20"))
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    let server = PostgresServer::start().unwrap();
    let mut all = vec![
        Contender::of("PgAdvisoryLock", Way::Sqlx),
        Contender::new(&server, "advisory", Strategy::Advisory, 1).await,
        Contender::new(&server, "advisory, 4 clients", Strategy::Advisory, 4).await,
        Contender::new(&server, "table", Strategy::Table, 1).await,
        Contender::of("pg_try_advisory_lock", Way::Floor),
    ];
    for _ in 0..2 * ROUNDS {
        for contender in &mut all {
            contender.alone(&server).await;
        }
    }
    for tasks in [8, 32] {
        for _ in 0..ROUNDS {
            for contender in &mut all {
                if !matches!(contender.way, Way::Floor) {
                    contender.contend(&server, tasks).await;
                }
            }
        }
    }
    println!("PostgreSQL {}", server.sql("SHOW server_version").unwrap());
    println!(
        "{:<22} {:>14} {:>22} {:>22}",
        "", "alone", "8 waiters, connections", "32 waiters, connections"
    );
    all.iter().for_each(Contender::print);
    let theirs = &all[0];
    for ours in &all[1..] {
        let alone = ours.alone.as_secs_f64() / theirs.alone.as_secs_f64();
        print!("{} beside {}: {alone:.2} times the time alone", ours.label, theirs.label);
        for ((tasks, ours, _), (_, theirs, _)) in ours.contended.iter().zip(&theirs.contended) {
            let ratio = *ours as f64 / *theirs as f64;
            print!(", {ratio:.2} times the grants to {tasks} waiters");
        }
        println!();
    }
}
