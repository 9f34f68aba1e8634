//! Servers that come back with other session limits, or have others than their fellows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::session::{self, BACK};
use crate::common::succession::{self, Succession};
use crate::common::{TICK, at, by, client, framing, ms, server};
use lockkit_core::Locks;
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::log::Log;
use testbed::{Data, Fault, Link, Way, ZkServer, timing};

/// A client behind a link.
async fn through(link: &Link) -> Locks {
    Locks::new(ZkProvider::connect(at(link.port())).await.unwrap())
}

/// A server that comes back with a shorter greatest session, and loses a holder so long after that.
async fn shortened(cut_after: Duration) {
    const TTL: Duration = ms(10_000);
    let server = Arc::new(server());
    let link = Link::to(server.address()).unwrap();
    let holder = through(&link).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let id = session::of(&[server.address()], &holder).await;
    server.set_line("maxSessionTimeout=2000");
    session::restarted(&server, id).await;
    testbed::held!(holder, "a restart of a moment costs no lock");
    let next = client(&server).await.lock("a").ttl(TICK);
    let Succession { next: waiting, lost } = succession::after(&holder, &next).await;
    tokio::time::sleep(cut_after).await;
    let cut = Instant::now();
    link.fault(Way::Both, Fault::Blackhole);
    let (next, granted) = by(BACK, "the next grant", waiting).await.unwrap();
    assert!(!holder.is_held(), "two believe at once");
    let (_, lost) = by(ms(1_000), "the loss", lost).await.unwrap();
    assert!(lost <= granted, "lost {:?} after the next grant", lost - granted);
    println!(
        "cut off {cut_after:?} after the return: lost after {:?}, and the next was granted after {:?}",
        lost.saturating_duration_since(cut),
        granted - cut,
    );
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_session_a_restart_has_shortened_is_lost_before_another_is_granted() {
    // In tasks of their own: starting a server blocks.
    let rounds = [0, 100, 700].map(|millis| tokio::spawn(shortened(ms(millis))));
    for round in rounds {
        round.await.unwrap();
    }
}

#[tokio::test]
async fn a_shortened_session_keeps_its_locks_on_shorter_terms() {
    const TTL: Duration = ms(10_000);
    let server = Arc::new(server());
    let link = Link::to(server.address()).unwrap();
    let locks = through(&link).await;
    let log = Log::of_this_thread();
    let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
    assert_eq!(guard.ttl(), Some(TTL));
    let id = session::of(&[server.address()], &guard).await;
    server.set_line("maxSessionTimeout=2500");
    session::restarted(&server, id).await;
    let shorter = || guard.ttl() == Some(ms(2_000));
    timing::until(TTL, "a renewal on the server's terms", shorter).await;
    // Longer than a term: it was renewed.
    tokio::time::sleep(ms(2_500)).await;
    testbed::held!(guard);
    let other = locks.lock("b").ttl(TTL).acquire().await.unwrap();
    assert_eq!(other.ttl(), Some(ms(2_000)));
    assert!(log.text().contains("session_shortened"), "{}", log.text());
    other.release().await.unwrap();
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_with_the_same_limits_shortens_nothing() {
    const TTL: Duration = ms(10_000);
    let server = Arc::new(server());
    let link = Link::to(server.address()).unwrap();
    let guard = through(&link).await.lock("a").ttl(TTL).acquire().await.unwrap();
    let id = session::of(&[server.address()], &guard).await;
    session::restarted(&server, id).await;
    // The servers are asked within a quarter of a tick, and answer; more than half a tick after the return, terms
    // count from after it.
    tokio::time::sleep(TICK * 2).await;
    link.fault(Way::Both, Fault::Blackhole);
    // Longer than the least session.
    tokio::time::sleep(TICK * 5).await;
    testbed::held!(guard);
    assert_eq!(guard.ttl(), Some(TTL));
}

#[tokio::test(flavor = "multi_thread")]
async fn all_sessions_of_a_client_learn_from_one_probe_what_servers_grant() {
    let server = server();
    let link = framing::counting(server.address());
    let locks = through(&link).await;
    let mut guards = Vec::new();
    for ticks in 1..=4 {
        let ttl = ms(1_500) * ticks;
        guards.push(locks.lock(format!("a{ticks}")).ttl(ttl).acquire().await.unwrap());
    }
    let before = link.counts();
    link.reset().unwrap();
    tokio::time::sleep(TICK * 3).await;
    let (requests, _) = link.since(&before);
    println!("{requests:?}");
    // Five sessions with the one for operators; a few of them come back later than the others.
    let probes = requests["connect"] - 5;
    assert!((1..=2).contains(&probes), "{probes} probes");
    for guard in guards {
        testbed::held!(guard);
    }
}

#[tokio::test]
async fn servers_that_differ_are_told_as_a_client_connects() {
    let servers = [TICK, TICK * 2].map(|tick| ZkServer::builder().tick(tick).start().unwrap());
    servers[1].set_line("maxSessionTimeout=20000");
    servers[1].restart(Data::Kept).unwrap();
    let connect = async |servers: &[&ZkServer], tick| {
        let log = Log::of_this_thread();
        let addresses = servers.iter().map(|server| server.address().to_string());
        let provider = ZkProvider::connect(ZkConfig::new(addresses).tick(tick)).await.unwrap();
        drop(provider);
        log.text()
    };
    let [first, second] = [&servers[0], &servers[1]];
    // A server that is slow to answer is not waited for.
    let mut differ = String::new();
    for _ in 0..5 {
        differ += &connect(&[first, second], TICK).await;
        if differ.contains("session_limits_differ") {
            break;
        }
    }
    assert!(differ.contains("session_limits_differ") && differ.contains("tickTime"), "{differ}");
    let fits = connect(&[first], TICK).await;
    assert!(!fits.contains("session_limits_differ") && !fits.contains("tick_differs"), "{fits}");
    let mut short = String::new();
    for _ in 0..5 {
        short += &connect(&[second], TICK).await;
        if short.contains("tick_differs") {
            break;
        }
    }
    assert!(short.contains("tick_differs") && short.contains("set `tick`"), "{short}");
}
