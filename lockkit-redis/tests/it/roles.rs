//! Role changes: a primary that is demoted, an address that leads to a replica, a planned failover.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use lockkit_core::{Error, LockProvider, Locks};
use testbed::{Fault, Link, RedisServer, Way, timing};
use tokio::task::JoinSet;

use crate::common::{by, join, ms, queued, report};
use crate::turns::party::{Party, TTL, request};

/// By when a client has found the new primary: its driver pauses for a second at most.
const FOUND: Duration = ms(3_000);

/// A primary and a replica in step with it, which can exchange their roles.
pub(crate) async fn replicated() -> (RedisServer, RedisServer) {
    let primary = RedisServer::builder()
        .line("repl-diskless-sync-delay 0")
        .line("masteruser testbed")
        .line("masterauth testbed")
        .start()
        .unwrap();
    let replica = replica_at(primary.address()).await;
    timing::until(ms(10_000), "a replica in step", || {
        primary.info("connected_slaves").unwrap() == "1"
    })
    .await;
    (primary, replica)
}

async fn replica_at(primary: std::net::SocketAddr) -> RedisServer {
    let replica = RedisServer::builder().replica_of(primary).start().unwrap();
    timing::until(ms(10_000), "a replica that has copied all", || {
        replica.info("master_link_status").unwrap() == "up"
    })
    .await;
    replica
}

fn cli(server: &RedisServer, words: &[&str]) {
    assert_eq!(server.cli(words).unwrap().text().as_deref(), Some("OK"), "{words:?}");
}

/// How an operator makes the replica the primary.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Failover {
    /// By the server's own command.
    Command,
    /// By hand: writes stand still until the replica has them all and is promoted.
    ByHand,
}

