//! Many processes on one name: no lost update, and bounded hand-over when some are killed.

use std::time::{Duration, Instant};

use crate::common::{by, client, join, ms, queued};
use lockkit_core::Locks;
use testbed::children::{self, Child};
use testbed::contenders::{count, counted};
use testbed::{EtcdServer, timing};

/// The least that etcd grants.
const TTL: Duration = ms(2_000);
/// How soon after the ttl of a killed holder the next one is granted: etcd looks for ended leases
/// every 500 ms.
const SOON: Duration = ms(1_500);

/// In a child: its client of the parent's server.
async fn parents_server() -> Locks {
    join(&[std::env::var("PORT").unwrap().parse().unwrap()]).await
}

fn child(test: &str, role: &str, server: &EtcdServer) -> Child {
    let child = Child::test(test, role).env("PORT", server.port().to_string());
    child.env("COUNTER", server.place().directory().join("counter")).start().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens() {
    const ROUNDS: u64 = 8;
    if children::role().is_some() {
        let file = std::env::var_os("COUNTER").unwrap();
        return count(&parents_server().await.lock("counter"), file.as_ref(), 8, ROUNDS).await;
    }
    let server = EtcdServer::start().unwrap();
    let file = server.place().directory().join("counter");
    std::fs::write(&file, "0").unwrap();
    let name = "processes::eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens";
    let began = Instant::now();
    let children: Vec<Child> = (0..8).map(|_| child(name, "count", &server)).collect();
    counted(&children, &file, 8 * 8 * ROUNDS, ms(60_000));
    println!("{} grants to 8 processes of 8 tasks in {:?}", 8 * 8 * ROUNDS, began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_holders_name_is_granted_within_its_ttl_and_a_second_and_a_half() {
    if children::role().is_some() {
        let guard = parents_server().await.lock("a").ttl(TTL).acquire().await.unwrap();
        children::say("held");
        guard.lost().await;
        children::wait_for_the_end();
    }
    let server = EtcdServer::start().unwrap();
    let locks = client(&server).await;
    let name = "processes::a_killed_holders_name_is_granted_within_its_ttl_and_a_second_and_a_half";
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        let holder = child(name, "holder", &server);
        assert_eq!(timing::kept(|| holder.line(ms(20_000))), "held");
        // A waiter that dies too costs nothing: both sessions end side by side.
        let waiter = child(name, "holder", &server);
        queued(&locks.lock("a"), 1).await;
        let next = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
        queued(&locks.lock("a"), 2).await;
        tokio::time::sleep(TTL / 2).await;
        assert!(!next.is_finished());
        let killed = Instant::now();
        drop((holder, waiter));
        let guard = by(TTL + SOON, "the next one's grant", next).await.unwrap().unwrap();
        slowest = slowest.max(killed.elapsed());
        assert!(killed.elapsed() > TTL / 3, "granted before the ttl");
        guard.release().await.unwrap();
    }
    println!("a killed holder's name, ttl {TTL:?}: granted within {slowest:?}");
}
