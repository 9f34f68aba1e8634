//! Minutes of faults on three members, under many holders and waiters.
//!
//! A restore from a backup is no part of the script: tokens do not grow through it, as declared, and
//! living clients do not change their `token_base`. See `restore` for what holds then.

use std::sync::Arc;
use std::thread::sleep;
use std::time::Duration;

use crate::common::cluster::ALONE;
use crate::common::ms;
use etcd_client::{Client, GetOptions, KeyValue};
use lockkit_core::{Locks, async_trait};
use lockkit_etcd::{EtcdConfig, EtcdGrant, EtcdProvider};
use testbed::soak::{self, Held, Holders};
use testbed::{Data, EtcdCluster, Link, Way};
use tokio::runtime::Handle;

/// Most holds survive an election, and some do not.
const TTL: Duration = ms(5_000);
const MARK: &str = "lockkit/%/cluster";
/// As in the table of `beliefs`: a push, and a busy machine.
const TOLD: Duration = ms(500);

#[derive(Clone, Copy, Debug)]
enum Who {
    Leader,
    Follower,
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Kill(Who),
    PauseForHalfATtl(Who),
    PauseForTwoTtls(Who),
    /// The clients' connections to it stand still for a ttl.
    Silence(Who),
    /// The clients' connections to it are reset, and it accepts none for half a ttl.
    Refuse(Who),
    RestartAllAtOnce,
    RevokeALease,
    DeleteAHoldersKey,
    DeleteAWaitersKey,
    Compact,
}

const SCRIPT: [Fault; 15] = [
    Fault::Kill(Who::Follower),
    Fault::RevokeALease,
    Fault::PauseForHalfATtl(Who::Leader),
    Fault::DeleteAHoldersKey,
    Fault::Silence(Who::Leader),
    Fault::Compact,
    Fault::Kill(Who::Leader),
    Fault::DeleteAWaitersKey,
    Fault::PauseForTwoTtls(Who::Follower),
    Fault::Refuse(Who::Leader),
    Fault::RestartAllAtOnce,
    Fault::Silence(Who::Follower),
    Fault::PauseForHalfATtl(Who::Follower),
    Fault::Refuse(Who::Follower),
    Fault::PauseForTwoTtls(Who::Leader),
];

struct Three {
    cluster: EtcdCluster,
    /// What the clients' connections to each member go over.
    links: Vec<Link>,
}

impl Three {
    fn start() -> Self {
        let cluster = EtcdCluster::start(3).unwrap();
        let links = cluster.addresses().into_iter().map(|member| Link::to(member).unwrap());
        Self { links: links.collect(), cluster }
    }

    fn member(&self, who: Who) -> usize {
        match who {
            Who::Leader => self.cluster.leader(),
            Who::Follower => self.cluster.follower(),
        }
        .unwrap()
    }

    fn kill(&self, who: Who) {
        let member = self.member(who);
        self.cluster.member(member).kill().unwrap();
        // The others have a leader again before it comes back.
        sleep(TTL / 2);
        self.cluster.member(member).restart(Data::Kept).unwrap();
    }

    fn pause(&self, who: Who, time: Duration) {
        let member = self.cluster.member(self.member(who));
        member.pause().unwrap();
        sleep(time);
        member.resume().unwrap();
    }

    /// Past every link.
    fn driver(&self) -> Client {
        let url = format!("http://{}", self.cluster.member(self.member(Who::Leader)).address());
        Handle::current().block_on(Client::connect([url], None)).unwrap()
    }

    /// Whether the key was there.
    fn delete(&self, key: &[u8]) -> bool {
        let client = self.driver();
        let delete = async { client.kv_client().delete(key, None).await };
        Handle::current().block_on(delete).unwrap().deleted() > 0
    }

    fn delete_a_holders_key(&self, holders: &Holders) -> usize {
        loop {
            let held = longest(holders);
            if self.delete(&grant(&held).key) {
                return held.client;
            }
        }
    }

