//! What happens to the server: ended backends, crashes, and a standby that is promoted.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{BOTH, SLACK, advisory, by, config, connections, gone, join, key_of, ms};
use lockkit_core::{FencingToken, Guard, LockName, LossReason};
use lockkit_postgres::{PostgresProvider, Strategy};
use sqlx::{Connection, PgConnection};
use testbed::children::{self, Child};
use testbed::{Data, PostgresServer, in_time, timing};
use tokio::sync::Mutex;

#[tokio::test(flavor = "multi_thread")]
async fn a_terminated_backend_is_a_loss_within_a_second() {
    let server = PostgresServer::start().unwrap();
    let locks = join(&server.url(), Strategy::Advisory).await;
    for round in 0..5 {
        let guard = locks.lock("held").ttl(Duration::from_secs(30)).acquire().await.unwrap();
        let next = tokio::spawn(locks.lock("held").acquire());
        let ended = "SELECT pg_terminate_backend(pid) FROM pg_locks \
            WHERE locktype = 'advisory' AND granted";
        server.sql(ended).unwrap();
        let terminated = Instant::now();
        let reason = by(ms(1_000), "the holder is told", guard.lost()).await;
        println!("round {round}: told after {:?}", terminated.elapsed());
        assert_eq!(reason, LossReason::SessionEnded);
        assert!(!guard.is_held());
        let next = by(ms(2_000), "the next one is granted", next).await.unwrap().unwrap();
        assert!(next.token() > guard.token());
        assert!(guard.release().await.is_err());
        next.release().await.unwrap();
    }
}

