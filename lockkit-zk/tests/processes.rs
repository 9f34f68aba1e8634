//! Many processes on one name, and one that stands still.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use common::{SLACK, TICK, by, client, join, ms, queued};
use lockkit_core::Locks;
use lockkit_zk::ZkNode;
use testbed::ZkServer;
use testbed::children::{self, Child};
use zookeeper_client::{Acls, Client, CreateMode};

/// In a child: its client of the parent's server.
async fn parents_server() -> Locks {
    join(std::env::var("PORT").unwrap().parse().unwrap()).await
}

fn child(test: &str, role: &str, server: &ZkServer) -> children::Builder {
    Child::test(test, role).env("PORT", server.port().to_string())
}

const TASKS: usize = 8;
const ROUNDS: usize = 6;

/// In a child: raises a counter that nothing but the lock protects, and tells each token.
async fn count() {
    let file = PathBuf::from(std::env::var_os("COUNTER").unwrap());
    let locks = parents_server().await;
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
    if children::role().is_some() {
        return count().await;
    }
    const PROCESSES: usize = 8;
    let server = common::server();
    let file = server.place().directory().join("counter");
    fs::write(&file, "0").unwrap();
    let name = "eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens";
    let start = |_| child(name, "count", &server).env("COUNTER", &file).start().unwrap();
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
    println!("{total} grants to {PROCESSES} processes of {TASKS} tasks, tokens in their order");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holders_name_is_granted_with_the_end_of_its_session() {
    let ttl = ms(1_500);
    if children::role().is_some() {
        let guard = parents_server().await.lock("a").ttl(ttl).acquire().await.unwrap();
        children::say("held");
        guard.lost().await;
        children::wait_for_the_end();
    }
    let server = common::server();
    let locks = client(&server).await;
    let name = "a_killed_holders_name_is_granted_with_the_end_of_its_session";
    let mut slowest = Duration::ZERO;
    for _ in 0..2 {
        let holder = child(name, "holder", &server).start().unwrap();
        assert_eq!(holder.line(ms(20_000)).unwrap(), "held");
        let next = tokio::spawn(locks.lock("a").ttl(ttl).acquire());
        queued(&locks.lock("a"), 1).await;
        let killed = Instant::now();
        holder.kill().unwrap();
        // The session lasts two ticks longer than the ttl, and ends with a tick.
        let guard = by(ttl + 3 * TICK + SLACK, "the next grant", next).await.unwrap().unwrap();
        slowest = slowest.max(killed.elapsed());
        guard.release().await.unwrap();
    }
    println!("ttl {ttl:?}, tick {TICK:?}: granted {slowest:?} after the kill at the latest");
}

/// A client of the driver's own, as a program has that writes into ZooKeeper.
async fn writer(port: u16) -> Client {
    let servers = format!("127.0.0.1:{port}");
    Client::connector().with_session_timeout(ms(10_000)).connect(&servers).await.unwrap()
}

/// Writes under the holder's check.
async fn write(client: &Client, held: &ZkNode, text: &str) -> Result<(), String> {
    let mut multi = client.new_multi_writer();
    multi.add_check_version(&held.path, held.version).unwrap();
    multi.add_set_data("/state", text.as_bytes(), None).unwrap();
    multi.commit().await.map(drop).map_err(|error| error.to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_stopped_past_its_session_knows_and_its_guarded_write_is_refused() {
    let ttl = ms(1_500);
    if children::role().is_some() {
        let port = std::env::var("PORT").unwrap().parse().unwrap();
        let guard = parents_server().await.lock("a").ttl(ttl).acquire().await.unwrap();
        let (client, held) = (writer(port).await, guard.native::<ZkNode>().unwrap().clone());
        assert_eq!(u64::try_from(held.czxid).unwrap(), guard.token().as_u64());
        write(&client, &held, "holder").await.unwrap();
        children::say("held");
        // A thread, so that the first look is the first thing that runs on waking.
        let (mut before, mut looks) = (Instant::now(), 0_u64);
        loop {
            let paused = before.elapsed() > ttl;
            before = Instant::now();
            if paused {
                let is_held = guard.is_held();
                let written = write(&client, &held, "stale").await;
                children::say(&format!("{is_held} {}", written.is_ok()));
                children::wait_for_the_end();
            }
            looks += 1;
            if looks % 64 == 0 {
                tokio::time::sleep(ms(1)).await;
            }
        }
    }
    let server = common::server();
    let ours = writer(server.port()).await;
    ours.create("/state", b"", &CreateMode::Persistent.with_acls(Acls::anyone_all()))
        .await
        .unwrap();
    let locks = client(&server).await;
    let name = "a_holder_that_was_stopped_past_its_session_knows_and_its_guarded_write_is_refused";
    for _ in 0..3 {
        let holder = child(name, "holder", &server).start().unwrap();
        assert_eq!(holder.line(ms(20_000)).unwrap(), "held");
        holder.pause().unwrap();
        let next = locks.lock("a").ttl(ttl).acquire();
        let next = by(ttl + 3 * TICK + SLACK, "the next grant", next).await.unwrap();
        write(&ours, next.native::<ZkNode>().unwrap(), "next").await.unwrap();
        holder.resume().unwrap();
        assert_eq!(holder.line(ms(10_000)).unwrap(), "false false");
        assert_eq!(ours.get_data("/state").await.unwrap().0, b"next");
        assert!(next.is_held());
        next.release().await.unwrap();
    }
}
