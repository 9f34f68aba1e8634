//! Names that stay taken although the process that held them is gone: minimum holds, and delays after a loss.

use std::time::Instant;

use crate::common::{SLACK, by, client, join, ms, queued, report};
use lockkit_core::Locks;
use testbed::RedisServer;
use testbed::children::{self, Child};

/// In a child: its client of the parent's server.
async fn parents_server() -> Locks {
    join(std::env::var("PORT").unwrap().parse().unwrap()).await
}

fn child(test: &str, server: &RedisServer) -> Child {
    Child::test(test, "holder").env("PORT", server.port().to_string()).start().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_process_that_ended_at_once_stays_taken_for_its_minimum_hold() {
    let least = ms(2_500);
    if children::role().is_some() {
        // It is far shorter than the rest, and the process ends without a close.
        let lock = parents_server().await.lock("tick").ttl(ms(500)).hold_at_least(least);
        lock.run(async |_guard| ()).await.unwrap();
        return children::say("done");
    }
    let server = RedisServer::start().unwrap();
    let lock = client(&server).await.lock("tick");
    let name = "resting::the_name_of_a_process_that_ended_at_once_stays_taken_for_its_minimum_hold";
    let began = Instant::now();
    let holder = child(name, &server);
    assert_eq!(holder.line(ms(20_000)).unwrap(), "done");
    let done = Instant::now();
    drop(holder);
    let attempt = lock.try_acquire().await.unwrap();
    assert!(attempt.is_none() || began.elapsed() >= least, "free at once");
    let guard = by(least + SLACK, "the next tick", lock.acquire()).await.unwrap();
    let (since_start, since_done) = (began.elapsed(), done.elapsed());
    report(&format!("redis: hold_at_least {least:?}: free {since_done:.1?} after the job ended"));
    assert!(since_start >= least, "free after {since_start:?}");
    assert!(since_done <= least + SLACK, "free {since_done:?} after the job");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_name_of_a_killed_holder_stays_taken_for_its_delay() {
    let (ttl, delay) = (ms(1_000), ms(2_000));
    if children::role().is_some() {
        let lock = parents_server().await.lock("a").ttl(ttl).delay_after_loss(delay);
        let guard = lock.acquire().await.unwrap();
        children::say("held");
        guard.lost().await;
        children::wait_for_the_end();
    }
    let server = RedisServer::start().unwrap();
    let lock = client(&server).await.lock("a");
    let holder = child("resting::the_name_of_a_killed_holder_stays_taken_for_its_delay", &server);
    assert_eq!(holder.line(ms(20_000)).unwrap(), "held");
    let next = tokio::spawn(lock.acquire());
    queued(&lock, 1).await;
    let killed = Instant::now();
    holder.kill().unwrap();
    let guard = by(ttl + delay + SLACK, "the next grant", next).await.unwrap().unwrap();
    let taken = killed.elapsed();
    report(&format!("redis: ttl {ttl:?}, delay {delay:?}: granted {taken:.1?} after the kill"));
    assert!(taken >= delay, "granted {taken:?} after the kill of its holder");
    guard.release().await.unwrap();
}
