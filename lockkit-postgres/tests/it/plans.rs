//! The plan of every statement that the table strategy runs: found by an index, and few rows read, whatever the
//! server knows of its tables.

use std::time::Duration;

use lockkit_core::{Clock, Lock, LockName, LockProvider, Locks, Request};
use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::PostgresServer;

use crate::common::{SLACK, Snapshot, by, config, count, join, ms, until};

const TTL: Duration = Duration::from_secs(30);
const WAITERS: &str = "SELECT count(*) FROM lockkit.waiter WHERE name = 'planned'";

/// What `inspect` and `list` begin with.
const LOOK: &str = "WITH t AS MATERIALIZED (SELECT clock_timestamp()";

/// How many rows a step of a plan may read, dead ones that it must look at not counted.
const ROWS: f64 = 8.0;
/// How many pages a statement may look at.
const PAGES: f64 = 50.0;

/// The functions and queries that the client must have called.
const CALLED: [&str; 11] = [
    "lockkit.acquire(",
    "lockkit.leave(",
    "lockkit.acquire_member(",
    "lockkit.renew_member(",
    "lockkit.leave_member(",
    "lockkit.renew(",
    "lockkit.beat(",
    "lockkit.poke(",
    "lockkit.revoke(",
    "starts_with(name, E'planned')",
    "WHERE name = E'planned'",
];

/// Many names, clients and waiters, each with dead versions before it, and a queue of which the beginning is gone.
const BLOAT: &str = "
    INSERT INTO lockkit.lease (name) SELECT 'other/' || n FROM generate_series(1, 5000) n;
    INSERT INTO lockkit.client SELECT gen_random_uuid(), clock_timestamp(), 3000, 1, 1
        FROM generate_series(1, 1000);
    INSERT INTO lockkit.waiter (name, request, client, ttl, label)
        SELECT 'other/' || n, gen_random_uuid(), gen_random_uuid(), 30000, '' FROM generate_series(1, 5000) n;
    INSERT INTO lockkit.member (name, request, token, client, label, granted_at, expires_at)
        SELECT 'other/' || n % 50, gen_random_uuid(), n, gen_random_uuid(), '', clock_timestamp(), clock_timestamp()
        FROM generate_series(1, 5000) n;
    INSERT INTO lockkit.member (name, request, token, client, label, granted_at, expires_at)
        SELECT 'planned', gen_random_uuid(), n, gen_random_uuid(), '', clock_timestamp(), clock_timestamp()
        FROM generate_series(1, 2000) n;
    DELETE FROM lockkit.member WHERE name = 'planned';
    INSERT INTO lockkit.waiter (name, request, client, ttl, label)
        SELECT 'planned', gen_random_uuid(), gen_random_uuid(), 30000, '' FROM generate_series(1, 2000);
    DELETE FROM lockkit.waiter WHERE name = 'planned';
    UPDATE lockkit.lease SET label = 'a'; UPDATE lockkit.lease SET label = 'b' || name;
    UPDATE lockkit.lease SET label = NULL;
    UPDATE lockkit.client SET beat = 2; UPDATE lockkit.client SET beat = 3";

/// A server that writes each plan into its log.
fn server() -> PostgresServer {
    let server = PostgresServer::builder().setting("session_preload_libraries", "auto_explain");
    let on = ["log_nested_statements", "log_analyze", "log_buffers"];
    let server = on
        .iter()
        .fold(server, |server, name| server.setting(&format!("auto_explain.{name}"), "on"));
    server
        .setting("auto_explain.log_timing", "off")
        .setting("auto_explain.log_min_duration", 0)
        .start()
        .unwrap()
}

/// A statement, as its plan was logged.
#[derive(Debug, Default)]
struct Plan {
    query: String,
    steps: Vec<Step>,
    /// The pages of the whole statement.
    pages: f64,
    text: String,
}

