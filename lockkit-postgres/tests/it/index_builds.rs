//! Index builds that must wait for every snapshot that is older than theirs, while many clients wait for a lock.

use std::time::Duration;

use futures_util::future::{join_all, select_all};
use lockkit_postgres::Strategy;
use testbed::{PostgresServer, in_time, timing};

use crate::common::{ALONE, SLACK, by, count, join, ms, until};

const CLIENTS: usize = 50;
const TTL: Duration = Duration::from_secs(60);
/// How long a build may take.
const MOST: Duration = Duration::from_secs(5);

async fn both_index_builds_end_while_fifty_clients_wait(strategy: Strategy) {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::builder().setting("max_connections", 400).start().unwrap();
    server.sql("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS number").unwrap();
    let url = server.url();
    let held = join(&url, strategy).await.lock("schema").ttl(TTL).acquire().await.unwrap();
    let clients = join_all((0..CLIENTS).map(|_| join(&url, strategy))).await;
    let mut waiting: Vec<_> =
        clients.iter().map(|locks| tokio::spawn(locks.lock("schema").ttl(TTL).acquire())).collect();
    if strategy == Strategy::Table {
        let rows = "SELECT count(*) FROM lockkit.waiter";
        until(SLACK * 10, "all wait", || count(&server, rows) == CLIENTS).await;
    }
    // Each has long waited by then.
    tokio::time::sleep(ms(1_500)).await;
    for build in [
        "CREATE INDEX CONCURRENTLY by_number ON orders (number)",
        "REINDEX INDEX CONCURRENTLY by_number",
    ] {
        let began = timing::start();
        let mut psql = server.psql().unwrap();
        psql.args(["-c", "SET statement_timeout = '20s'", "-c", build]);
        let built = tokio::task::spawn_blocking(move || psql.output().unwrap()).await.unwrap();
        println!("{strategy:?}: {build}: {:?}", began.elapsed());
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        in_time!(began, began.elapsed() < MOST, "{build}: {:?}", began.elapsed());
        testbed::held!(held);
        assert!(waiting.iter().all(|waiter| !waiter.is_finished()));
    }
    let mut last = held.token();
    held.release().await.unwrap();
    // The queue goes on.
    for _ in 0..5 {
        let (next, _, rest) = by(MOST + SLACK, "the next grant", select_all(waiting)).await;
        let next = next.unwrap().unwrap();
        assert!(next.token() > last);
        last = next.token();
        next.release().await.unwrap();
        waiting = rest;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn both_index_builds_end_while_fifty_clients_wait_for_a_row() {
    both_index_builds_end_while_fifty_clients_wait(Strategy::Table).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn both_index_builds_end_while_fifty_clients_wait_for_an_advisory_lock() {
    both_index_builds_end_while_fifty_clients_wait(Strategy::Advisory).await;
}
