//! The strategy "table": what a crash costs, what waiting costs, and what it leaves.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use lockkit_core::{Guard, Locks, LossReason};
use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::{Data, Link, Pgbouncer, Pooling, PostgresServer, in_time, timing};

use crate::common::{SLACK, Snapshot, by, config, count, join, ms, until};

const WAITERS: &str = "SELECT count(*) FROM lockkit.waiter";

async fn locks(server: &PostgresServer) -> Locks {
    join(&server.url(), Strategy::Table).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_that_loses_a_grant_lets_no_other_in_before_its_term_is_over() {
    let ttl = ms(3_000);
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (locks(&server).await, locks(&server).await);
    for round in 0..2 {
        let asked = Instant::now();
        let lost = ours.lock("crashed").ttl(ttl).renew_manually().acquire().await.unwrap();
        server.kill().unwrap();
        server.restart(Data::Kept).unwrap();
        let next =
            by(ttl * 4, "a grant after the barrier", theirs.lock("crashed").ttl(ttl).acquire());
        let next = next.await.unwrap();
        assert!(asked.elapsed() >= ttl, "round {round}: granted before the lost term was over");
        assert!(!lost.is_held(), "round {round}: two believe");
        assert!(
            next.token() > lost.token(),
            "round {round}: {} and {}",
            next.token(),
            lost.token()
        );
        next.release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_was_free_at_a_crash_is_granted_once_the_barrier_is_over() {
    let server = PostgresServer::start().unwrap();
    let locks = locks(&server).await;
    let lock = locks.lock("free").ttl(ms(1_500));
    for round in 0..4 {
        let next = by(ms(6_000), &format!("the grant of round {round}"), lock.acquire()).await;
        next.unwrap().release().await.unwrap();
        tokio::time::sleep(ms(250)).await;
        server.kill().unwrap();
        server.restart(Data::Kept).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_above_its_own_clients_barrier_outlives_a_crash_also_when_another_client_granted_it()
 {
    let ttl = ms(3_000);
    let server = PostgresServer::start().unwrap();
    let with = |barrier: Duration| {
        let config = config(&server.url(), Strategy::Table).barrier(barrier);
        async move { Locks::new(PostgresProvider::connect(config).await.unwrap()) }
    };
    // The server's barrier is the longest that was granted without a flush: half a second.
    let (flushes, others) = (with(ms(0)).await, with(ms(60_000)).await);
    let first = others.lock("kept").ttl(ms(500)).acquire().await.unwrap();
    let waiting = tokio::spawn(flushes.lock("kept").ttl(ttl).renew_manually().acquire());
    until(SLACK * 4, "it waits", || count(&server, WAITERS) == 1).await;
    let asked = Instant::now();
    first.release().await.unwrap();
    let kept = by(ms(2_000), "the grant", waiting).await.unwrap().unwrap();
    server.kill().unwrap();
    server.restart(Data::Kept).unwrap();
    let held = "SELECT count(*) FROM lockkit.lease WHERE request IS NOT NULL";
    assert_eq!(count(&server, held), 1, "the grant was lost with the server");
    let next = by(ttl * 4, "the next grant", others.lock("kept").ttl(ms(500)).acquire()).await;
    let next = next.unwrap();
    assert!(!kept.is_held() && next.token() > kept.token());
    assert!(asked.elapsed() + ms(1_000) >= ttl, "granted before the term was over");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_attempt_in_a_new_schema_is_granted_at_once() {
    let server = PostgresServer::start().unwrap();
    for schema in ["one", "two", "three"] {
        let config = config(&server.url(), Strategy::Table).schema(schema);
        let locks = Locks::new(PostgresProvider::connect(config).await.unwrap());
        let first = locks.lock("first").try_acquire().await.unwrap();
        first.expect("no grant was lost in a crash").release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clean_restart_costs_no_barrier_and_a_waiter_goes_on() {
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (locks(&server).await, locks(&server).await);
    let guard = ours.lock("restarted").ttl(ms(20_000)).acquire().await.unwrap();
    let waiting = tokio::spawn(theirs.lock("restarted").ttl(ms(20_000)).acquire());
    until(SLACK * 4, "it waits", || count(&server, WAITERS) == 1).await;
    // In order, as `pg_ctl restart` does.
    let pid = server.pid().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    until(ms(10_000), "it has stopped", || server.log().contains("database system is shut down"))
        .await;
    server.restart(Data::Kept).unwrap();
    let token = guard.token();
    guard.release().await.unwrap();
    let next = by(ms(8_000), "the waiter is granted", waiting).await.unwrap().unwrap();
    assert!(next.token() > token);
}

/// Whether a holder whose client never waited is told that it was revoked, within this time.
async fn is_told(ours: &Locks, theirs: &Locks, held_for: Duration, ttl: Duration, limit: Duration) {
    let guard = ours.lock("revoked").ttl(ttl).acquire().await.unwrap();
    tokio::time::sleep(held_for).await;
    assert!(theirs.lock("revoked").revoke(guard.token()).await.unwrap());
    let revoked = Instant::now();
    let told = by(limit, "the holder is told", guard.lost()).await;
    println!("revoked after {held_for:?}: told after {:?}", revoked.elapsed());
    assert_eq!(told, LossReason::Revoked);
    // Its place is free, and a hand-over by hand is told too.
    theirs.lock("revoked").acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_whose_client_never_waited_learns_of_a_revocation_at_once() {
    let server = PostgresServer::start().unwrap();
    let theirs = locks(&server).await;
    for held_for in [ms(0), ms(2_000), ms(13_000)] {
        let ours = locks(&server).await;
        is_told(&ours, &theirs, held_for, ms(60_000), ms(900)).await;
    }
    // What is revoked while no connection listens is found by the next one.
    let link = Link::to(server.address()).unwrap();
    let ours = join(&server.url_at(link.address()), Strategy::Table).await;
    let guard = ours.lock("cut").ttl(ms(60_000)).acquire().await.unwrap();
    tokio::time::sleep(ms(1_500)).await;
    link.refuse().unwrap();
    link.reset().unwrap();
    assert!(theirs.lock("cut").revoke(guard.token()).await.unwrap());
    link.accept().unwrap();
    assert_eq!(by(ms(2_500), "the holder is told", guard.lost()).await, LossReason::Revoked);
    // A pooler lets no message through: it asks.
    let pooler = Pgbouncer::start(&server, Pooling::Transaction, &[]).unwrap();
    let ours = join(&pooler.url(), Strategy::Table).await;
    is_told(&ours, &theirs, ms(1_500), ms(16_000), ms(2_000) + SLACK).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_holds_and_waits_for_nothing_sends_no_beats() {
    let server = PostgresServer::start().unwrap();
    let link = Link::to_postgres(server.address()).unwrap();
    let url = format!("{}?sslmode=disable", server.url_at(link.address()));
    let holder = join(&url, Strategy::Table).await;
    let guards = join_all((0..50).map(|n| {
        let lock = holder.lock(format!("held/{n}")).ttl(ms(600_000));
        async move { lock.acquire().await.unwrap() }
    }));
    let guards = guards.await;
    tokio::time::sleep(ms(3_000)).await;
    // What a stall has kept back until then is sent.
    tokio::time::sleep(ms(300)).await;
    let sent = || link.counts().requests.get("Q").copied().unwrap_or_default();
    let before = sent();
    tokio::time::sleep(ms(3_000)).await;
    assert_eq!(sent() - before, 0, "it only listens");
    assert_eq!(count(&server, "SELECT count(*) FROM lockkit.client"), 0);
    assert!(guards.iter().all(Guard::is_held));
    // And a request that waits beats again.
    let other = locks(&server).await.lock("other").ttl(ms(3_000)).acquire().await.unwrap();
    let waiter = tokio::spawn(holder.lock("other").ttl(ms(3_000)).acquire());
    until(SLACK * 4, "it waits", || count(&server, WAITERS) == 1).await;
    other.release().await.unwrap();
    drop(by(ms(1_000), "the waiter is granted", waiter).await.unwrap().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_waiters_of_a_name_send_what_their_client_sends_and_are_granted_in_order() {
    const MANY: usize = 1_000;
    let server = PostgresServer::start().unwrap();
    let holder = locks(&server).await.lock("many").ttl(ms(60_000)).acquire().await.unwrap();
    let link = Link::to_postgres(server.address()).unwrap();
    let url = format!("{}?sslmode=disable", server.url_at(link.address()));
    let many = Locks::new(PostgresProvider::connect(config(&url, Strategy::Table)).await.unwrap());
    let lock = many.lock("many").ttl(ms(60_000));
    let waiting: Vec<_> = (0..MANY).map(|_| tokio::spawn(lock.acquire())).collect();
    until(ms(30_000), "all wait", || count(&server, WAITERS) == MANY).await;
    let sent = || link.counts().requests.get("Q").copied().unwrap_or_default();
    tokio::time::sleep(ms(500)).await;
    let before = sent();
    tokio::time::sleep(ms(4_000)).await;
    let idle = sent() - before;
    assert!(idle <= 40, "{idle} statements in 4 s, for {MANY} waiters");
    let mut guards = futures_util::stream::FuturesUnordered::from_iter(waiting);
    holder.release().await.unwrap();
    let mut last = None;
    for _ in 0..20 {
        let next = futures_util::StreamExt::next(&mut guards);
        let guard: Guard = by(ms(2_000), "the next", next).await.unwrap().unwrap().unwrap();
        assert!(Some(guard.token()) > last);
        last = Some(guard.token());
        guard.release().await.unwrap();
    }
    drop(guards);
    many.close(ms(20_000)).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn contention_cancels_and_closes_leave_no_line_in_the_servers_log_and_no_row() {
    let (server, began) = (PostgresServer::start().unwrap(), timing::start());
    let clients = join_all((0..4).map(|_| locks(&server))).await;
    let work = clients.iter().enumerate().map(|(number, locks)| async move {
        for round in 0..40_u64 {
            let lock = locks.lock("busy").ttl(ms(10_000));
            // Some leave before their turn.
            let limit = ms(if (round + number as u64).is_multiple_of(5) { 3 } else { 10_000 });
            if let Ok(guard) = lock.acquire_within(limit).await {
                guard.release().await.unwrap();
            }
        }
    });
    join_all(work).await;
    // A holder that goes without a word is followed.
    let gone = clients[0].lock("busy").ttl(ms(500)).renew_manually().acquire().await.unwrap();
    let next = clients[1].lock("busy").ttl(ms(10_000)).acquire_within(ms(5_000)).await.unwrap();
    assert!(!gone.is_held() && next.token() > gone.token());
    next.release().await.unwrap();
    for locks in &clients {
        locks.close(ms(5_000)).await.unwrap();
    }
    until(SLACK * 4, "no waiter is left", || count(&server, WAITERS) == 0).await;
    let held = "SELECT count(*) FROM lockkit.lease WHERE request IS NOT NULL";
    assert_eq!(count(&server, held), 0);
    let log = server.log();
    let complains =
        |line: &&str| ["WARNING:", "ERROR:", "FATAL:"].iter().any(|what| line.contains(what));
    let complaints: Vec<_> = log.lines().filter(complains).collect();
    // What had no answer in time is cancelled.
    in_time!(began, complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_an_open_snapshot_a_row_that_leaves_its_page_is_searched_where_it_is() {
    let server = PostgresServer::start().unwrap();
    let provider = PostgresProvider::connect(config(&server.url(), Strategy::Table)).await.unwrap();
    // The default label holds this program's name, and how long a row is decides how many a page has.
    let locks = Locks::builder().label("a label of usual length/4711").build(provider);
    let lock = locks.lock("bloated").ttl(ms(30_000));
    lock.acquire().await.unwrap().release().await.unwrap();
    let _snapshot = Snapshot::open(&server).await;
    let mut last = None;
    for _ in 0..400 {
        let guard = lock.acquire().await.unwrap();
        assert!(Some(guard.token()) > last);
        last = Some(guard.token());
        guard.release().await.unwrap();
    }
    let row = "SELECT gen FROM lockkit.lease WHERE name = 'bloated'";
    let gen_now = count(&server, row);
    assert!(gen_now >= 5, "after 800 updates behind a snapshot the row has gen {gen_now}");
    let on_its_page = "SELECT count(*) FROM lockkit.lease WHERE name = 'bloated' \
        AND ctid >= page_from AND ctid < page_to";
    assert_eq!(count(&server, on_its_page), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_are_forgotten_never_take_a_token_back() {
    let server = PostgresServer::start().unwrap();
    let locks = locks(&server).await;
    let (idle, held) = (locks.lock("jobs/idle"), locks.lock("jobs/held").ttl(ms(30_000)));
    let mut last = idle.acquire().await.unwrap();
    for _ in 0..5 {
        last.release().await.unwrap();
        last = idle.acquire().await.unwrap();
    }
    let token = last.token();
    last.release().await.unwrap();
    let guard = held.acquire().await.unwrap();
    for unused_for in [Duration::from_secs(3_600), Duration::MAX] {
        assert_eq!(locks.forget("jobs/", unused_for).await.unwrap(), 0);
    }
    assert_eq!(locks.forget("other/", Duration::ZERO).await.unwrap(), 0);
    assert_eq!(locks.forget("jobs/", Duration::ZERO).await.unwrap(), 1);
    assert_eq!(count(&server, "SELECT count(*) FROM lockkit.lease"), 1);
    testbed::held!(guard);
    let again = idle.acquire().await.unwrap();
    assert!(again.token() > token, "{} after {token}", again.token());
    let token = again.token();
    // Its row may outlive the crash, and would be renewed.
    again.release().await.unwrap();
    server.kill().unwrap();
    server.restart(Data::Kept).unwrap();
    let later = locks.lock("jobs/idle").acquire_within(Duration::from_secs(70)).await.unwrap();
    assert!(later.token() > token);
}

/// How many pages of the server's tables a statement reads, functions included, by a session that has planned it.
fn pages(server: &PostgresServer, before: &str, statement: &str) -> usize {
    // As our client sets its connections.
    let settings = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET jit = off; \
        SET plan_cache_mode = force_generic_plan; SET synchronous_commit = off";
    let explain = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF) {statement}");
    let mut psql = server.psql().unwrap();
    psql.args(["-v", "ON_ERROR_STOP=1"]);
    for command in [settings, before, &explain] {
        psql.args(["-c", command]);
    }
    let ended = psql.output().unwrap();
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    let buffers = said.lines().find(|line| line.contains("Buffers:"));
    let buffers = buffers.unwrap_or_else(|| {
        panic!("{said}{}", String::from_utf8_lossy(&ended.stderr));
    });
    let counts = buffers.split([' ', '=']).filter_map(|word| word.parse::<usize>().ok());
    counts.sum()
}

/// A request, as an id, that counts upwards.
fn request(number: usize) -> String {
    format!("'00000000-0000-0000-0000-{number:012}'")
}

const CLIENT: &str = "'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'";

fn ask(name: &str, number: usize) -> String {
    let request = request(number);
    format!("lockkit.acquire('{name}', {request}, {CLIENT}, 60000, '', true, 60000)")
}

fn leave(name: &str, number: usize) -> String {
    format!("lockkit.leave('{name}', {}, false, false)", request(number))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_reads_as_many_pages_for_two_thousand_waiters_as_for_ten() {
    let server = PostgresServer::start().unwrap();
    drop(locks(&server).await);
    // The first one begins the server's first epoch.
    server.sql(&format!("SELECT {}", ask("epoch", 0))).unwrap();
    server.sql(&format!("SELECT lockkit.beat({CLIENT}, 1, 600000, 0)")).unwrap();
    let mut read = Vec::new();
    for (name, first, waiters) in [("few", 10_000, 10), ("many", 20_000, 2_000)] {
        let last = first + waiters;
        let all = format!(
            "SELECT count(lockkit.acquire('{name}', ('00000000-0000-0000-0000-' || lpad(n::text, 12, '0'))::uuid, \
             {CLIENT}, 60000, '', true, 60000)) FROM generate_series({first}, {last}) n"
        );
        server.sql(&all).unwrap();
        assert_eq!(count(&server, &format!("{WAITERS} WHERE name = '{name}'")), waiters);
        // Four hand-offs before it: what they leave must not be read again.
        let before: Vec<_> =
            (first..first + 4).map(|n| format!("SELECT {}", leave(name, n))).collect();
        read.push(pages(
            &server,
            &before.join("; "),
            &format!("SELECT {}", leave(name, first + 4)),
        ));
    }
    let [few, many] = read[..] else { unreachable!() };
    println!("a release reads {few} pages for ten waiters, {many} for two thousand");
    assert!(many <= few * 2, "{many} pages for two thousand waiters, {few} for ten");
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_an_open_snapshot_the_thousandth_cycle_reads_at_most_twice_the_pages_of_the_first() {
    let server = PostgresServer::start().unwrap();
    let lock = locks(&server).await.lock("bloated").ttl(ms(30_000));
    lock.acquire().await.unwrap().release().await.unwrap();
    let _snapshot = Snapshot::open(&server).await;
    // Twice before it: the session has planned what it runs, and has read the catalogue.
    let cycle = |first: usize| {
        let [take, give] = [ask, leave].map(|call: fn(&str, usize) -> String| {
            move |n| format!("SELECT {}", call("bloated", n))
        });
        let before =
            (first..first + 2).map(|n| format!("{}; {}; ", take(n), give(n))).collect::<String>();
        let last = first + 2;
        [
            pages(&server, &before, &take(last)),
            pages(&server, &format!("{}; {before}{}", give(last), take(last)), &give(last)),
        ]
    };
    let first = cycle(10);
    for _ in 0..1_000 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let last = cycle(20);
    println!("acquire and release read {first:?} pages at first, {last:?} after a thousand");
    for (first, last) in first.into_iter().zip(last) {
        assert!(last <= first * 2, "{last} pages after a thousand cycles, {first} at first");
    }
}
