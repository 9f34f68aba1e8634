//! Many on one client: what a lost connection, and an idle time, do to its sessions.

use std::time::Duration;

use crate::common::{at, by, client, linked, ms, nodes, provider, queued, server, spectator};
use lockkit_core::Locks;
use testbed::{Fault, Way, timing};
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_costs_no_session_however_much_is_watched_on_it() {
    // Their paths take twice of what the driver can watch again on one session.
    const WAITERS: usize = 450;
    const TTL: Duration = ms(30_000);
    let server = server();
    let name = "n".repeat(500);
    let holder = client(&server).await.lock(&name).ttl(TTL).acquire().await.unwrap();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let guard = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    let mut waiting = JoinSet::new();
    for _ in 0..WAITERS {
        let acquire = locks.lock(&name).ttl(TTL).acquire();
        waiting.spawn(async move { acquire.await.unwrap().release().await.unwrap() });
    }
    queued(&client(&server).await.lock(&name), WAITERS).await;
    let sorted = async || {
        let mut queue = nodes(&spectator(&server).await, &format!("/lockkit/{name}")).await;
        queue.sort();
        queue
    };
    // Their watches are set.
    tokio::time::sleep(ms(1_500)).await;
    let before = sorted().await;
    link.reset().unwrap();
    tokio::time::sleep(ms(2_000)).await;
    assert_eq!(sorted().await, before, "a session, and the places on it, were lost");
    holder.release().await.unwrap();
    by(ms(40_000), "everybody's turn", async { while waiting.join_next().await.is_some() {} })
        .await;
    testbed::held!(guard);
    guard.release().await.unwrap();
    locks.close(ms(5_000)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_ttls_session_is_made_over_a_link_on_which_no_attempt_lasts_as_long() {
    let server = server();
    client(&server).await.lock("a").acquire().await.unwrap().release().await.unwrap();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    // It takes two round trips, and an attempt three tenths of the ttl.
    link.fault(Way::Both, Fault::delay(ms(190)));
    let guard = by(ms(6_000), "a grant", locks.lock("a").ttl(ms(2_000)).acquire()).await.unwrap();
    link.pass().unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_looked_up_over_a_link_on_which_no_attempt_lasts_as_long() {
    let server = server();
    let (provider, link) = linked(&server).await;
    let locks = Locks::new(provider);
    let lock = locks.lock("a").ttl(ms(1_500));
    let held = locks.lock("held").ttl(ms(1_500)).acquire().await.unwrap();
    lock.acquire().await.unwrap().release().await.unwrap();
    // One direction is so slow for a while that the reply comes too late; then both are slow.
    link.fault(Way::ToClient, Fault::Hold);
    let acquire = tokio::spawn(lock.acquire());
    tokio::time::sleep(ms(600)).await;
    link.fault(Way::Both, Fault::delay(ms(90)));
    let guard = by(ms(5_000), "a grant", acquire).await.unwrap().unwrap();
    testbed::held!(held);
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_session_of_a_ttl_that_nobody_uses_is_closed_and_made_anew_when_somebody_does() {
    let server = server();
    let locks = Locks::new(provider(at(server.port())).await);
    let sessions = || {
        let known = server.ask("cons").unwrap();
        known.lines().filter(|line| line.contains("sid=0x")).count()
    };
    let held = locks.lock("held").ttl(ms(1_000)).acquire().await.unwrap();
    assert_eq!(sessions(), 2, "the longest, and the holder's");
    let lock = locks.lock("a").ttl(ms(500));
    for _ in 0..2 {
        lock.acquire().await.unwrap().release().await.unwrap();
        assert_eq!(sessions(), 3);
        // Longer than a session lasts that nobody keeps.
        tokio::time::sleep(ms(2_000)).await;
        assert_eq!(sessions(), 3, "closed after a short time");
        timing::gone(ms(6_000), "its end", async || sessions() <= 2).await;
    }
    testbed::held!(held);
    held.release().await.unwrap();
}