    fn revoke_a_lease(&self, holders: &Holders) -> usize {
        let held = longest(holders);
        let lease = grant(&held).lease;
        let client = self.driver();
        let revoke = async { client.lease_client().revoke(lease).await };
        Handle::current().block_on(revoke).unwrap();
        held.client
    }

    /// It joins the queue again: no grant ends.
    fn delete_a_waiters_key(&self, holders: &Holders) {
        loop {
            let held = longest(holders);
            let name = held.watch.name().as_str().replace('/', "%2F");
            let all = GetOptions::new().with_prefix().with_keys_only();
            let client = self.driver();
            let queue =
                async { client.kv_client().get(format!("lockkit/{name}/"), Some(all)).await };
            let queue = Handle::current().block_on(queue).unwrap();
            let newest = queue.kvs().iter().max_by_key(|kv| kv.create_revision());
            let is_waiter = |kv: &&KeyValue| kv.create_revision() > held.watch.token().as_i64();
            if newest.filter(is_waiter).is_some_and(|kv| self.delete(kv.key())) {
                return;
            }
        }
    }
}

/// What is held for the longest time.
fn longest(holders: &Holders) -> Held {
    holders.now().into_iter().next().unwrap_or_else(|| holders.one())
}

fn grant(held: &Held) -> &EtcdGrant {
    held.watch.native().unwrap()
}

#[async_trait]
impl soak::Fixture for Three {
    type Fault = Fault;

    fn script(&self) -> Vec<Fault> {
        SCRIPT.to_vec()
    }

    fn declared(&self, _: Fault) -> Duration {
        TOLD
    }

    /// A deposed leader revokes leases that were renewed without it, before etcd 3.4.31 and 3.5.13.
    fn may_end_any(&self, fault: Fault) -> bool {
        matches!(fault, Fault::PauseForHalfATtl(Who::Leader) | Fault::PauseForTwoTtls(Who::Leader))
    }

    fn ttl(&self) -> Duration {
        TTL
    }

    async fn connect(&self, number: usize) -> lockkit_core::Result<Locks> {
        let mut members: Vec<_> =
            self.links.iter().map(|link| ("127.0.0.1", link.port())).collect();
        // Two clients at each member at first.
        members.rotate_left(number % 3);
        Ok(Locks::new(EtcdProvider::connect(EtcdConfig::new(members)).await?))
    }

    fn happens(&self, fault: Fault, holders: &Holders) -> Option<usize> {
        let mut ended = None;
        match fault {
            Fault::Kill(who) => self.kill(who),
            Fault::PauseForHalfATtl(who) => self.pause(who, TTL / 2),
            Fault::PauseForTwoTtls(who) => self.pause(who, TTL * 2),
            Fault::Silence(who) => {
                let link = &self.links[self.member(who)];
                link.fault(Way::Both, testbed::Fault::Hold);
                sleep(TTL);
                link.pass().unwrap();
            }
            Fault::Refuse(who) => {
                let link = &self.links[self.member(who)];
                link.refuse().unwrap();
                link.reset().unwrap();
                sleep(TTL / 2);
                link.pass().unwrap();
            }
            Fault::RestartAllAtOnce => self.cluster.restart(Data::Kept).unwrap(),
            Fault::RevokeALease => ended = Some(self.revoke_a_lease(holders)),
            Fault::DeleteAHoldersKey => ended = Some(self.delete_a_holders_key(holders)),
            Fault::DeleteAWaitersKey => self.delete_a_waiters_key(holders),
            Fault::Compact => drop(self.cluster.compact().unwrap()),
        }
        self.cluster.settled().unwrap();
        ended
    }

    async fn left(&self) -> Vec<String> {
        let keys = self.cluster.cli(0, &["get", "--prefix", "--keys-only", ""]).unwrap();
        let keys = keys.lines().filter(|key| !key.is_empty() && *key != MARK);
        keys.map(str::to_owned).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "15 minutes; `cargo xtask soak` runs it"]
async fn three_members_under_a_script_of_faults_keep_what_is_promised() {
    let _alone = ALONE.lock().await;
    soak::run(Arc::new(Three::start())).await;
}
