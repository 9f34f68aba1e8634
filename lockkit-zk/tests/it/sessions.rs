//! The life of sessions: their end, their replacement, and the ttls that they give.

use std::time::Duration;

use crate::common::{SLACK, TICK, by, client, linked, ms, queued, server};
use lockkit_core::{Locks, LossReason};
use lockkit_zk::ZkNode;
use testbed::{Fault, Way, in_time, timing};
use zookeeper_client::Client;

const TTL: Duration = ms(1_500);

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_session_expires_queues_anew_and_is_never_granted_on_its_dead_node() {
    let server = server();
    let holder = client(&server).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let waiting = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
    let operator = client(&server).await.lock("a");
    queued(&operator, 1).await;
    link.fault(Way::Both, Fault::Blackhole);
    // The server ends the session, and the name is free before the waiter knows.
    queued(&operator, 0).await;
    let token = holder.token();
    holder.release().await.unwrap();
    let between = operator.acquire().await.unwrap();
    assert!(between.token() > token);
    link.pass().unwrap();
    queued(&operator, 1).await;
    assert!(!waiting.is_finished(), "granted on its dead node");
    let token = between.token();
    between.release().await.unwrap();
    let guard = by(ms(5_000), "the grant", waiting).await.unwrap().unwrap();
    assert!(guard.token() > token, "granted with the token of its dead node");
    let servers = server.address().to_string();
    let spectator = Client::connect(&servers).await.unwrap();
    let node = guard.native::<ZkNode>().unwrap();
    assert!(spectator.check_stat(&node.path).await.unwrap().is_some());
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_session_costs_its_leases_and_is_replaced_for_new_ones() {
    let server = server();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let lock = locks.lock("a").ttl(TTL);
    let guard = lock.acquire().await.unwrap();
    let began = timing::start();
    link.fault(Way::Both, Fault::Blackhole);
    let reason = by(TTL + SLACK, "the loss", guard.lost()).await;
    assert_eq!(reason, LossReason::Expired);
    in_time!(began, began.elapsed() < TTL + ms(300), "lost after {:?}", began.elapsed());
    let next = client(&server).await.lock("a").ttl(TTL).acquire();
    let next = by(TTL + 2 * TICK + SLACK, "the next grant", next).await.unwrap();
    println!("granted to another {:?} after the silence began", began.elapsed());
    let token = next.token();
    next.release().await.unwrap();
    link.pass().unwrap();
    let again = by(ms(5_000), "a grant on a new session", lock.acquire()).await.unwrap();
    assert!(again.token() > token && !guard.is_held());
    again.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ttls_are_rounded_up_to_ticks_and_lowered_to_what_servers_grant() {
    let server = server();
    let locks = client(&server).await;
    // The server grants 40 s at the most, one tick of which is spare.
    for (wished, granted) in
        [(50, 500), (500, 500), (501, 1_000), (15_000, 15_000), (3_600_000, 39_500)]
    {
        let guard = locks.lock("a").ttl(ms(wished)).acquire().await.unwrap();
        assert_eq!(guard.ttl(), Some(ms(granted)), "for a wish of {wished} ms");
        drop(guard.release().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn closing_ends_the_sessions_on_the_server() {
    let server = server();
    let locks = client(&server).await;
    locks.lock("a").ttl(TTL).acquire().await.unwrap().release().await.unwrap();
    let sessions = || {
        let dump = server.ask("dump").unwrap();
        dump.lines().filter(|line| line.trim_start().starts_with("0x")).count()
    };
    println!("{} sessions", sessions());
    assert!(sessions() > 0);
    locks.close(ms(2_000)).await.unwrap();
    timing::gone(ms(1_000), "no session", async || sessions() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_is_answered_as_soon_as_the_servers_are_back_after_a_long_outage() {
    let server = server();
    let (provider, link) = linked(&server).await;
    let lock = Locks::new(provider).lock("a");
    assert!(lock.inspect().await.unwrap().holders.is_empty());
    link.refuse().unwrap();
    link.reset().unwrap();
    // The driver, after its try at 3.1 s, makes the next one at 6.3 s.
    tokio::time::sleep(ms(3_600)).await;
    link.pass().unwrap();
    by(ms(1_500), "an answer", lock.inspect()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_node_a_restore_has_taken_is_told_when_its_session_goes_on() {
    const LONG: Duration = ms(20_000);
    let server = server();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let lock = locks.lock("a").ttl(LONG);
    // The backup has its session and the name's node, and no grant.
    lock.acquire().await.unwrap().release().await.unwrap();
    let backup = server.backup().unwrap();
    let guard = lock.acquire().await.unwrap();
    // What happens to the name's node in the restored data is older than what the holder has seen.
    for _ in 0..20 {
        locks.lock("b").ttl(LONG).acquire().await.unwrap().release().await.unwrap();
    }
    link.refuse().unwrap();
    link.reset().unwrap();
    server.restore(&backup).unwrap();
    let others = client(&server).await;
    let next = others.lock("a").acquire().await.unwrap();
    testbed::held!(guard, "its deadline has not passed yet");
    // Until then, the server refuses a client that has seen more than it has.
    for _ in 0..40 {
        others.lock("b").acquire().await.unwrap().release().await.unwrap();
    }
    link.pass().unwrap();
    let reason = by(LONG + SLACK, "the loss", guard.lost()).await;
    assert_eq!(reason, LossReason::Removed, "its session goes on");
    testbed::held!(next);
    next.release().await.unwrap();
}