/// A step of a plan.
#[derive(Debug, Default)]
struct Step {
    what: String,
    /// What it gave and what it threw away, in all its turns.
    rows: f64,
    turns: f64,
}

/// The number behind a word.
fn number(line: &str, word: &str) -> Option<f64> {
    let rest = line.split_once(word)?.1;
    let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
    rest[..end].parse().ok()
}

/// The plans in a server's log.
fn plans(log: &str) -> Vec<Plan> {
    let mut plans: Vec<Plan> = Vec::new();
    let mut is_plan = false;
    for line in log.lines() {
        let Some(line) = line.strip_prefix('\t') else {
            is_plan = line.contains(" LOG:  duration: ") && line.ends_with("plan:");
            plans.extend(is_plan.then(Plan::default));
            continue;
        };
        let Some(plan) = plans.last_mut().filter(|_| is_plan) else { continue };
        plan.text += &format!("{line}\n");
        plan.take(line);
    }
    plans
}

impl Plan {
    fn take(&mut self, line: &str) {
        if let Some(turns) = number(line, " loops=") {
            let what =
                line.split("  (").next().unwrap_or_default().trim_start_matches([' ', '-', '>']);
            let rows = line.rsplit_once("(actual ").and_then(|(_, actual)| number(actual, "rows="));
            self.steps.push(Step {
                what: what.to_owned(),
                rows: rows.unwrap_or_default() * turns,
                turns,
            });
            return;
        }
        match self.steps.last_mut() {
            // The query comes first, in as many lines as it has.
            None => self.query += &format!("{} ", line.trim()),
            Some(step) if line.contains("Rows Removed by") => {
                step.rows += number(line, ": ").unwrap_or_default() * step.turns;
            }
            Some(_) => {
                if self.pages == 0.0
                    && let Some((_, pages)) = line.split_once("Buffers: shared")
                {
                    let words = [" hit=", " read="];
                    self.pages = words.iter().filter_map(|word| number(pages, word)).sum();
                }
            }
        }
    }

    /// Whether it reads tables itself. A call of a function counts what the function reads, and with its first call
    /// what the server reads to prepare it.
    fn reads(&self) -> bool {
        self.steps.iter().any(Step::reads)
    }

    fn check(&self, state: &str) {
        for step @ Step { what, rows, .. } in &self.steps {
            assert!(!what.contains("Seq Scan"), "{state}: a scan of all rows:\n{}", self.text);
            assert!(!step.reads() || *rows <= ROWS, "{state}: {rows} rows:\n{}", self.text);
        }
        assert!(self.pages <= PAGES, "{state}: {} pages:\n{}", self.pages, self.text);
    }
}

impl Step {
    /// Whether it reads rows of a table. A scan of an index alone counts those that are long gone.
    fn reads(&self) -> bool {
        let tables = ["Seq Scan", "Index Scan", "Index Only Scan", "Bitmap Heap Scan", "Tid"];
        tables.iter().any(|scan| self.what.starts_with(scan))
    }
}

/// Every call that the strategy knows, often enough for the server to settle on a plan.
async fn every_call(server: &PostgresServer, providers: &[PostgresProvider; 2]) {
    let [ours, theirs] = &providers.each_ref().map(|provider| Locks::new(provider.clone()));
    let lock = |locks: &Locks| -> Lock { locks.lock("planned").ttl(TTL) };
    for _ in 0..7 {
        let held = lock(ours).acquire().await.unwrap();
        held.renew().await.unwrap();
        assert!(lock(theirs).try_acquire().await.unwrap().is_none());
        let waiting = tokio::spawn(lock(theirs).acquire());
        until(SLACK * 4, "it waits", || count(server, WAITERS) == 1).await;
        assert!(lock(theirs).acquire_within(ms(10)).await.is_err());
        until(SLACK * 4, "the other has left", || count(server, WAITERS) == 1).await;
        held.release().await.unwrap();
        let next = by(SLACK * 4, "the next grant", waiting).await.unwrap().unwrap();
        let seen = ours.list("planned", None, 10).await.unwrap();
        assert_eq!(seen.len(), 1);
        assert_eq!(lock(ours).inspect().await.unwrap().holders.len(), 1);
        assert!(lock(ours).revoke(next.token()).await.unwrap());
        // A holder that is gone says nothing: the waiter has the server look.
        let dies =
            Request::new(LockName::new("planned").unwrap(), ms(200), Clock::system()).unwrap();
        let dead = providers[0].try_acquire(&dies).await.unwrap().expect("free");
        let waiting = by(SLACK * 8, "a grant after an end", lock(theirs).acquire());
        waiting.await.unwrap().release().await.unwrap();
        drop(dead);
        beside_others(server, ours, theirs).await;
    }
}

