//! A waiter whose client falls silent: those behind it do not wait for it, and it comes back by itself.

use std::time::Duration;

use lockkit_core::{Guard, Result};
use lockkit_postgres::Strategy;
use testbed::{Fault, Link, PostgresServer, Way};
use tokio::task::JoinHandle;

use crate::common::{SLACK, by, count, join, ms, until};

/// For how long a client with waiters may be silent.
const LIFE: Duration = Duration::from_secs(3);

/// A holder, and two waiters behind it, the first of them behind a link.
struct Queue {
    server: PostgresServer,
    link: Link,
    held: Guard,
    silent: JoinHandle<Result<Guard>>,
    behind: JoinHandle<Result<Guard>>,
}

fn waiting(server: &PostgresServer) -> usize {
    count(server, "SELECT count(*) FROM lockkit.waiter")
}

async fn queue(ttl: Duration) -> Queue {
    let server = PostgresServer::start().unwrap();
    let link = Link::to(server.address()).unwrap();
    let linked = format!("{}?sslmode=disable", server.url_at(link.address()));
    let lock = async |url: &str| join(url, Strategy::Table).await.lock("name").ttl(ttl);
    let held = lock(&server.url()).await.acquire().await.unwrap();
    let silent = tokio::spawn(lock(&linked).await.acquire());
    until(SLACK * 4, "the first waits", || waiting(&server) == 1).await;
    let behind = tokio::spawn(lock(&server.url()).await.acquire());
    until(SLACK * 4, "the second waits", || waiting(&server) == 2).await;
    Queue { server, link, held, silent, behind }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_passes_over_a_waiter_that_was_silent_for_a_life_and_that_asks_again() {
    let Queue { server, link, held, silent, behind } = queue(Duration::from_secs(60)).await;
    link.fault(Way::Both, Fault::Drop);
    tokio::time::sleep(LIFE + ms(500)).await;
    let mut last = held.token();
    held.release().await.unwrap();
    let next = by(SLACK, "the waiter behind the silent one", behind).await.unwrap().unwrap();
    assert!(next.token() > last && !silent.is_finished());
    last = next.token();
    link.pass().unwrap();
    until(LIFE * 3, "the silent one waits again", || waiting(&server) == 1).await;
    next.release().await.unwrap();
    let back = by(SLACK, "the silent one's grant", silent).await.unwrap().unwrap();
    assert!(back.token() > last);
    back.release().await.unwrap();
    assert_eq!(waiting(&server), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_that_its_waiter_does_not_hear_of_costs_its_ttl_and_no_more() {
    let ttl = ms(2_000);
    let Queue { server, link, held, silent, behind } = queue(ttl).await;
    link.fault(Way::Both, Fault::Drop);
    // It still counts as alive, and is granted.
    held.release().await.unwrap();
    let next = by(ttl + SLACK, "the waiter behind the silent one", behind).await;
    let next = next.unwrap().unwrap();
    assert!(!silent.is_finished());
    link.pass().unwrap();
    until(SLACK * 10, "the silent one waits again", || waiting(&server) == 1).await;
    // What it is told so late is over.
    assert!(!silent.is_finished());
    testbed::held!(next);
    let last = next.token();
    next.release().await.unwrap();
    let back = by(ttl + SLACK, "the silent one's grant", silent).await.unwrap().unwrap();
    assert!(back.token() > last);
}