impl Failover {
    /// Returns once the replica is the primary, and the old one its replica.
    pub(crate) async fn run(self, primary: &RedisServer, replica: &RedisServer) {
        let role = |server: &RedisServer| server.info("role").unwrap();
        match self {
            Self::Command => cli(primary, &["FAILOVER"]),
            Self::ByHand => {
                cli(primary, &["CLIENT", "PAUSE", "60000", "WRITE"]);
                timing::until(ms(10_000), "all writes in the replica", || {
                    primary.info("master_repl_offset").unwrap()
                        == replica.info("slave_repl_offset").unwrap()
                })
                .await;
                cli(replica, &["REPLICAOF", "NO", "ONE"]);
                let port = replica.port().to_string();
                cli(primary, &["REPLICAOF", "127.0.0.1", &port]);
                cli(primary, &["CLIENT", "UNPAUSE"]);
            }
        }
        timing::until(ms(10_000), "the roles exchanged", || {
            role(primary) == "slave" && role(replica) == "master"
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_to_a_demoted_primary_is_given_up() {
    for failover in [Failover::Command, Failover::ByHand] {
        let (primary, replica) = replicated().await;
        let link = Link::to_redis(primary.address()).unwrap();
        let locks = join(link.port()).await;
        locks.lock("a").acquire().await.unwrap().release().await.unwrap();
        failover.run(&primary, &replica).await;
        // The connections to the old primary stay open.
        link.lead_to(replica.address());
        // Not even a caller that does not wait is told of it: a replica's refusal is no effect.
        let guard = by(ms(1_000), "the new primary", locks.lock("b").try_acquire()).await;
        let guard = guard.unwrap_or_else(|error| panic!("{failover:?}: {error}"));
        guard.expect("free").release().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_leads_to_a_replica_for_a_moment_ends_no_wait() {
    let (primary, replica) = replicated().await;
    let link = Link::to_redis(primary.address()).unwrap();
    let locks = join(link.port()).await;
    link.lead_to(replica.address());
    link.reset().unwrap();
    let waiting: Vec<_> =
        (0..4).map(|n| tokio::spawn(locks.lock(format!("{n}")).acquire())).collect();
    tokio::time::sleep(ms(2_000)).await;
    assert!(waiting.iter().all(|waiter| !waiter.is_finished()), "granted or ended at a replica");
    // The connection to the replica is not closed.
    link.lead_to(primary.address());
    let moved = Instant::now();
    for waiter in waiting {
        let guard = by(FOUND, "a grant by the primary", waiter).await.unwrap();
        guard.expect("a grant").release().await.unwrap();
    }
    let took = moved.elapsed();
    report(&format!("redis: all waiters granted {took:?} after the address led to the primary"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wake_ups_come_from_the_new_primary_although_the_old_one_lives_on_alone() {
    let (primary, replica) = replicated().await;
    let link = Link::to_redis(primary.address()).unwrap();
    let locks = join(link.port()).await;
    let other = join(link.port()).await;
    let lock = locks.lock("a").ttl(ms(20_000));
    let first = other.lock("a").ttl(ms(20_000)).acquire().await.unwrap();
    let waiting = tokio::spawn(lock.acquire());
    queued(&lock, 1).await;
    Failover::Command.run(&primary, &replica).await;
    // It stays a replica, but hears nothing of the new primary.
    primary.cli(&["REPLICAOF", "127.0.0.1", "1"]).unwrap();
    link.lead_to(replica.address());
    // Beyond a heartbeat of the waiter: it has found the new primary.
    tokio::time::sleep(FOUND).await;
    queued(&lock, 1).await;
    let began = timing::start();
    first.release().await.unwrap();
    by(ms(2_000), "a grant", waiting).await.unwrap().unwrap().release().await.unwrap();
    // The heartbeat comes once a second.
    for round in 0..4 {
        let held = other.lock("a").ttl(ms(20_000)).acquire().await.unwrap();
        let waiting = tokio::spawn(lock.acquire());
        queued(&lock, 1).await;
        tokio::time::sleep(ms(100)).await;
        let released = Instant::now();
        held.release().await.unwrap();
        by(ms(2_000), "a grant", waiting).await.unwrap().unwrap().release().await.unwrap();
        let took = released.elapsed();
        testbed::in_time!(began, took < ms(500), "round {round}: woken after {took:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_is_behind_ends_no_grant_and_acknowledges_nothing() {
    let primary = RedisServer::builder().line("repl-diskless-sync-delay 0").start().unwrap();
    let between = Link::to_redis(primary.address()).unwrap();
    let replica = replica_at(between.address()).await;
    let ours = Party::new(&primary).await;
    between.fault(Way::ToClient, Fault::Blackhole);
    let [renewed, released, withdrawn, revoked, tried] =
        ["renewed", "released", "withdrawn", "revoked", "tried"].map(|name| request(name, TTL));
    let grant = async |request| ours.provider.acquire(request).await.unwrap();
    let (renewal, release) = (grant(&renewed).await, grant(&released).await);
    let (_withdrawn, revocation) = (grant(&withdrawn).await, grant(&revoked).await);
    let operator = ours.provider.operator().unwrap();
    // The replica holds this name for another client, who has released it at the primary since.
    replica.cli(&["CONFIG", "SET", "replica-read-only", "no"]).unwrap();
    replica.cli(&["SET", "tried", "another"]).unwrap();
    replica.cli(&["CONFIG", "SET", "replica-read-only", "yes"]).unwrap();
    ours.link.lead_to(replica.address());
    ours.link.reset().unwrap();
    // The first call finds the reset.
    ours.provider.try_acquire(&request("none", TTL)).await.map(drop).unwrap_err();
    let said = [
        ("renew", renewal.lease.renew().await.map(drop)),
        ("release", release.lease.release().await),
        ("withdraw", ours.provider.withdraw(&withdrawn).await),
        ("revoke", operator.revoke(revoked.name(), revocation.token).await.map(drop)),
        ("try", ours.provider.try_acquire(&tried).await.map(drop)),
    ];
    for (call, said) in said {
        assert!(matches!(said, Err(Error::Unavailable { .. })), "{call}: {said:?}");
    }
    ours.link.lead_to(primary.address());
    ours.link.reset().unwrap();
    renewal.lease.renew().await.expect("it held all the time");
    release.lease.release().await.expect("released at the primary");
    ours.provider.withdraw(&withdrawn).await.expect("withdrawn at the primary");
    assert!(operator.revoke(revoked.name(), revocation.token).await.unwrap());
    for name in ["released", "withdrawn", "revoked", "tried"] {
        assert!(ours.takes(name).await.is_some(), "{name} is still held");
    }
}

/// Tasks that hold and wait in turn until told to stop, and when each was granted.
struct Crowd {
    tasks: JoinSet<Vec<Instant>>,
    ends: Arc<AtomicBool>,
}

const TASKS: usize = 8;

impl Crowd {
    /// Half of the tasks are of each client; all want one name.
    fn start(clients: &[Locks; 2]) -> Self {
        let (ends, inside) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
        let mut tasks = JoinSet::new();
        for n in 0..TASKS {
            let lock = clients[n % 2].lock("shared").ttl(ms(6_000));
            let (ends, inside) = (Arc::clone(&ends), Arc::clone(&inside));
            tasks.spawn(async move {
                let mut grants = Vec::new();
                while !ends.load(Ordering::SeqCst) {
                    let guard = lock.acquire().await.expect("waits through an outage");
                    assert!(!inside.swap(true, Ordering::SeqCst), "two hold it");
                    grants.push(Instant::now());
                    tokio::time::sleep(ms(5)).await;
                    assert!(inside.swap(false, Ordering::SeqCst));
                    testbed::held!(guard);
                    // What is not answered is cleaned up behind it.
                    drop(guard.release().await);
                }
                grants
            });
        }
        Self { tasks, ends }
    }

    /// The grants of each task.
    async fn grants(self) -> Vec<Vec<Instant>> {
        self.ends.store(true, Ordering::SeqCst);
        by(ms(10_000), "the end of the tasks", self.tasks.join_all()).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_planned_failover_costs_no_task_more_than_a_short_wait() {
    for failover in [Failover::Command, Failover::ByHand] {
        let (primary, replica) = replicated().await;
        let link = Link::to_redis(primary.address()).unwrap();
        let clients = [join(link.port()).await, join(link.port()).await];
        let kept = clients[0].lock("kept").ttl(ms(6_000)).acquire().await.unwrap();
        let crowd = Crowd::start(&clients);
        tokio::time::sleep(ms(1_500)).await;
        let began = timing::start();
        let started = Instant::now();
        failover.run(&primary, &replica).await;
        link.lead_to(replica.address());
        let moved = started.elapsed();
        tokio::time::sleep(ms(5_000)).await;
        testbed::held!(kept, "{failover:?}");
        let grants = crowd.grants().await;
        for grants in &grants {
            let last = grants.last().expect("granted");
            let goes_on = *last > started + moved;
            testbed::in_time!(began, goes_on, "{failover:?}: a task was never granted again");
        }
        let mut all: Vec<_> = grants.into_iter().flatten().collect();
        all.sort_unstable();
        let longest = all.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        report(&format!(
            "redis: planned failover ({failover:?}): the address moved after {moved:?}, \
             {longest:?} without a grant, {} grants in all",
            all.len()
        ));
        testbed::in_time!(began, longest < moved + FOUND, "{failover:?}: {longest:?}");
        kept.release().await.expect("it was held all the time");
    }
}
