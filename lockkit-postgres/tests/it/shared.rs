//! Shared locks under the strategy "table": beside functions of before them, after a crash, and with waiters that die.

use std::sync::Arc;
use std::time::Instant;

use lockkit_core::{Kind, Locks};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use sqlx::{Connection, Executor, PgConnection};
use testbed::contenders::queued;
use testbed::{Data, PostgresServer};

use crate::common::{SLACK, Snapshot, by, config, count, join, ms, until};

/// What a client of before shared locks made, as recorded at commit 4817be8.
const BEFORE: &str = include_str!("../layouts/2_before_shared.sql");

async fn locks(server: &PostgresServer) -> Locks {
    join(&server.url(), Strategy::Table).await
}

/// A request of an older client, as an id; 0 of no other.
fn old(number: usize) -> String {
    format!("'00000000-0000-0000-0000-{number:012}'")
}

/// What an older client calls to take a name, and is told.
fn asks(server: &PostgresServer, name: &str, number: usize, waits: bool) -> String {
    let client = "'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'";
    let request = old(number);
    let ask = format!(
        "SELECT lockkit.acquire('{name}', {request}, {client}, 15000, 'before', {waits}, 60000)"
    );
    server.sql(&ask).unwrap()
}

/// Whether an older client's release finds its grant.
fn releases(server: &PostgresServer, name: &str, number: usize) -> bool {
    let leave = format!("SELECT lockkit.leave('{name}', {}, false, false)", old(number));
    server.sql(&leave).unwrap() == "released"
}

