//! What grows with waiters and with old versions of rows: ten thousand waiters of a name, and an open snapshot.

use std::fs;
use std::time::{Duration, Instant};

use lockkit_bench::{median, print_ratios};
use lockkit_core::{Guard, Lock, Locks};
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use testbed::PostgresServer;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::ways::{Kind, Way, server};

const CLIENTS: usize = 20;
const RELEASES: usize = 21;
const IDLE: Duration = Duration::from_secs(8);
const TTL: Duration = Duration::from_secs(60);
/// The kernel's ticks in a second.
const TICKS: f64 = 100.0;

const CYCLES: usize = 20_000;
const BLOCK: usize = 1_000;

/// The processor time that the server's processes have used, in seconds.
fn used(server: &PostgresServer) -> f64 {
    let postmaster = server.pid().unwrap().to_string();
    let mut ticks = 0;
    for entry in fs::read_dir("/proc").unwrap().flatten() {
        // A process may end meanwhile.
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some((head, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<_> = rest.split(' ').collect();
        let number = |n: usize| fields[n].parse::<u64>().unwrap();
        if fields[1] == postmaster {
            ticks += number(11) + number(12);
        } else if head.starts_with(&format!("{postmaster} (")) {
            // With those of its processes that have ended.
            ticks += (11..15).map(number).sum::<u64>();
        }
    }
    ticks as f64 / TICKS
}

/// Waiters of a name, spread over the clients; their guards come in the order of their grants.
struct Crowd<'a> {
    clients: &'a [Locks],
    name: &'a str,
    entered: usize,
    granted: UnboundedSender<Guard>,
    guards: UnboundedReceiver<Guard>,
}

impl<'a> Crowd<'a> {
    async fn enter(
        server: &PostgresServer,
        clients: &'a [Locks],
        name: &'a str,
        count: usize,
    ) -> Self {
        let (granted, guards) = unbounded_channel();
        let mut crowd = Self { clients, name, entered: 0, granted, guards };
        (0..count).for_each(|_| crowd.one_more());
        let waiters = format!("SELECT count(*) FROM lockkit.waiter WHERE name = '{name}'");
        while server.sql(&waiters).unwrap() != count.to_string() {
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        crowd
    }

    fn one_more(&mut self) {
        let lock = self.clients[self.entered % self.clients.len()].lock(self.name).ttl(TTL);
        let granted = self.granted.clone();
        self.entered += 1;
        tokio::spawn(async move { granted.send(lock.acquire().await.unwrap()) });
    }

    /// From a release to the next waiter's guard, in ms: the median, the first left out, and the first.
    async fn releases(&mut self, mut holder: Guard, count: usize) -> (f64, f64) {
        let mut took = Vec::new();
        while took.len() < count {
            let began = Instant::now();
            holder.release().await.unwrap();
            holder = self.guards.recv().await.unwrap();
            took.push(began.elapsed().as_secs_f64() * 1e3);
            self.one_more();
            // As in ordinary use, the releases do not follow each other at once.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        (median(&took[1..]), took[0])
    }
}

/// One round: the server's load with so many idle waiters, and what a release takes with ten and with all.
async fn crowd(count: usize) -> (f64, f64) {
    let (server, way) = (server(), Way::new("table", Kind::Table { flush: false }));
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(way.locks(&server).await);
    }
    let others = way.locks(&server).await;
    let held = async |name: &str| others.lock(name).ttl(TTL).acquire().await.unwrap();
    // All of them listen, whatever waits for the measured name.
    let kept = held("kept").await;
    let keeping = Crowd::enter(&server, &clients, "kept", CLIENTS).await;

    // Each client's connections have planned their statements before something is measured.
    let holder = held("warm").await;
    let mut warm = Crowd::enter(&server, &clients, "warm", 10).await;
    warm.releases(holder, 10 * CLIENTS).await;

    let holder = held("few").await;
    let mut few = Crowd::enter(&server, &clients, "few", 10).await;
    let (ten, ten_first) = few.releases(holder, RELEASES).await;

    let holder = held("many").await;
    let began = Instant::now();
    let mut many = Crowd::enter(&server, &clients, "many", count).await;
    let entered = began.elapsed();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = used(&server);
    tokio::time::sleep(IDLE).await;
    let idle = (used(&server) - before) / IDLE.as_secs_f64();
    let (all, all_first) = many.releases(holder, RELEASES).await;
    println!(
        "  {count} waiters entered in {entered:.1?}; idle {:.1} % of a core; from a release to the \
         next guard {all:.2} ms (the first {all_first:.2}), with ten {ten:.2} ms (the first {ten_first:.2})",
        idle * 100.0
    );
    drop((kept, keeping));
    (idle * 100.0, all / ten)
}

pub(crate) fn ten_thousand(rounds: usize, count: usize) {
    println!("{CLIENTS} clients of {} waiters of one name", count / CLIENTS);
    let (mut idle, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let (load, ratio) = runtime.block_on(crowd(count));
        // The tasks go without a word, and the server with them.
        runtime.shutdown_timeout(Duration::from_secs(1));
        idle.push(load);
        ratios.push(ratio);
    }
    print_ratios("idle, % of a core", &idle, "<= 5");
    print_ratios("release, all waiters / ten", &ratios, "<= 2");
}

/// The median of so many cycles, in µs.
async fn block(lock: &Lock, cycles: usize) -> f64 {
    let mut took = Vec::new();
    for _ in 0..cycles {
        let began = Instant::now();
        lock.acquire().await.unwrap().release().await.unwrap();
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    median(&took)
}

/// Cycles of one name behind an open snapshot, beside those of another database without one.
pub(crate) async fn snapshot(rounds: usize) {
    let (mut ratios, mut beside) = (Vec::new(), Vec::new());
    println!(
        "behind an open snapshot, {CYCLES} cycles: µs, beside those without one at the same time"
    );
    for _ in 0..rounds {
        let server = server();
        server.sql("CREATE DATABASE other").unwrap();
        let way = Way::new("table", Kind::Table { flush: false });
        let other = server.url().strip_suffix("/postgres").unwrap().to_owned() + "/other";
        let subject = way.locks(&server).await.lock("bloated").ttl(TTL);
        let control = way.locks_at(&other).await.lock("bloated").ttl(TTL);
        block(&subject, 200).await;
        block(&control, 200).await;
        let mut snapshot = PgConnection::connect(&server.url()).await.unwrap();
        let open = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM lockkit.lease";
        sqlx::raw_sql(open).execute(&mut snapshot).await.unwrap();
        let mut blocks = Vec::new();
        for _ in 0..CYCLES / BLOCK {
            let without = block(&control, BLOCK / 5).await;
            blocks.push((block(&subject, BLOCK).await, without));
        }
        let shown: Vec<_> =
            blocks.iter().map(|(with, without)| format!("{with:.0}/{without:.0}")).collect();
        let generation = server.sql("SELECT max(gen) FROM lockkit.lease").unwrap();
        println!("  {} (gen {generation})", shown.join(" "));
        let (first, last) = (blocks[0], blocks[blocks.len() - 1]);
        ratios.push(last.0 / first.0);
        beside.push(last.0 / last.1 / (first.0 / first.1));
        sqlx::raw_sql("ROLLBACK").execute(&mut snapshot).await.unwrap();
    }
    print_ratios("the last thousand / the first", &ratios, "<= 2");
    print_ratios("the same, each beside those without a snapshot", &beside, "");
}
