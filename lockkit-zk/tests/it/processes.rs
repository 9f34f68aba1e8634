//! Many processes on one name, and one that stands still.

use std::fs;
use std::time::{Duration, Instant};

use crate::common::{SLACK, TICK, by, client, join, ms, queued};
use lockkit_core::Locks;
use lockkit_zk::ZkNode;
use testbed::children::{self, Child};
use testbed::contenders::{count, counted};
use testbed::{ZkServer, timing};
use zookeeper_client::{Acls, Client, CreateMode, Error as ZkError, MultiWriteError};

/// In a child: its client of the parent's server.
async fn parents_server() -> Locks {
    join(std::env::var("PORT").unwrap().parse().unwrap()).await
}

fn child(test: &str, role: &str, server: &ZkServer) -> children::Builder {
    Child::test(test, role).env("PORT", server.port().to_string())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens() {
    const ROUNDS: u64 = 6;
    if children::role().is_some() {
        let file = std::env::var_os("COUNTER").unwrap();
        return count(&parents_server().await.lock("counter"), file.as_ref(), 8, ROUNDS).await;
    }
    let server = crate::common::server();
    let file = server.place().directory().join("counter");
    fs::write(&file, "0").unwrap();
    let name = "processes::eight_processes_of_eight_tasks_lose_no_update_and_get_growing_tokens";
    let start = |_| child(name, "count", &server).env("COUNTER", &file).start().unwrap();
    let children: Vec<Child> = (0..8).map(start).collect();
    counted(&children, &file, 8 * 8 * ROUNDS, ms(90_000));
    println!("{} grants to 8 processes of 8 tasks, tokens in their order", 8 * 8 * ROUNDS);
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
    let server = crate::common::server();
    let locks = client(&server).await;
    let name = "processes::a_killed_holders_name_is_granted_with_the_end_of_its_session";
    let mut slowest = Duration::ZERO;
    for _ in 0..2 {
        let holder = child(name, "holder", &server).start().unwrap();
        assert_eq!(timing::kept(|| holder.line(ms(20_000))), "held");
        let next = tokio::spawn(locks.lock("a").ttl(ttl).acquire());
        queued(&locks.lock("a"), 1).await;
        let killed = Instant::now();
        holder.kill().unwrap();
        // The session lasts a tick longer than the ttl, from the last heartbeat on, and ends with a tick.
        let guard = by(ttl + 2 * TICK + SLACK, "the next grant", next).await.unwrap().unwrap();
        let took = killed.elapsed();
        assert!(took > ttl, "granted {took:?} after the kill");
        slowest = slowest.max(took);
        guard.release().await.unwrap();
    }
    println!("ttl {ttl:?}, tick {TICK:?}: granted {slowest:?} after the kill at the latest");
}

/// A client of the driver's own, as a program has that writes into ZooKeeper.
async fn writer(port: u16) -> Client {
    let servers = format!("127.0.0.1:{port}");
    Client::connector().with_session_timeout(ms(10_000)).connect(&servers).await.unwrap()
}

/// Writes under the holder's check; what else fails than the write itself is tried again.
async fn write(client: &Client, held: &ZkNode, text: &str) -> Result<(), (usize, ZkError)> {
    loop {
        let mut multi = client.new_multi_writer();
        multi.add_check_version(&held.path, held.version).unwrap();
        multi.add_set_data("/state", text.as_bytes(), None).unwrap();
        match multi.commit().await {
            Ok(_) => return Ok(()),
            Err(MultiWriteError::OperationFailed { index, source }) => return Err((index, source)),
            Err(error) => println!("tried again: {error}"),
        }
        tokio::time::sleep(ms(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_was_stopped_past_its_session_knows_and_its_guarded_write_is_refused() {
    let ttl = ms(1_500);
    if children::role().is_some() {
        let port = std::env::var("PORT").unwrap().parse().unwrap();
        let guard = parents_server().await.lock("a").ttl(ttl).acquire().await.unwrap();
        let (client, held) = (writer(port).await, guard.native::<ZkNode>().unwrap().clone());
        assert!(u64::try_from(held.czxid).unwrap() < guard.token().as_u64());
        write(&client, &held, "holder").await.unwrap();
        // Before it says so: it may be stopped at once.
        let held_since = Instant::now();
        let (mut before, mut longest, mut looks) = (held_since, Duration::ZERO, 0_u64);
        children::say("held");
        loop {
            // Read once: a pause between two readings would be seen by neither.
            let now = Instant::now();
            let pause = now - before;
            before = now;
            longest = longest.max(pause);
            if pause > ttl {
                let is_held = guard.is_held();
                let written = write(&client, &held, "stale").await;
                // The check itself is what fails.
                let is_refused = written == Err((0, ZkError::NoNode));
                children::say(&format!("held {is_held}, refused {is_refused}: {written:?}"));
                children::wait_for_the_end();
            }
            if now - held_since > ms(12_000) {
                children::say(&format!("no pause was seen, but one of {longest:?}"));
                children::wait_for_the_end();
            }
            looks += 1;
            if looks % 64 == 0 {
                tokio::time::sleep(ms(1)).await;
            }
        }
    }
    let server = crate::common::server();
    let ours = writer(server.port()).await;
    ours.create("/state", b"", &CreateMode::Persistent.with_acls(Acls::anyone_all()))
        .await
        .unwrap();
    let locks = client(&server).await;
    let name = "processes::a_holder_that_was_stopped_past_its_session_knows_and_its_guarded_write_is_refused";
    for _ in 0..3 {
        let holder = child(name, "holder", &server).start().unwrap();
        assert_eq!(timing::kept(|| holder.line(ms(20_000))), "held");
        holder.pause().unwrap();
        let next = locks.lock("a").ttl(ttl).acquire();
        let next = by(ttl + 2 * TICK + SLACK, "the next grant", next).await.unwrap();
        write(&ours, next.native::<ZkNode>().unwrap(), "next").await.unwrap();
        holder.resume().unwrap();
        let said = timing::kept(|| holder.line(ms(10_000)));
        assert!(said.starts_with("held false, refused true"), "{said}");
        assert_eq!(ours.get_data("/state").await.unwrap().0, b"next");
        testbed::held!(next);
        next.release().await.unwrap();
    }
}