/// The same for grants that are held together.
async fn beside_others(server: &PostgresServer, ours: &Locks, theirs: &Locks) {
    let lock = |locks: &Locks| -> Lock { locks.lock("planned").ttl(TTL) };
    let held = lock(ours).shared().acquire().await.unwrap();
    let beside = lock(theirs).shared().acquire().await.unwrap();
    held.renew().await.unwrap();
    let writer = tokio::spawn(lock(theirs).acquire());
    until(SLACK * 4, "it waits", || count(server, WAITERS) == 1).await;
    let reader = tokio::spawn(lock(ours).shared().acquire());
    until(SLACK * 4, "it waits behind it", || count(server, WAITERS) == 2).await;
    assert_eq!(lock(ours).inspect().await.unwrap().holders.len(), 2);
    // The last renewed leaves first: the end of the others is looked up.
    held.release().await.unwrap();
    assert!(lock(ours).revoke(beside.token()).await.unwrap());
    by(SLACK * 4, "the writer's grant", writer).await.unwrap().unwrap().release().await.unwrap();
    by(SLACK * 4, "the reader's grant", reader).await.unwrap().unwrap().release().await.unwrap();
}

/// The plans of every call, without those of the test's own.
async fn logged(server: &PostgresServer) -> Vec<Plan> {
    // Sessions of its own: a session keeps its plans.
    let connect = || PostgresProvider::connect(config(&server.url(), Strategy::Table));
    let clients = [connect().await.unwrap(), connect().await.unwrap()];
    let before = server.log().len();
    every_call(server, &clients).await;
    let mut all = plans(&server.log()[before..]);
    for called in CALLED {
        assert!(all.iter().any(|plan| plan.query.contains(called)), "no {called}");
    }
    all.retain(|plan| plan.reads() && !plan.query.contains(WAITERS));
    all
}

fn check(state: &str, plans: &[Plan]) {
    let most = plans.iter().map(|plan| plan.pages).fold(0.0, f64::max);
    println!("{state}: {} plans, {most} pages at most", plans.len());
    plans.iter().for_each(|plan| plan.check(state));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_of_the_table_reads_few_rows_by_an_index_whatever_the_server_knows_of_its_tables()
 {
    let server = server();
    check("empty", &logged(&server).await);
    server.sql(BLOAT).unwrap();
    check("bloated", &logged(&server).await);
    server.sql("ANALYZE").unwrap();
    check("bloated and analyzed", &logged(&server).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_an_open_snapshot_no_call_of_a_lock_reads_the_rows_of_the_cycles_before() {
    let server = server();
    let lock = join(&server.url(), Strategy::Table).await.lock("planned").ttl(TTL);
    lock.acquire().await.unwrap().release().await.unwrap();
    let _snapshot = Snapshot::open(&server).await;
    for _ in 0..1_500 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    for (state, before) in [("not analyzed", ""), ("analyzed", "ANALYZE")] {
        server.sql(before).unwrap();
        let mut plans = logged(&server).await;
        // An operator's look reads each row of a name.
        plans.retain(|plan| !plan.query.contains(LOOK));
        check(&format!("behind a snapshot, {state}"), &plans);
    }
}
