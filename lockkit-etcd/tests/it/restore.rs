//! A cluster that is restored from an older backup, under holders and waiters.

use std::sync::Arc;
use std::time::Duration;

use crate::common::cluster::ALONE;
use crate::common::{SLACK, by, client, join, link_to, ms, queued, since, waiter};
use etcd_client::Client;
use lockkit_core::{Fenced, FencingToken, Guard, Locks, LossReason};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::log::Log;
use testbed::{Counts, EtcdCluster, EtcdServer, Fault, Link, Way, timing};
use tokio::task::{JoinHandle, JoinSet};

const TTL: Duration = Duration::from_secs(30);
/// Of a client that is gone: its key comes back for so long.
const SHORT: Duration = ms(3_000);
/// What is held at the time of the backup and of the restore, at that of the backup alone, and by a
/// client that has closed before the restore.
const HELD: [&str; 3] = ["held-0", "held-1", "held-2"];
const FREED: [&str; 3] = ["freed-0", "freed-1", "freed-2"];
const OF_ONE_THAT_IS_GONE: &str = "gone";
/// A restart is found by the watch within half a second, and then read once.
const SOON: Duration = ms(1_500);
/// Far fewer than a client sends that asks again without a pause.
const FEW: u64 = 60;

/// Acquires that are given up while their answers are away: each withdrawal touches a guard.
async fn give_up(locks: &Locks, link: &Link, name: &str) {
    link.fault(Way::ToClient, Fault::Hold);
    let mut given_up = JoinSet::new();
    for _ in 0..10 {
        given_up.spawn(locks.lock(name).ttl(TTL).acquire_within(ms(50)));
    }
    // A leaver waits for its answers for a quarter of a call's limit, and then has what is under way refused.
    tokio::time::sleep(ms(700)).await;
    link.pass().unwrap();
    assert!(given_up.join_all().await.iter().all(Result::is_err));
}

