//! Random clients of both strategies never believe two at once. Under the table the server crashes.

use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::fuzz::Fuzz;
use testbed::{Data, PostgresServer};

use crate::common::{ALONE, SLACK, advisory, config, count, ms, until};

/// Longer than the longest ttl.
const LEFT_FOR: std::time::Duration = ms(8_000);

/// Has random clients work, on a server that crashes every so often; how many grants they had.
async fn fuzz(server: &PostgresServer, strategy: Strategy, grants: usize) -> usize {
    let config = config(&server.url(), strategy);
    let connect = |_| PostgresProvider::connect(config.clone());
    let crash = async |_| match strategy {
        Strategy::Table => {
            tokio::time::sleep(ms(5_000)).await;
            server.kill().unwrap();
            server.restart(Data::Kept).unwrap();
        }
        // Their overlap when the server ends is declared.
        _ => std::future::pending().await,
    };
    Fuzz { grants, ..Fuzz::default() }.run(connect, crash).await
}

/// Waits until no row of a client that lives is left.
async fn no_row_is_left(server: &PostgresServer) {
    let rows = "SELECT count(*) FROM lockkit.waiter w JOIN lockkit.client c ON c.id = w.client \
        WHERE c.last_seen + c.life * interval '1 ms' > clock_timestamp()";
    until(LEFT_FOR + SLACK, "no waiter is left", || count(server, rows) == 0).await;
    let held = "SELECT count(*) FROM lockkit.lease WHERE expires_at > clock_timestamp()";
    until(LEFT_FOR + SLACK, "no holder is left", || count(server, held) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_of_a_server_that_crashes_never_believe_two_at_once() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    assert!(fuzz(&server, Strategy::Table, 1_000).await >= 1_000);
    no_row_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_of_advisory_locks_never_believe_two_at_once() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    assert!(fuzz(&server, Strategy::Advisory, 1_000).await >= 1_000);
    until(LEFT_FOR + SLACK, "no lock is left", || advisory(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "10 minutes or more; `cargo xtask soak` runs it"]
async fn ten_thousand_grants_of_each_strategy_never_overlap() {
    let _alone = ALONE.lock().await;
    for strategy in crate::common::BOTH {
        let server = PostgresServer::start().unwrap();
        let mut grants = 0;
        while grants < 10_000 {
            grants += fuzz(&server, strategy, 2_000).await;
        }
        match strategy {
            Strategy::Table => no_row_is_left(&server).await,
            _ => until(LEFT_FOR + SLACK, "no lock is left", || advisory(&server) == 0).await,
        }
    }
}
