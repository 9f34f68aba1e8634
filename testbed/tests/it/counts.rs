//! What an acquire and its release ask of each server: requests and commands, which no busy machine changes.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use lockkit::connect;
use testbed::{EtcdServer, Link, PostgresServer, RedisServer, ZkServer};
use tokio::task::JoinSet;

const CYCLES: u64 = 200;

/// What so many uncontended cycles of one name add to a count. Once more before, so that what connecting costs is over.
async fn added(url: &str, count: impl Fn() -> u64) -> f64 {
    let locks = connect(url).await.unwrap();
    let lock = locks.lock("counted");
    for _ in 0..3 {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let before = count();
    for _ in 0..CYCLES {
        lock.acquire().await.unwrap().release().await.unwrap();
    }
    let each = (count() - before) as f64 / CYCLES as f64;
    drop(locks);
    each
}

/// What so many cycles of one name add to a count where eight tasks take turns.
async fn added_by_eight(url: &str, count: impl Fn() -> u64) -> f64 {
    const TASKS: u64 = 8;
    let locks = connect(url).await.unwrap();
    let work = async |cycles: u64| {
        let mut tasks = JoinSet::new();
        for _ in 0..TASKS {
            let lock = locks.lock("contended");
            tasks.spawn(async move {
                for _ in 0..cycles {
                    lock.acquire().await.unwrap().release().await.unwrap();
                }
            });
        }
        tasks.join_all().await;
    };
    work(3).await;
    let before = count();
    work(CYCLES).await;
    (count() - before) as f64 / (TASKS * CYCLES) as f64
}

/// Allows for a keep-alive or two that come in between.
#[track_caller]
fn at_most(each: f64, most: f64, of: &str) {
    assert!(each < most + 0.1, "{each:.2} {of} for an acquire and its release, more than {most}");
}

/// The sum of `calls=` over the commands that `counts` admits.
fn commands(server: &RedisServer, counts: impl Fn(&str) -> bool) -> u64 {
    let text = server.cli(&["INFO", "commandstats"]).unwrap().text().unwrap();
    let lines = text.lines().filter_map(|line| line.strip_prefix("cmdstat_")?.split_once(':'));
    let calls = |stats: &str| {
        let calls = stats.strip_prefix("calls=")?.split(',').next()?;
        calls.parse::<u64>().ok()
    };
    lines.filter(|(command, _)| counts(command)).filter_map(|(_, stats)| calls(stats)).sum()
}

#[tokio::test]
async fn redis_a_cycle_is_two_scripts_of_seven_commands() {
    let server = RedisServer::start().unwrap();
    let url = format!("{}?prefix=counts:", server.url());
    at_most(added(&url, || commands(&server, |name| name == "evalsha")).await, 2.0, "scripts");
    // Those that ask for the counts are not of a script.
    let inner = |name: &str| !matches!(name, "evalsha" | "info" | "ping" | "client");
    at_most(added(&url, || commands(&server, inner)).await, 7.0, "commands within scripts");
}

#[tokio::test]
async fn postgres_a_cycle_is_two_statements_under_both_strategies() {
    let server = PostgresServer::start().unwrap();
    let link = Link::to_postgres(server.address()).unwrap();
    for strategy in ["table", "advisory"] {
        let url = format!("{}?strategy={strategy}", server.url_at(link.address()));
        at_most(added(&url, || link.requests()).await, 2.0, "statements");
    }
}

#[tokio::test]
async fn etcd_a_cycle_is_two_transactions_and_two_writes() {
    let server = EtcdServer::start().unwrap();
    let url = format!("etcd://{}", server.address());
    let revisions = || u64::try_from(server.revision().unwrap()).unwrap();
    at_most(added(&url, revisions).await, 2.0, "writes");
    let transactions = || metric(server.address(), "grpc_method=\"Txn\"");
    at_most(added(&url, transactions).await, 2.0, "transactions");
    let reads = || metric(server.address(), "grpc_method=\"Range\"");
    // The test's own question for the revision is none of these.
    at_most(added(&url, reads).await, 0.0, "reads");
}

#[tokio::test]
async fn zk_a_cycle_is_three_packets_and_a_contended_one_five() {
    let server = ZkServer::start().unwrap();
    let url = format!("zk://{}", server.address());
    let packets = || {
        let text = server.ask("mntr").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("zk_packets_received"));
        line.unwrap().trim().parse().unwrap()
    };
    // A node, a list, a deletion; heartbeats of the sessions beside them.
    at_most(added(&url, packets).await, 3.0, "packets");
    // And a watch on the node before, and a look at its own node after that one's end.
    at_most(added_by_eight(&url, packets).await, 5.0, "packets");
}

/// The sum of etcd's counters of unary calls that it has begun to serve, over the lines with this label.
fn metric(address: SocketAddr, label: &str) -> u64 {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let lines = text.lines().filter(|line| line.starts_with("grpc_server_started_total{"));
    let of_label = lines.filter(|line| line.contains(label));
    of_label.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}
