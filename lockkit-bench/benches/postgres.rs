//! Locks on a real PostgreSQL: lockkit's two strategies, floors on bare connections, and sqlx's `PgAdvisoryLock`.
//!
//! Each part stands for itself: `cargo bench -p lockkit-bench --bench postgres -- cycle snapshot` runs those whose
//! names contain one of the words.

#![allow(clippy::unwrap_used)]

#[path = "postgres/crowd.rs"]
mod crowd;
#[path = "postgres/rounds.rs"]
mod rounds;
#[path = "postgres/ways.rs"]
mod ways;

use lockkit_bench::is_wanted;
use tokio::runtime::Runtime;

use rounds::{cycles, print_figures, print_ratio, rates};
use ways::{Kind, Way, server};

const TABLE: Way = Way::new("table", Kind::Table { flush: false });
const TABLE_FLUSH: Way = Way::new("table, flush", Kind::Table { flush: true });
const UPSERT: Way = Way::new("upsert and update", Kind::Upsert { flush: false });
const UPSERT_FLUSH: Way = Way::new("upsert and update, flush", Kind::Upsert { flush: true });
const QUEUE: Way = Way::new("queue", Kind::Queue { flush: false });
const QUEUE_FLUSH: Way = Way::new("queue, flush", Kind::Queue { flush: true });
const ADVISORY: Way = Way::new("advisory", Kind::Advisory);
const TRY: Way = Way::new("try and unlock", Kind::Try { prepared: false });
const TRY_PREPARED: Way = Way::new("try and unlock, prepared", Kind::Try { prepared: true });
const BLOCKING: Way = Way::new("pg_advisory_lock", Kind::Blocking);
const SQLX: Way = Way::new("PgAdvisoryLock", Kind::Sqlx);

async fn table_cycle() {
    let server = server();
    let ways = [TABLE, TABLE_FLUSH, UPSERT, UPSERT_FLUSH];
    let all = cycles(&server, &ways, 5, 8).await;
    print_figures("table, acquire and release alone", "µs", &ways, &all);
    print_ratio(&ways, &all, TABLE.label, UPSERT_FLUSH.label, "<= 1.0");
    print_ratio(&ways, &all, TABLE_FLUSH.label, UPSERT_FLUSH.label, "<= 1.45");
    print_ratio(&ways, &all, TABLE.label, UPSERT.label, "");
}

async fn table_hand_off() {
    let server = server();
    for (clients, goal) in [(8, ">= 0.7"), (32, ">= 0.6")] {
        let ways = [TABLE, TABLE_FLUSH, QUEUE, QUEUE_FLUSH];
        let all = rates(&server, &ways, 5, clients, |way, _| way.label.to_owned()).await;
        print_figures(&format!("table, hand-offs of {clients} clients"), "/s", &ways, &all);
        print_ratio(&ways, &all, TABLE.label, QUEUE_FLUSH.label, goal);
        print_ratio(&ways, &all, TABLE_FLUSH.label, QUEUE_FLUSH.label, "");
        print_ratio(&ways, &all, TABLE.label, QUEUE.label, "");
    }
}

async fn advisory_cycle() {
    let server = server();
    let ways = [ADVISORY, TRY, TRY_PREPARED];
    let all = cycles(&server, &ways, 5, 8).await;
    print_figures("advisory, acquire and release alone", "µs", &ways, &all);
    print_ratio(&ways, &all, ADVISORY.label, TRY.label, "<= 1.5");
    print_ratio(&ways, &all, ADVISORY.label, TRY_PREPARED.label, "");
}

async fn advisory_hand_off() {
    let server = server();
    for clients in [8, 32] {
        let ways = [ADVISORY, BLOCKING];
        let all = rates(&server, &ways, 5, clients, |way, _| way.label.to_owned()).await;
        print_figures(&format!("advisory, hand-offs of {clients} clients"), "/s", &ways, &all);
        print_ratio(&ways, &all, ADVISORY.label, BLOCKING.label, ">= 0.7");
    }
}

async fn names() {
    let server = server();
    let few = |way: Way| way.shared_by_all().connections(16);
    let ways = [few(TABLE), few(TABLE_FLUSH), UPSERT, UPSERT_FLUSH, few(ADVISORY), TRY];
    let all = rates(&server, &ways, 3, 64, |way, task| format!("{} {task}", way.label)).await;
    print_figures("64 tasks on 64 names", "/s", &ways, &all);
    print_ratio(&ways, &all, TABLE.label, UPSERT_FLUSH.label, ">= 0.7");
    print_ratio(&ways, &all, TABLE_FLUSH.label, UPSERT_FLUSH.label, "");
    print_ratio(&ways, &all, TABLE.label, UPSERT.label, "");
    print_ratio(&ways, &all, ADVISORY.label, TRY.label, ">= 0.7");
}

/// Beside sqlx's lock, with a connection for each task.
async fn peers() {
    let server = server();
    let four = Way { label: "advisory, 4 clients", ..ADVISORY.clients(4) };
    let ways = [SQLX, ADVISORY.shared_by_all(), four, TABLE.shared_by_all()];
    let ours = ways.map(|way| way.label);
    let all = cycles(&server, &ways, 3, 4).await;
    print_figures("beside sqlx, acquire and release alone", "µs", &ways, &all);
    for label in &ours[1..] {
        print_ratio(&ways, &all, label, SQLX.label, "");
    }
    for tasks in [8, 32] {
        let all = rates(&server, &ways, 3, tasks, |way, _| way.label.to_owned()).await;
        print_figures(&format!("beside sqlx, hand-offs of {tasks} tasks"), "/s", &ways, &all);
        for label in &ours[1..] {
            print_ratio(&ways, &all, label, SQLX.label, "");
        }
    }
}

/// As programs do: what the runtime's own thread waits for is told by another thread each time.
fn in_a_task(runtime: &Runtime, part: impl Future<Output = ()> + Send + 'static) {
    runtime.block_on(runtime.spawn(part)).unwrap();
}

fn main() {
    let part = |name: &str, run: &dyn Fn(&Runtime)| {
        if is_wanted(&format!("postgres/{name}")) {
            let mut runtime = tokio::runtime::Builder::new_multi_thread();
            run(&runtime.worker_threads(2).enable_all().build().unwrap());
        }
    };
    part("table_cycle", &|runtime| in_a_task(runtime, table_cycle()));
    part("table_hand_off", &|runtime| in_a_task(runtime, table_hand_off()));
    part("advisory_cycle", &|runtime| in_a_task(runtime, advisory_cycle()));
    part("advisory_hand_off", &|runtime| in_a_task(runtime, advisory_hand_off()));
    part("names", &|runtime| in_a_task(runtime, names()));
    part("peers", &|runtime| in_a_task(runtime, peers()));
    part("waiters", &|_| crowd::ten_thousand(3, 10_000));
    part("snapshot", &|runtime| in_a_task(runtime, crowd::snapshot(3)));
}
