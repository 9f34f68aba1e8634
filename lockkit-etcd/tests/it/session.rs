//! A session's lease: from when its term counts, and that keep-alives go on past dead connections.

use std::time::{Duration, Instant};

use crate::common::{by, join, link_to, ms};
use lockkit_core::Guard;
use testbed::{Connections, EtcdServer, Fault, Link, Way};

/// When the term of `guard` began, that is: how long before now.
fn age_of_term(guard: &Guard) -> Duration {
    let ttl = guard.ttl().unwrap();
    // As the driver takes it off.
    let margin = (ttl / 10).min(ms(2_000));
    ttl - margin - guard.remaining().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_counts_from_the_sending_that_was_answered_and_not_from_one_after_it() {
    let server = EtcdServer::start().unwrap();
    let links = [link_to(server.address()), link_to(server.address())];
    let locks = join(&links.each_ref().map(Link::port)).await;
    for link in &links {
        link.fault(Way::ToClient, Fault::Hold);
    }
    let began = Instant::now();
    let acquired = tokio::spawn(locks.lock("a").ttl(ms(30_000)).acquire());
    // Half a call's limit of 1.8 s later the second member is asked beside the first one.
    let before = links[1].counts();
    by(ms(1_700), "the second sending", links[1].until(|now| now.requests != before.requests))
        .await;
    let second = began.elapsed();
    assert!(second > ms(600), "the second sending came after {second:?}");
    links[0].deliver();
    // The answer from the first member is taken before that of the second one can come.
    tokio::time::sleep(ms(100)).await;
    links[1].deliver();
    let guard = by(ms(3_000), "the grant", acquired).await.unwrap().unwrap();
    // In this order: what the machine does in between makes the term older, not younger.
    let (since, age) = (began.elapsed(), age_of_term(&guard));
    println!(
        "asked again after {second:?}: {since:?} after the first sending the term is {age:?} old"
    );
    assert!(age + ms(400) > since, "the term is {age:?} old, {since:?} after the first sending");
    guard.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_locks_whose_connection_dies_in_silence_is_renewed_over_the_next_one() {
    const LOCKS: usize = 60;
    let ttl = ms(9_000);
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let mut guards = Vec::new();
    for name in 0..LOCKS {
        guards.push(locks.lock(format!("a{name}")).ttl(ttl).acquire().await.unwrap());
    }
    // A keep-alive has just been answered: the next one is due in a third of the ttl.
    let renewed = async {
        while age_of_term(&guards[0]) > ms(500) || guards[0].remaining().unwrap() > ttl {
            tokio::time::sleep(ms(20)).await;
        }
    };
    tokio::time::sleep(ttl / 3).await;
    by(ttl / 2, "a renewal", renewed).await;
    let began = Instant::now();
    link.fault(Way::Both, Fault::Blackhole);
    // The path is back, but not for the connections that were there: they stay silent.
    tokio::time::sleep(ttl / 2).await;
    link.fault_on(Connections::New, Way::Both, Fault::Pass);
    let is_renewed = |guard: &Guard| guard.is_held() && age_of_term(guard) < began.elapsed();
    let all = async {
        while !guards.iter().all(is_renewed) {
            for guard in &guards {
                testbed::held!(guard, "lost although the path is back");
            }
            tokio::time::sleep(ms(20)).await;
        }
    };
    by(ttl, "a renewal of each", all).await;
    println!("{LOCKS} locks: all renewed {:?} after the silence began", began.elapsed());
}
