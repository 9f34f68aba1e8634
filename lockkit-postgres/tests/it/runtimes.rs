//! Several runtimes over one client, of which one ends in the midst of things.

use std::time::Duration;

use crate::common::{SLACK, advisory, by, config, gone, join, key_of, ms, until};
use lockkit_core::{Guard, Locks};
use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::{Fault, Link, PostgresServer, Way};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;

/// Longer than the tests: nothing ends by itself.
const TTL: Duration = Duration::from_secs(60);

/// One that is about to end.
fn ending() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A client behind a link, which has made its first connection in this runtime.
async fn linked(server: &PostgresServer) -> (Locks, Link) {
    let link = Link::to_postgres(server.address()).unwrap();
    let url = format!("{}?sslmode=disable", server.url_at(link.address()));
    let provider = PostgresProvider::connect(config(&url, Strategy::Advisory)).await.unwrap();
    (Locks::new(provider), link)
}

fn acquiring(runtime: &Runtime, locks: &Locks, name: &str) -> JoinHandle<Guard> {
    let acquiring = locks.lock(name).ttl(TTL).acquire();
    runtime.spawn(async move { acquiring.await.unwrap() })
}

async fn granted(waiter: JoinHandle<Guard>) -> Guard {
    by(ms(2_000) + SLACK, "the waiter of the runtime that lives is granted", waiter).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_go_on_when_the_runtime_ends_that_waited_in_the_server_for_them() {
    let server = PostgresServer::start().unwrap();
    let held = join(&server.url(), Strategy::Advisory).await.lock("a").ttl(TTL).acquire().await;
    let locks = join(&server.url(), Strategy::Advisory).await;
    let other = ending();
    let _first = acquiring(&other, &locks, "a");
    until(SLACK, "it waits in the server", || advisory(&server) == 2).await;
    let next = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
    tokio::time::sleep(ms(200)).await;
    other.shutdown_background();
    tokio::time::sleep(ms(200)).await;
    held.unwrap().release().await.unwrap();
    let next = by(ms(2_000), "the next is granted", next).await.unwrap().unwrap();
    next.release().await.unwrap();
    gone(ms(1_000), "nothing is left", || advisory(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn waiters_go_on_when_the_runtime_ends_that_held_and_its_session_with_it() {
    let server = PostgresServer::start().unwrap();
    let other = ending();
    let url = server.url();
    let joined = other.spawn(async move {
        let locks = join(&url, Strategy::Advisory).await;
        let guard = locks.lock("a").ttl(TTL).acquire().await.unwrap();
        (locks, guard)
    });
    let (locks, guard) = joined.await.unwrap();
    let next = tokio::spawn(locks.lock("a").ttl(TTL).acquire());
    tokio::time::sleep(ms(200)).await;
    other.shutdown_background();
    by(SLACK, "the holder is told", guard.lost()).await;
    let next = by(ms(2_000), "the next is granted", next).await.unwrap().unwrap();
    assert!(next.token() > guard.token());
    next.release().await.unwrap();
}

/// What a runtime that is about to end has asked the server when it ends.
#[derive(Clone, Copy, Debug)]
enum Midway {
    Attempt,
    HandOff,
    Release,
}

#[tokio::test(flavor = "multi_thread")]
async fn a_runtime_that_ends_before_the_server_has_answered_leaves_no_lock_without_an_owner() {
    let server = PostgresServer::start().unwrap();
    for midway in [Midway::Attempt, Midway::HandOff, Midway::Release] {
        let (locks, link) = linked(&server).await;
        // It keeps the session alive, which lives in this runtime.
        let neighbour = locks.lock("neighbour").ttl(TTL).acquire().await.unwrap();
        let other = ending();
        let waiter = match midway {
            Midway::Attempt => {
                link.fault(Way::ToClient, Fault::Hold);
                let _trying = acquiring(&other, &locks, "a");
                until(SLACK, "the lock is taken", || advisory(&server) == 2).await;
                tokio::spawn(locks.lock("a").ttl(TTL).acquire())
            }
            Midway::HandOff | Midway::Release => {
                let guard = acquiring(&other, &locks, "a").await.unwrap();
                let waiting = matches!(midway, Midway::HandOff);
                let waiter = waiting.then(|| tokio::spawn(locks.lock("a").ttl(TTL).acquire()));
                tokio::time::sleep(ms(200)).await;
                link.fault(Way::ToServer, Fault::Hold);
                let _releasing = other.spawn(guard.release());
                tokio::time::sleep(ms(200)).await;
                waiter.unwrap_or_else(|| tokio::spawn(locks.lock("a").ttl(TTL).acquire()))
            }
        };
        tokio::time::sleep(ms(100)).await;
        other.shutdown_background();
        tokio::time::sleep(ms(100)).await;
        link.pass().unwrap();
        let waiter = async { waiter.await.unwrap().unwrap() };
        let next = granted(tokio::spawn(waiter)).await;
        testbed::held!(neighbour, "{midway:?}");
        next.release().await.unwrap();
        let left = || advisory(&server) == 1;
        gone(ms(1_000), "only the neighbour's lock is left", left).await;
        let free = format!("SELECT pg_try_advisory_lock({})", key_of("a"));
        assert_eq!(server.sql(&free).unwrap(), "t", "{midway:?}");
        neighbour.release().await.unwrap();
        gone(ms(1_000), "nothing is left", || advisory(&server) == 0).await;
    }
}