/// What is told first once this process has been stopped for longer than the ttl: the clock is read
/// around each call, so that no call after the stop is missed.
fn first_answer_after_a_stop(ttl: Duration, is_held: impl Fn() -> bool) -> &'static str {
    let say = |held: bool| if held { "held" } else { "lost" };
    let mut last = Instant::now();
    loop {
        let before = Instant::now();
        let held = is_held();
        let after = Instant::now();
        if before - last > ttl {
            return say(held);
        }
        if after - before > ttl {
            // Stopped in the midst of it: that may be an answer of before.
            return say(is_held());
        }
        if !held {
            return "lost before it was stopped";
        }
        last = after;
        std::thread::sleep(ms(1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_that_is_stopped_loses_its_lock_and_knows_it_when_it_wakes() {
    const TEST: &str = "server::a_holder_that_is_stopped_loses_its_lock_and_knows_it_when_it_wakes";
    let ttl = ms(1_500);
    if let Some(role) = children::role() {
        let (strategy, url) = role.split_once(' ').unwrap();
        let strategy = if strategy == "table" { Strategy::Table } else { Strategy::Advisory };
        let guard = join(url, strategy).await.lock("held").ttl(ttl).acquire().await.unwrap();
        children::say(&guard.token().to_string());
        children::say(first_answer_after_a_stop(ttl, || guard.is_held()));
        children::wait_for_the_end();
    }
    let server = PostgresServer::start().unwrap();
    for (strategy, name) in [(Strategy::Advisory, "advisory"), (Strategy::Table, "table")] {
        let began = timing::start();
        let child = Child::test(TEST, &format!("{name} {}", server.url())).start().unwrap();
        let token: FencingToken =
            timing::kept(|| child.line(Duration::from_secs(20))).parse().unwrap();
        let locks = join(&server.url(), strategy).await;
        let next = tokio::spawn(locks.lock("held").acquire());
        tokio::time::sleep(ms(300)).await;
        child.pause().unwrap();
        let stopped = Instant::now();
        let next = by(ttl + ms(1_500), "the next one is granted", next).await.unwrap().unwrap();
        println!("{name}: freed by the server after {:?}", stopped.elapsed());
        assert!(next.token() > token);
        // Long enough to be told from a pause of the machine's.
        tokio::time::sleep((ttl + ms(200)).saturating_sub(stopped.elapsed())).await;
        child.resume().unwrap();
        let said = timing::kept(|| child.line(Duration::from_secs(5)));
        in_time!(began, said != "lost before it was stopped", "{name}: {said}");
        assert_eq!(said, "lost");
        testbed::held!(next);
        next.release().await.unwrap();
        child.kill().unwrap();
    }
}

/// All tokens of one name, and the newest.
#[derive(Debug, Default)]
struct Tokens {
    all: HashSet<FencingToken>,
    newest: Option<FencingToken>,
}

impl Tokens {
    /// Takes in one, which is newer than all others if its holder has it now.
    fn take(&mut self, token: FencingToken, is_held: bool) {
        assert!(self.all.insert(token), "{token} came twice");
        assert!(!is_held || Some(token) > self.newest, "{token} after {:?}", self.newest);
        self.newest = self.newest.max(Some(token));
    }
}

/// Takes tokens by the transaction form without an end, in transactions that are left open as the
/// server dies.
async fn lock_in_transactions(
    url: String,
    transactions: PostgresProvider,
    seen: Arc<Mutex<[Tokens; 3]>>,
) {
    let name = LockName::new("transaction").unwrap();
    for turn in 0_u64.. {
        let Ok(mut connection) = PgConnection::connect(&url).await else {
            tokio::time::sleep(ms(20)).await;
            continue;
        };
        while let Ok(mut transaction) = connection.begin().await {
            let token = transactions.lock_in(&mut transaction, &name).await;
            let Ok(token) = token else { break };
            let mut newest = seen.lock().await;
            // The other may have come in between, if the server has died since.
            let lives = sqlx::raw_sql("SELECT 1").execute(&mut *transaction).await.is_ok();
            newest[2].take(token, lives);
            drop(newest);
            tokio::time::sleep(ms(turn % 3)).await;
            if !lives || turn % 2 == 0 && transaction.commit().await.is_err() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_of_the_server_bring_no_token_back_and_end_no_wait() {
    const KILLS: usize = 50;
    let server = PostgresServer::builder()
        .setting("wal_writer_delay", "10s")
        .setting("checkpoint_timeout", "1h")
        .start()
        .unwrap();
    let server = Arc::new(server);
    server.sql("ALTER ROLE testbed SET synchronous_commit = off").unwrap();
    let advisory = config(&server.url(), Strategy::Advisory);
    let transactions = PostgresProvider::connect(advisory).await.unwrap();
    let newest: Arc<Mutex<[Tokens; 3]>> = Arc::default();
    let mut tasks = Vec::new();
    for strategy in BOTH {
        let locks = join(&server.url(), strategy).await;
        for _ in 0..3 {
            let (lock, newest) = (locks.lock("loaded").ttl(ms(1_000)), Arc::clone(&newest));
            let slot = usize::from(strategy == Strategy::Table);
            tasks.push(tokio::spawn(async move {
                loop {
                    // It waits through every crash.
                    let guard = lock.acquire().await.unwrap();
                    newest.lock().await[slot].take(guard.token(), guard.is_held());
                    guard.release().await.ok();
                }
            }));
        }
    }
    // Two of them: each waits for the other.
    for _ in 0..2 {
        let (url, seen, transactions) = (server.url(), Arc::clone(&newest), transactions.clone());
        tasks.push(tokio::spawn(lock_in_transactions(url, transactions, seen)));
    }
    for kill in 0..KILLS {
        tokio::time::sleep(ms(60 + 7 * (kill as u64 % 11))).await;
        let again = Arc::clone(&server);
        tokio::task::spawn_blocking(move || again.restart(Data::Kept).unwrap()).await.unwrap();
        if kill % 10 == 9 {
            let now = newest.lock().await.each_ref().map(|tokens| tokens.all.len());
            println!("after {} kills: {now:?} grants", kill + 1);
        }
    }
    // All go on after the last one.
    let counts = || async { newest.lock().await.each_ref().map(|tokens| tokens.all.len()) };
    let before = counts().await;
    let began = timing::start();
    loop {
        let now = counts().await;
        if (0..3).all(|n| now[n] > before[n]) {
            break;
        }
        in_time!(
            began,
            began.elapsed() < Duration::from_secs(10),
            "{before:?} became {now:?} only"
        );
        tokio::time::sleep(ms(20)).await;
    }
    for task in tasks {
        assert!(!task.is_finished(), "{:?}", task.await);
        task.abort();
    }
}

/// Of those that outlive a promotion.
const LEASE: Duration = Duration::from_secs(6);

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_standby_and_the_old_primary_are_two_servers_as_declared() {
    let primary = PostgresServer::start().unwrap();
    for strategy in BOTH {
        assert!(!PostgresProvider::declared(strategy).token_survives.failover);
    }
    let mut held = Vec::new();
    for strategy in BOTH {
        let locks = join(&primary.url(), strategy).await;
        held.push(locks.lock("held").ttl(LEASE).acquire().await.unwrap());
    }
    let standby = PostgresServer::builder().standby_of(primary.address()).start().unwrap();
    // A standby takes no locks, and says what to do.
    for strategy in BOTH {
        let refused = PostgresProvider::connect(config(&standby.url(), strategy)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("recovery") && refused.contains("primary"), "{refused}");
    }
    standby.sql("SELECT pg_promote()").unwrap();
    let old = join(&primary.url(), Strategy::Advisory).await;
    let new = join(&standby.url(), Strategy::Advisory).await;
    // Nothing ties the two together: both grant. What was granted before the promotion is older.
    let there = new.lock("held").acquire().await.unwrap();
    testbed::held!(held[0]);
    testbed::held!(there);
    assert!(there.token() > held[0].token());
    let late = old.lock("late").acquire().await.unwrap();
    assert!(there.token() > late.token(), "the promotion began an epoch of its own");
    // A lease is a row, and has been copied: it holds on both until it is renewed no more there.
    let (new, old) =
        (join(&standby.url(), Strategy::Table).await, join(&primary.url(), Strategy::Table).await);
    assert!(new.lock("held").ttl(LEASE).try_acquire().await.unwrap().is_none());
    // Nothing else is granted there for as long as a grant may live that was not copied.
    let closed = new.lock("late").ttl(LEASE).try_acquire().await.unwrap_err();
    assert!(closed.to_string().contains("grants again in"), "{closed}");
    let there = by(LEASE + SLACK, "it expires there", new.lock("held").ttl(LEASE).acquire());
    let there = there.await.unwrap();
    testbed::held!(held[1]);
    testbed::held!(there);
    // The promotion began an epoch of its own.
    let token = held.remove(1);
    token.release().await.unwrap();
    let here = old.lock("held").ttl(LEASE).acquire().await.unwrap();
    assert!(there.token() > here.token(), "{} and {}", there.token(), here.token());
    // What neither had is granted by both.
    let both =
        [old.lock("late").acquire().await.unwrap(), new.lock("late").acquire().await.unwrap()];
    assert!(both.iter().all(Guard::is_held));
}

#[tokio::test(flavor = "multi_thread")]
async fn futures_dropped_after_any_time_leave_no_ghost_and_no_stuck_connection() {
    let server = PostgresServer::start().unwrap();
    let (ours, theirs) = (
        join(&server.url(), Strategy::Advisory).await,
        join(&server.url(), Strategy::Advisory).await,
    );
    let ttl = Duration::from_secs(30);
    for round in 0..120_u64 {
        let limit = Duration::from_micros(round * 61 % 4_000);
        let guard = ours.lock("dropped").ttl(ttl).acquire().await.unwrap();
        drop(tokio::time::timeout(limit, theirs.lock("dropped").ttl(ttl).acquire()).await);
        drop(tokio::time::timeout(limit, theirs.lock("other").ttl(ttl).acquire()).await);
        testbed::held!(guard);
        guard.release().await.unwrap();
    }
    gone(ms(1_000), "no ghost", || advisory(&server) == 0).await;
    let guard = by(SLACK, "it is free", theirs.lock("dropped").acquire()).await.unwrap();
    assert_eq!(
        server.sql(&format!("SELECT pg_try_advisory_lock({})", key_of("dropped"))).unwrap(),
        "f"
    );
    guard.release().await.unwrap();
    let stuck = "SELECT count(*) FROM pg_stat_activity \
        WHERE application_name = 'lockkit' AND state <> 'idle'";
    gone(ms(1_000), "no connection is stuck", || crate::common::count(&server, stuck) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_connection_is_left_of_a_client_that_was_closed() {
    let server = PostgresServer::start().unwrap();
    let mut closed = Vec::new();
    for round in 0..10 {
        let locks = join(&server.url(), BOTH[round % 2]).await;
        let guard = locks.lock("closed").acquire().await.unwrap();
        let waiter = tokio::spawn(locks.lock("closed").acquire());
        tokio::time::sleep(ms(20)).await;
        locks.close(ms(3_000)).await.unwrap();
        assert!(!guard.is_held() && waiter.await.unwrap().is_err());
        closed.push(locks);
    }
    let none = || connections(&server) == 0;
    gone(ms(5_000), "all connections are closed", none).await;
    // And none is made anew, to look after those that were cut.
    tokio::time::sleep(ms(700)).await;
    assert!(none(), "{} connections", connections(&server));
}
