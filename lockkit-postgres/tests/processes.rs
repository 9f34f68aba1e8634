//! Many processes on one name: no lost update.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;

use common::{BOTH, join, ms};
use lockkit_postgres::Strategy;
use testbed::PostgresServer;
use testbed::children::{self, Child};

const PROCESSES: usize = 8;
const TASKS: usize = 8;
const ROUNDS: usize = 10;

/// In a child: raises a counter that nothing but the lock protects, and tells each token.
async fn count(role: &str) {
    let [strategy, url, file] = role.split(' ').collect::<Vec<_>>()[..] else { panic!("{role}") };
    let strategy = if strategy == "Table" { Strategy::Table } else { Strategy::Advisory };
    let (locks, file) = (join(url, strategy).await, PathBuf::from(file));
    let tasks = (0..TASKS).map(|_| {
        let (lock, file) = (locks.lock("counter"), file.clone());
        tokio::spawn(async move {
            for _ in 0..ROUNDS {
                let guard = lock.acquire().await.unwrap();
                let count: u64 = fs::read_to_string(&file).unwrap().parse().unwrap();
                tokio::task::yield_now().await;
                fs::write(&file, (count + 1).to_string()).unwrap();
                children::say(&format!("{count} {}", guard.token()));
                guard.release().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    children::say("done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens() {
    if let Some(role) = children::role() {
        return count(&role).await;
    }
    let server = PostgresServer::start().unwrap();
    let directory = tempfile::tempdir().unwrap();
    for strategy in BOTH {
        let file = directory.path().join(format!("{strategy:?}"));
        fs::write(&file, "0").unwrap();
        let name = "eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens";
        let role = format!("{strategy:?} {} {}", server.url(), file.display());
        let start = |_| Child::test(name, &role).start().unwrap();
        let children: Vec<Child> = (0..PROCESSES).map(start).collect();
        let mut grants: Vec<(u64, u64)> = Vec::new();
        for child in &children {
            loop {
                let line = child.line(ms(90_000)).unwrap();
                let Some((count, token)) = line.split_once(' ') else { break };
                grants.push((count.parse().unwrap(), token.parse().unwrap()));
            }
        }
        let total = PROCESSES * TASKS * ROUNDS;
        assert_eq!(fs::read_to_string(&file).unwrap(), total.to_string(), "a lost update");
        grants.sort_unstable();
        assert_eq!(grants.len(), total);
        assert!(grants.iter().zip(0..).all(|(grant, n)| grant.0 == n), "two saw one count");
        assert!(grants.windows(2).all(|pair| pair[0].1 < pair[1].1), "tokens out of order");
        println!("{strategy:?}: {total} grants to {PROCESSES} processes of {TASKS} tasks");
    }
}