/// An older client beside shared locks, whose functions are `today`'s or its own.
async fn an_older_client_and_shared_grants_keep_apart(server: &PostgresServer, functions: &str) {
    let locks = locks(server).await;
    server.sql(functions).unwrap();
    let lock = locks.lock("a").ttl(ms(15_000));
    let guards = [
        lock.clone().shared().acquire().await.unwrap(),
        lock.clone().shared().acquire().await.unwrap(),
    ];
    for guard in guards {
        assert!(asks(server, "a", 1, false).starts_with("held "), "beside a member");
        guard.renew().await.unwrap();
        guard.release().await.unwrap();
    }
    assert!(asks(server, "a", 2, false).starts_with("granted "), "the last member has left");
    assert!(lock.clone().shared().try_acquire().await.unwrap().is_none(), "beside an older client");
    let seen = lock.inspect().await.unwrap();
    assert_eq!((&*seen.holders[0].label, seen.holders[0].kind), ("before", Kind::Exclusive));

    // A shared request that an older function may take for an exclusive one holds, and ends as one that shares.
    let waiting = tokio::spawn(lock.clone().shared().acquire());
    queued(&lock, 1).await;
    assert!(releases(server, "a", 2));
    let shared = by(ms(10_000), "a grant by an older client", waiting).await.unwrap().unwrap();
    shared.renew().await.unwrap();
    assert!(asks(server, "a", 3, false).starts_with("held "));
    assert!(lock.try_acquire().await.unwrap().is_none());
    shared.release().await.unwrap();
    lock.try_acquire().await.unwrap().expect("free").release().await.unwrap();
    assert_eq!(count(server, "SELECT count(*) FROM lockkit.member"), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_before_shared_locks_gets_them_and_its_clients_keep_apart_from_shared_grants() {
    let server = PostgresServer::start().unwrap();
    server.sql(BEFORE).unwrap();
    // Held and waited for while the schema changes.
    assert!(asks(&server, "kept", 1, false).starts_with("granted "));
    an_older_client_and_shared_grants_keep_apart(&server, "").await;
    let locks = locks(&server).await;
    assert!(locks.lock("kept").shared().try_acquire().await.unwrap().is_none());
    assert!(releases(&server, "kept", 1));
    drop(locks.lock("kept").shared().try_acquire().await.unwrap().expect("free"));
}

#[tokio::test(flavor = "multi_thread")]
async fn functions_of_before_shared_locks_that_are_made_again_over_them_grant_nothing_beside_a_member()
 {
    let server = PostgresServer::start().unwrap();
    an_older_client_and_shared_grants_keep_apart(&server, BEFORE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_of_before_shared_locks_is_refused_where_nothing_may_be_made() {
    let server = PostgresServer::start().unwrap();
    server.sql(BEFORE).unwrap();
    let config = config(&server.url(), Strategy::Table).creates(false);
    let refused = PostgresProvider::connect(config.clone()).await.unwrap_err().to_string();
    assert!(refused.contains("setup_sql"), "{refused}");
    server.sql(&PostgresConfig::setup_sql(&config)).unwrap();
    drop(PostgresProvider::connect(config).await.unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_setup_beside_a_call_that_is_under_way_waits_for_it_at_most_and_fails_neither() {
    for made in [BEFORE, ""] {
        let server = Arc::new(PostgresServer::start().unwrap());
        let setup = config(&server.url(), Strategy::Table).setup_sql();
        server.sql(if made.is_empty() { &setup } else { made }).unwrap();
        server.sql("INSERT INTO lockkit.lease (name) VALUES ('a')").unwrap();
        // What each call does: the row of its name, and then the queue.
        let mut call = PgConnection::connect(&server.url()).await.unwrap();
        call.execute("BEGIN; SELECT FROM lockkit.lease FOR UPDATE").await.unwrap();
        let (setting_up, at) = (Arc::clone(&server), Arc::clone(&server));
        let setting_up = tokio::task::spawn_blocking(move || setting_up.sql(&setup));
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
        let is_there = || setting_up.is_finished() || count(&at, waits) == 1;
        until(ms(20_000), "the setup has ended, or waits", is_there).await;
        let queue = "INSERT INTO lockkit.waiter (name, request, client, ttl, label) \
            VALUES ('a', gen_random_uuid(), gen_random_uuid(), 1000, ''); COMMIT";
        call.execute(queue).await.unwrap();
        by(ms(20_000), "the setup's end", setting_up).await.unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_that_loses_shared_grants_lets_no_writer_in_before_their_terms_are_over() {
    let ttl = ms(3_000);
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (locks(&server).await, locks(&server).await);
    let asked = Instant::now();
    let shared = ours.lock("crashed").shared().ttl(ttl).renew_manually();
    let lost = [shared.acquire().await.unwrap(), shared.acquire().await.unwrap()];
    server.kill().unwrap();
    server.restart(Data::Kept).unwrap();
    let next = theirs.lock("crashed").ttl(ttl).acquire();
    let next = by(ttl * 4, "a grant after the barrier", next).await.unwrap();
    assert!(asked.elapsed() >= ttl, "granted before the lost terms were over");
    for lost in lost {
        assert!(!lost.is_held(), "a reader and a writer believe");
        assert!(next.token() > lost.token(), "{} and {}", next.token(), lost.token());
    }
    next.release().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_whose_client_is_dead_keeps_no_reader_out_of_a_group() {
    let server = PostgresServer::start().unwrap();
    let lock = locks(&server).await.lock("a").ttl(ms(15_000));
    let held = lock.clone().shared().acquire().await.unwrap();
    // It waits, and its client has sent no beat.
    assert!(asks(&server, "a", 1, true).starts_with("held "));
    let reader = lock.clone().shared().try_acquire().await.unwrap().expect("beside a reader");
    // One that dies with a reader behind it: that one's client has the server look.
    server.sql("SELECT lockkit.beat('f81d4fae-7dec-11d0-a765-00a0c91e6bf6', 1, 3000, 0)").unwrap();
    assert!(asks(&server, "a", 2, true).starts_with("held "));
    let behind = by(ms(8_000) + SLACK, "a place in the group", lock.clone().shared().acquire());
    let behind = behind.await.unwrap();
    for guard in [held, reader, behind] {
        guard.release().await.unwrap();
    }
}

/// Gives a place in the group of `a` to a client that is never heard of again; its token.
fn dies(server: &PostgresServer, number: usize, ttl: u64) -> u64 {
    let (client, request) = ("'f81d4fae-7dec-11d0-a765-00a0c91e6bf6'", old(number));
    let ask = format!(
        "SELECT lockkit.acquire_member('a', {request}, {client}, {ttl}, '', false, 60000, 'shared')"
    );
    let said = server.sql(&ask).unwrap();
    said.strip_prefix("granted ").expect(&said).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn members_that_expired_are_gone_with_the_next_group_and_never_come_back() {
    let server = PostgresServer::start().unwrap();
    let locks = locks(&server).await;
    let rows = "SELECT count(*) FROM lockkit.member";
    let over = format!("{rows} WHERE expires_at <= clock_timestamp()");
    let last = [dies(&server, 1, 200), dies(&server, 2, 300)][1];
    until(ms(5_000), "both are over", || count(&server, &over) == 2).await;
    // Alone over what they left, and then a new group.
    let alone = locks.lock("a").acquire().await.unwrap();
    let before = alone.token();
    assert!(before.as_u64() > last);
    alone.release().await.unwrap();
    assert_eq!(count(&server, rows), 2);
    let first = locks.lock("a").shared().ttl(ms(15_000)).acquire().await.unwrap();
    assert!(first.token() > before);
    dies(&server, 3, 200);
    assert_eq!(count(&server, rows), 2);
    for number in 1..3 {
        let renew = format!("SELECT lockkit.renew_member('a', {}, 15000, 60000)", old(number));
        assert_eq!(server.sql(&renew).unwrap(), "f");
    }
    // The one that lasts longest leaves: only then are the others looked at.
    until(ms(5_000), "the third is over", || count(&server, &over) == 1).await;
    first.release().await.unwrap();
    assert_eq!(count(&server, rows), 0);
    locks.lock("a").try_acquire().await.unwrap().expect("free").release().await.unwrap();
    dies(&server, 4, 50);
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
    assert_eq!(locks.forget("a", ms(0)).await.unwrap(), 1);
    assert_eq!(count(&server, rows), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_group_ends_with_the_member_that_lasts_longest_after_each_that_comes_is_renewed_or_leaves()
 {
    let server = PostgresServer::start().unwrap();
    drop(locks(&server).await);
    let is_so = || {
        let ends =
            "SELECT expires_at = (SELECT max(expires_at) FROM lockkit.member) FROM lockkit.lease";
        server.sql(ends).unwrap() == "t"
    };
    for (number, ttl) in [(1, 15_000), (2, 30_000), (3, 20_000)] {
        dies(&server, number, ttl);
        assert!(is_so(), "{number} came");
    }
    let calls = [
        format!("renew_member('a', {}, 40000, 60000)", old(1)),
        // A replay.
        format!("acquire_member('a', {0}, {0}, 50000, '', false, 60000, 'shared')", old(3)),
        format!("leave_member('a', {}, false, false)", old(3)),
        format!("leave_member('a', {}, false, false)", old(2)),
    ];
    for call in calls {
        server.sql(&format!("SELECT lockkit.{call}")).unwrap();
        assert!(is_so(), "{call}");
    }
    assert!(asks(&server, "a", 4, false).starts_with("held "), "one is left");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_writer_is_granted_when_the_last_living_member_leaves_a_group_with_dead_ones_that_lasted_longer()
 {
    let server = PostgresServer::start().unwrap();
    let locks = locks(&server).await;
    dies(&server, 1, 1_500);
    let held = locks.lock("a").shared().ttl(ms(15_000)).acquire().await.unwrap();
    let writer = tokio::spawn(locks.lock("a").ttl(ms(15_000)).acquire());
    queued(&locks.lock("a"), 1).await;
    held.release().await.unwrap();
    // At the end of the other one, and not at that of the one that has left.
    by(ms(6_000) + SLACK, "the writer's grant", writer)
        .await
        .unwrap()
        .unwrap()
        .release()
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_grants_to_all_readers_that_wait_in_one_statement_up_to_the_first_writer() {
    const READERS: usize = 200;
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (locks(&server).await, locks(&server).await);
    let lock = ours.lock("a").ttl(ms(30_000));
    let held = theirs.lock("a").acquire().await.unwrap();
    let readers: Vec<_> =
        (0..READERS).map(|_| tokio::spawn(lock.clone().shared().acquire())).collect();
    until(ms(20_000), "all wait", || {
        count(&server, "SELECT count(*) FROM lockkit.waiter") == READERS
    })
    .await;
    let writer = tokio::spawn(theirs.lock("a").acquire());
    queued(&lock, READERS + 1).await;
    let late = tokio::spawn(lock.clone().shared().acquire());
    queued(&lock, READERS + 2).await;
    held.release().await.unwrap();
    // The release has granted to all of them when it is answered.
    let members = "SELECT count(*) FROM lockkit.member";
    assert_eq!(count(&server, members), READERS);
    assert_eq!(lock.inspect().await.unwrap().holders.len(), READERS);
    for reader in readers {
        let reader = by(ms(10_000), "a reader's grant", reader).await.unwrap().unwrap();
        assert!(!writer.is_finished() && !late.is_finished());
        reader.release().await.unwrap();
    }
    let writer = by(ms(10_000), "the writer's grant", writer).await.unwrap().unwrap();
    let before = writer.token();
    writer.release().await.unwrap();
    let late = by(ms(10_000), "the late reader's grant", late).await.unwrap().unwrap();
    assert!(late.token() > before);
    late.release().await.unwrap();
    assert_eq!(count(&server, members), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_an_open_snapshot_a_shared_row_that_leaves_its_page_is_searched_where_it_is() {
    let server = PostgresServer::start().unwrap();
    let lock = locks(&server).await.lock("bloated").shared().ttl(ms(30_000));
    lock.acquire().await.unwrap().release().await.unwrap();
    let _snapshot = Snapshot::open(&server).await;
    for _ in 0..200 {
        let (one, other) = (lock.acquire().await.unwrap(), lock.acquire().await.unwrap());
        one.renew().await.unwrap();
        one.release().await.unwrap();
        other.release().await.unwrap();
    }
    let on_its_page = "SELECT count(*) FROM lockkit.lease WHERE name = 'bloated' AND gen >= 5 \
        AND ctid >= page_from AND ctid < page_to";
    assert_eq!(count(&server, on_its_page), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn exclusive_locks_write_two_rows_a_cycle_and_read_no_member_while_contended_too() {
    const CYCLES: usize = 50;
    let server = PostgresServer::start().unwrap();
    let counts = |columns: &str, table: &str| {
        let of = format!("SELECT {columns} FROM pg_stat_user_tables WHERE relname = '{table}'");
        count(&server, &of)
    };
    let of_members = || counts("idx_scan + n_tup_ins + n_tup_upd + n_tup_del", "member");
    let updates = || counts("n_tup_upd", "lease");
    let alone = locks(&server).await;
    for _ in 0..CYCLES {
        alone.lock("alone").acquire().await.unwrap().release().await.unwrap();
    }
    // A session tells the server what it counted when it ends.
    alone.close(ms(5_000)).await.unwrap();
    drop(alone);
    until(ms(20_000), "the counts", || updates() >= 2 * CYCLES).await;
    let most = 2 * CYCLES + CYCLES / 5;
    assert!(updates() <= most, "{} rows updated in {CYCLES} cycles", updates());
    let clients = [locks(&server).await, locks(&server).await];
    let work = clients.each_ref().map(|locks| {
        let lock = locks.lock("contended");
        tokio::spawn(async move {
            for round in 0..CYCLES as u64 {
                // Some leave the queue.
                let limit = ms(if round % 5 == 0 { 1 } else { 15_000 });
                if let Ok(guard) = lock.acquire_within(limit).await {
                    guard.renew().await.unwrap();
                    guard.release().await.unwrap();
                }
            }
        })
    });
    for work in work {
        work.await.unwrap();
    }
    for locks in clients {
        locks.close(ms(5_000)).await.unwrap();
    }
    until(ms(20_000), "the counts", || updates() >= 5 * CYCLES).await;
    assert_eq!(of_members(), 0);
}