#[tokio::test]
async fn a_restore_from_an_older_backup_ends_holds_and_acquires_work_again_at_once() {
    let log = Log::of_this_thread();
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let (locks, other) = (join(&[link.port()]).await, client(&server).await);
    let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    let freed = locks.lock("freed").ttl(TTL).acquire().await.unwrap();
    let waiting = waiter(&other.lock("held").ttl(TTL), 0).await;
    let snapshot = server.snapshot().unwrap();
    give_up(&locks, &link, "held").await;
    queued(&other.lock("held"), 1).await;
    freed.release().await.unwrap();
    let before = link.counts();
    server.restore(&snapshot).unwrap();

    let reason = by(SOON + SLACK, "the holder is told", held.lost()).await;
    assert_eq!(reason, LossReason::SessionEnded);
    // Its key has come back, on a lease that must not be kept alive.
    let freed = by(SOON + SLACK, "a name that was free", locks.lock("freed").ttl(TTL).acquire());
    freed.await.unwrap().release().await.unwrap();
    let next = by(SOON + SLACK, "the waiter's grant", waiting).await.unwrap();
    assert!(locks.lock("held").ttl(TTL).try_acquire().await.unwrap().is_none());
    next.release().await.unwrap();
    let (calls, ..) = since(&before, &link);
    assert!(calls < FEW, "{calls} calls");

    let text = log.text();
    let told: Vec<_> = text.lines().filter(|line| line.contains("history_went_back")).collect();
    assert_eq!(told.len(), 2, "once for each client: {told:?}");
    assert!(told.iter().all(|line| line.contains("WARN") && line.contains("token_base")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_cluster_whose_revision_has_passed_the_old_one_is_found_by_a_guard() {
    let server = EtcdServer::start().unwrap();
    let link = link_to(server.address());
    let locks = join(&[link.port()]).await;
    let held = locks.lock("held").ttl(TTL).acquire().await.unwrap();
    let snapshot = server.snapshot().unwrap();
    give_up(&locks, &link, "held").await;
    queued(&locks.lock("held"), 0).await;
    let known = server.revision().unwrap();
    link.refuse().unwrap();
    link.reset().unwrap();
    server.restore(&snapshot).unwrap();
    let url = format!("http://{}", server.address());
    let driver = Client::connect([url], None).await.unwrap();
    while server.revision().unwrap() <= known {
        driver.kv_client().put("elsewhere", "", None).await.unwrap();
    }
    let before = link.counts();
    link.pass().unwrap();
    let guard = by(SOON + SLACK, "a grant", locks.lock("b").ttl(TTL).acquire()).await.unwrap();
    by(SLACK, "the holder is told", held.lost()).await;
    let again = by(SLACK, "its name", locks.lock("held").ttl(TTL).acquire()).await.unwrap();
    guard.release().await.unwrap();
    again.release().await.unwrap();
    let (calls, ..) = since(&before, &link);
    assert!(calls < FEW, "{calls} calls");
}

/// Three clients of a cluster, each counted over a link of its own to each member.
struct Crowd {
    clients: Vec<Locks>,
    links: Vec<Vec<Link>>,
    /// A name of each client, with the next client waiting for it.
    held: Vec<Guard>,
    waiting: Vec<JoinHandle<Guard>>,
}

impl Crowd {
    async fn of(cluster: &EtcdCluster) -> Self {
        let mut crowd =
            Self { clients: Vec::new(), links: Vec::new(), held: Vec::new(), waiting: Vec::new() };
        for first in 0..3 {
            let mut links: Vec<_> = cluster.addresses().into_iter().map(link_to).collect();
            links.rotate_left(first);
            let ports: Vec<_> = links.iter().map(Link::port).collect();
            crowd.clients.push(join(&ports).await);
            crowd.links.push(links);
        }
        for (number, name) in HELD.into_iter().enumerate() {
            crowd.held.push(crowd.clients[number].lock(name).ttl(TTL).acquire().await.unwrap());
            let next = crowd.clients[(number + 1) % 3].lock(name).ttl(TTL);
            crowd.waiting.push(waiter(&next, 0).await);
        }
        crowd
    }

    /// Each client holds one of the names that are free.
    async fn hold(&self, names: [&str; 3]) -> Vec<Guard> {
        let mut held = Vec::new();
        for (locks, name) in self.clients.iter().zip(names) {
            held.push(locks.lock(name).ttl(TTL).acquire().await.unwrap());
        }
        held
    }

    /// Each client takes a fenced resource several times; the newest token.
    async fn access(&self, resource: &Fenced<()>) -> FencingToken {
        for number in 0..30 {
            let guard = self.clients[number % 3].lock("fenced").ttl(TTL).acquire().await.unwrap();
            resource.access(guard.token(), |()| ()).unwrap();
            guard.release().await.unwrap();
        }
        resource.newest().unwrap()
    }

    fn counts(&self) -> Vec<Vec<Counts>> {
        self.links.iter().map(|own| own.iter().map(Link::counts).collect()).collect()
    }

    /// How many calls each client began since then.
    fn calls(&self, before: &[Vec<Counts>]) -> Vec<u64> {
        let calls = |(own, before): (&Vec<Link>, &Vec<Counts>)| {
            own.iter().zip(before).map(|(link, before)| since(before, link).0).sum()
        };
        self.links.iter().zip(before).map(calls).collect()
    }
}

/// A client with a base for its tokens, as the remedy says.
async fn with_base(cluster: &EtcdCluster, base: u64) -> Locks {
    let members = cluster.members().iter().map(|member| ("127.0.0.1", member.port()));
    let config = EtcdConfig::new(members).token_base(base);
    Locks::new(EtcdProvider::connect(config).await.unwrap())
}

#[tokio::test]
async fn three_members_restored_from_an_older_backup_end_holds_and_block_no_name() {
    let _alone = ALONE.lock().await;
    let log = Log::of_this_thread();
    let cluster = Arc::new(EtcdCluster::start(3).unwrap());
    let resource = Fenced::new(());
    let mut crowd = Crowd::of(&cluster).await;
    let (freed, gone) = (crowd.hold(FREED).await, with_base(&cluster, 0).await);
    let last = gone.lock(OF_ONE_THAT_IS_GONE).ttl(SHORT).acquire().await.unwrap();
    let snapshot = cluster.snapshot(cluster.follower().unwrap()).unwrap();
    for guard in freed.into_iter().chain([last]) {
        guard.release().await.unwrap();
    }
    gone.close(ms(2_000)).await.unwrap();
    let newest = crowd.access(&resource).await;
    let before = crowd.counts();
    let restored = Arc::clone(&cluster);
    // The clients live on meanwhile.
    let restored = tokio::task::spawn_blocking(move || restored.restore(&snapshot).unwrap());
    restored.await.unwrap();

    let began = timing::start();
    for guard in &crowd.held {
        let reason = by(SOON + SLACK, "a holder is told", guard.lost()).await;
        assert_eq!(reason, LossReason::SessionEnded);
    }
    for (locks, name) in crowd.clients.iter().rev().zip(FREED) {
        let guard = by(SOON + SLACK, name, locks.lock(name).ttl(TTL).acquire()).await.unwrap();
        guard.release().await.unwrap();
    }
    for next in crowd.waiting.drain(..) {
        let next = by(SOON + SLACK, "a waiter's grant", next).await.unwrap();
        next.release().await.unwrap();
    }
    let calls = crowd.calls(&before);
    println!("the last waiter was granted after {:?}; calls: {calls:?}", began.elapsed());
    assert!(calls.iter().all(|calls| *calls < FEW), "{calls:?}");
    // Without the remedy tokens repeat, and the resource refuses them.
    let guard = crowd.clients[0].lock("fenced").ttl(TTL).acquire().await.unwrap();
    assert!(guard.token() < newest && resource.access(guard.token(), |()| ()).is_err());
    guard.release().await.unwrap();
    for locks in crowd.clients {
        locks.close(ms(2_000)).await.unwrap();
    }
    let told = log.text().lines().filter(|line| line.contains("history_went_back")).count();
    assert_eq!(told, 3, "once for each client that lives");
    is_cured(&cluster, &resource, newest).await;
}

/// The remedy: a client with a base above every token so far takes every name, and nothing is left.
async fn is_cured(cluster: &EtcdCluster, resource: &Fenced<()>, newest: FencingToken) {
    let locks = with_base(cluster, newest.as_u64() + 1).await;
    for name in HELD.into_iter().chain(FREED).chain(["fenced", OF_ONE_THAT_IS_GONE]) {
        // No living client knows the key of one that is gone: it ends with its ttl.
        let acquire = locks.lock(name).ttl(TTL).acquire();
        let guard = by(SHORT + SOON + SLACK, name, acquire).await.unwrap();
        assert!(guard.token() > newest, "{name}: {} after {newest}", guard.token());
        // It refuses what is not newer than all that it has seen.
        resource.access(guard.token(), |()| ()).unwrap();
        guard.release().await.unwrap();
    }
    locks.close(ms(2_000)).await.unwrap();
    let left = cluster.cli(0, &["get", "--prefix", "--keys-only", ""]).unwrap();
    assert_eq!(left.trim(), "lockkit/%/cluster", "the backup left more");
}
