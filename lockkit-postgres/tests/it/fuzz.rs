//! Random clients of both strategies never believe two at once. Under the table the server crashes, and the address
//! leads to a standby now and then.

use lockkit_postgres::{PostgresProvider, Strategy};
use testbed::fuzz::{Fuzz, Sequence};
use testbed::{Data, Link, PostgresServer};

use crate::common::{ALONE, SLACK, advisory, config, count, ms, until};

/// Longer than the longest ttl.
const LEFT_FOR: std::time::Duration = ms(8_000);

/// Has random clients work while faults happen, round by round.
async fn fuzz(url: &str, strategy: Strategy, grants: usize, fault: impl AsyncFnMut(usize)) {
    let config = config(url, strategy);
    let connect = |_| PostgresProvider::connect(config.clone());
    let granted = Fuzz { grants, ..Fuzz::default() }.run(connect, fault).await;
    assert!(granted >= grants, "{granted} grants");
}

async fn fuzz_with_crashes(server: &PostgresServer, grants: usize) {
    let crash = async |_| {
        tokio::time::sleep(ms(5_000)).await;
        server.kill().unwrap();
        server.restart(Data::Kept).unwrap();
    };
    fuzz(&server.url(), Strategy::Table, grants, crash).await;
    no_row_is_left(server).await;
}

/// Without faults: the overlap when a session ends at the server is declared.
async fn fuzz_of_advisory_locks(server: &PostgresServer, grants: usize) {
    let never = async |_| std::future::pending().await;
    fuzz(&server.url(), Strategy::Advisory, grants, never).await;
    until(LEFT_FOR + SLACK, "no lock is left", || advisory(server) == 0).await;
}

/// The address leads to a standby for a moment, the connections are lost, or the primary takes no writes.
async fn fuzz_with_role_changes(grants: usize) {
    let primary = PostgresServer::start().unwrap();
    let standby = PostgresServer::builder().standby_of(primary.address()).start().unwrap();
    let link = Link::to(primary.address()).unwrap();
    let writes = |value: &str| {
        let system = format!("ALTER SYSTEM SET default_transaction_read_only = {value}");
        primary.sql(&system).unwrap();
        primary.sql("SELECT pg_reload_conf()").unwrap();
    };
    let mut random = Sequence::new(9);
    let change = async |round| {
        tokio::time::sleep(ms(2_000)).await;
        let moment = ms(100 + random.below(900));
        match round % 3 {
            0 => {
                link.lead_to(standby.address());
                link.reset().unwrap();
                tokio::time::sleep(moment).await;
                link.lead_to(primary.address());
            }
            1 => {
                writes("on");
                tokio::time::sleep(moment).await;
                writes("off");
            }
            _ => link.reset().unwrap(),
        }
    };
    fuzz(&primary.url_at(link.address()), Strategy::Table, grants, change).await;
    no_row_is_left(&primary).await;
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
    fuzz_with_crashes(&PostgresServer::start().unwrap(), 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_of_advisory_locks_never_believe_two_at_once() {
    let _alone = ALONE.lock().await;
    fuzz_of_advisory_locks(&PostgresServer::start().unwrap(), 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_whose_address_leads_to_a_standby_now_and_then_never_believe_two_at_once() {
    let _alone = ALONE.lock().await;
    fuzz_with_role_changes(1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn five_thousand_grants_with_role_changes_never_overlap() {
    let _alone = ALONE.lock().await;
    fuzz_with_role_changes(5_000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "10 minutes or more; `cargo xtask soak` runs it"]
async fn ten_thousand_grants_of_each_strategy_never_overlap() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    for _ in 0..5 {
        fuzz_with_crashes(&server, 2_000).await;
    }
    let server = PostgresServer::start().unwrap();
    fuzz_of_advisory_locks(&server, 10_000).await;
}
