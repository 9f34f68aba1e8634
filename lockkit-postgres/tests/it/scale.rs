//! Many names, many waiters, few connections, and a lock table that does not run out.

use std::time::{Duration, Instant};

use crate::common::{ALONE, BOTH, SLACK, advisory, by, config, connections, gone, join, ms, until};
use futures_util::future::join_all;
use lockkit_core::{Error, Guard, Locks};
use lockkit_postgres::{PostgresProvider, Strategy};
use sqlx::Connection;
use sqlx::postgres::{PgAdvisoryLock, PgConnection};
use testbed::{PostgresServer, in_time, timing};

const TTL: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_names_are_held_at_once_on_eight_connections_and_the_one_that_listens() {
    const NAMES: usize = 10_000;
    let _alone = ALONE.lock().await;
    let server =
        PostgresServer::builder().setting("max_locks_per_transaction", 640).start().unwrap();
    for strategy in BOTH {
        let locks = join(&server.url(), strategy).await;
        let mut guards = Vec::new();
        for hundred in 0..NAMES / 100 {
            let some = (0..100).map(|n| locks.lock(format!("{hundred}/{n}")).ttl(TTL).acquire());
            guards.extend(join_all(some).await.into_iter().map(Result::unwrap));
        }
        let used = connections(&server);
        // Under the table one more listens for what is revoked.
        let most = 8 + usize::from(strategy == Strategy::Table);
        assert!(used <= most, "{used} connections ({strategy:?})");
        assert!(guards.iter().all(Guard::is_held));
        if strategy == Strategy::Advisory {
            assert_eq!(advisory(&server), NAMES);
        }
        println!("{strategy:?}: {NAMES} names on {used} connections");
        locks.close(Duration::from_secs(90)).await.unwrap();
        assert!(guards.iter().all(|guard| !guard.is_held()));
        gone(SLACK * 5, "everything is free", || advisory(&server) == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_budget_refuses_with_the_remedy_and_others_can_always_connect() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    // At the server's defaults: a quarter of 64 locks for each of 100 connections.
    let locks = join(&server.url(), Strategy::Advisory).await;
    let mut guards = Vec::new();
    let refused = loop {
        match locks.lock(format!("{}", guards.len())).ttl(TTL).acquire().await {
            Ok(guard) => guards.push(guard),
            Err(error) => break error,
        }
        assert!(guards.len() <= 2_000, "{} names, and nobody was refused", guards.len());
    };
    let says = refused.to_string();
    assert!(matches!(refused, Error::Rejected { .. }), "{says}");
    assert!(says.contains("max_locks_per_transaction") && says.contains("table"), "{says}");
    println!("refused after {} names: {says}", guards.len());
    assert!(guards.len() > 1_500);
    server.sql("CREATE TABLE other (n int); SELECT pg_advisory_lock(1)").unwrap();
    // Room again once some have gone; the rest is held on.
    for released in join_all(guards.drain(1_000..).map(Guard::release)).await {
        released.unwrap();
    }
    assert_eq!(advisory(&server), 1_000);
    drop(locks.lock("again").ttl(TTL).acquire().await.unwrap());
    assert!(guards.iter().all(Guard::is_held));
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_grow_at_once_leave_room_for_a_plain_role_to_connect() {
    const CLIENTS: usize = 4;
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    server.sql("CREATE ROLE plain LOGIN; CREATE TABLE other (n int)").unwrap();
    server.sql("GRANT ALL ON other TO plain").unwrap();
    let growing: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let url = server.url();
            tokio::spawn(async move {
                let locks = join(&url, Strategy::Advisory).await;
                let mut guards = Vec::new();
                loop {
                    match locks.lock(format!("{client}/{}", guards.len())).ttl(TTL).acquire().await
                    {
                        Ok(guard) => guards.push(guard),
                        Err(Error::Rejected { .. }) => return guards,
                        Err(error) => panic!("{error}"),
                    }
                }
            })
        })
        .collect();
    let url = format!("postgres://plain@{}/postgres", server.address());
    let mut connected = 0;
    while growing.iter().any(|client| !client.is_finished()) || connected == 0 {
        let mut plain = PgConnection::connect(&url).await.unwrap();
        let work = "BEGIN; INSERT INTO other VALUES (1); SELECT count(*) FROM other; COMMIT";
        sqlx::raw_sql(work).execute(&mut plain).await.unwrap();
        plain.close().await.unwrap();
        connected += 1;
        tokio::time::sleep(ms(10)).await;
    }
    let mut held = Vec::new();
    for guards in join_all(growing).await {
        held.extend(guards.unwrap());
    }
    println!("{} locks of {CLIENTS} clients; a plain role came {connected} times", held.len());
    // A quarter of 64 × 100, and what each may take before it looks again.
    assert!((1_500..1_600 * 5 / 4).contains(&held.len()), "{} locks", held.len());
    let mut plain = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("INSERT INTO other VALUES (2)").execute(&mut plain).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_on_one_name_take_two_connections() {
    const WAITERS: usize = 1_000;
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    let other = join(&server.url(), Strategy::Advisory).await;
    let held = other.lock("one").ttl(TTL).acquire().await.unwrap();
    let theirs = connections(&server);
    let provider = config(&server.url(), Strategy::Advisory);
    let locks = Locks::new(PostgresProvider::connect(provider).await.unwrap());
    let waiters: Vec<_> =
        (0..WAITERS).map(|_| tokio::spawn(locks.lock("one").ttl(TTL).acquire())).collect();
    tokio::time::sleep(ms(1_000)).await;
    let used = connections(&server) - theirs;
    assert!(used <= 2, "{used} connections");
    held.release().await.unwrap();
    let mut tokens = Vec::new();
    let all = join_all(waiters.into_iter().map(|waiter| async {
        let guard = waiter.await.unwrap().unwrap();
        let token = guard.token();
        guard.release().await.unwrap();
        token
    }));
    tokens.extend(by(Duration::from_secs(30), "every waiter's grant", all).await);
    assert!(connections(&server) - theirs <= 2);
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), WAITERS);
    gone(SLACK, "nothing is left", || advisory(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_no_connection_is_left_to_wait_for_share_those_that_wait() {
    const NAMES: usize = 40;
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    let (holder, other) = (
        join(&server.url(), Strategy::Advisory).await,
        join(&server.url(), Strategy::Advisory).await,
    );
    let names: Vec<_> = (0..NAMES).map(|n| n.to_string()).collect();
    let mut guards = Vec::new();
    for name in &names {
        guards.push(holder.lock(name).ttl(TTL).acquire().await.unwrap());
    }
    let theirs = connections(&server);
    let waiters: Vec<_> =
        names.iter().map(|name| tokio::spawn(other.lock(name).ttl(TTL).acquire())).collect();
    // By now those that stand in no queue try once a second.
    tokio::time::sleep(ms(3_000)).await;
    let used = connections(&server) - theirs;
    assert!(used <= 8, "{used} connections for {NAMES} names");
    let (mut took, began) = (Vec::new(), timing::start());
    for (guard, waiter) in guards.into_iter().zip(waiters) {
        let released = Instant::now();
        guard.release().await.unwrap();
        let next = by(SLACK * 3, "the next grant", waiter).await.unwrap().unwrap();
        took.push(released.elapsed());
        next.release().await.unwrap();
    }
    took.sort_unstable();
    println!("{NAMES} names on {used} connections: granted after {:?}", took[NAMES / 2]);
    in_time!(began, took[NAMES / 2] < ms(1_000), "{took:?}");
    gone(SLACK, "nothing is left", || advisory(&server) == 0).await;
}

/// A client all of whose connections that may wait do so, until the second is dropped.
async fn crowded(server: &PostgresServer) -> (Locks, Vec<Guard>) {
    let holder = join(&server.url(), Strategy::Advisory).await;
    let crowded = join(&server.url(), Strategy::Advisory).await;
    let mut guards = Vec::new();
    for n in 0..4 {
        let name = format!("held-{n}");
        guards.push(holder.lock(&name).ttl(TTL).acquire().await.unwrap());
        tokio::spawn(crowded.lock(&name).ttl(TTL).acquire());
    }
    until(SLACK * 3, "they take all that may wait", || advisory(server) == 8).await;
    (crowded, guards)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_connection_to_wait_on_gets_its_turn_where_it_is_busy() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    let (crowded, _guards) = crowded(&server).await;
    let busy = join(&server.url(), Strategy::Advisory).await;
    for _ in 0..8 {
        let lock = busy.lock("busy").ttl(TTL);
        tokio::spawn(async move {
            loop {
                lock.acquire().await.unwrap().release().await.unwrap();
            }
        });
    }
    for _ in 0..5 {
        let turn = by(ms(5_000), "its turn", crowded.lock("busy").ttl(TTL).acquire());
        turn.await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_without_a_connection_to_wait_on_is_tried_within_a_second() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    let (crowded, _guards) = crowded(&server).await;
    let mut foreign = PgConnection::connect(&server.url()).await.unwrap();
    let lock = PgAdvisoryLock::new("foreign");
    for ends in [false, true] {
        let held = lock.acquire(&mut foreign).await.unwrap();
        let waiter = tokio::spawn(crowded.lock("foreign").ttl(TTL).acquire());
        tokio::time::sleep(ms(2_000)).await;
        assert!(!waiter.is_finished());
        if ends {
            held.leak();
            server
                .sql(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE application_name <> 'lockkit' AND pid <> pg_backend_pid()",
                )
                .unwrap();
        } else {
            held.release_now().await.unwrap();
        }
        let next = by(ms(1_000) + SLACK, "it tries by itself", waiter).await.unwrap().unwrap();
        next.release().await.unwrap();
    }
}
