//! Many processes on one name: no lost update.

use std::fs;

use crate::common::{BOTH, join, ms};
use lockkit_postgres::Strategy;
use testbed::PostgresServer;
use testbed::children::{self, Child};
use testbed::contenders::{count, counted};

const PROCESSES: u64 = 8;
const TASKS: u64 = 8;
const ROUNDS: u64 = 10;

/// In a child: raises the counter in the file under the strategy's lock.
async fn raise(role: &str) {
    let [strategy, url, file] = role.split(' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    let strategy = if strategy == "Table" { Strategy::Table } else { Strategy::Advisory };
    count(&join(url, strategy).await.lock("counter"), file.as_ref(), TASKS, ROUNDS).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens() {
    if let Some(role) = children::role() {
        return raise(&role).await;
    }
    let server = PostgresServer::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    for strategy in BOTH {
        let file = directory.path().join(format!("{strategy:?}"));
        fs::write(&file, "0").unwrap();
        let name =
            "processes::eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens";
        let role = format!("{strategy:?} {} {}", server.url(), file.display());
        let start = |_| Child::test(name, &role).start().unwrap();
        let children: Vec<Child> = (0..PROCESSES).map(start).collect();
        let total = PROCESSES * TASKS * ROUNDS;
        counted(&children, &file, total, ms(90_000));
        println!("{strategy:?}: {total} grants to {PROCESSES} processes of {TASKS} tasks");
    }
}
