//! Each member of a cluster is restarted in its turn, as for an upgrade, while tasks hold and wait.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::cluster::{ALONE, at};
use crate::common::{by, ms};
use lockkit_core::{Fenced, FencingToken, Locks};
use testbed::{Data, EtcdCluster, Server};

const TASKS: usize = 8;
/// What is left of it outlasts an election.
const TTL: Duration = ms(15_000);
const HOLD: Duration = ms(20);
/// A call of 1.8 s, an election of two rounds of 2 s, and a busy machine.
const FAIL_OVER: Duration = ms(8_000);

/// A name that tasks take in turn, and when each was granted.
struct Name {
    name: &'static str,
    is_held: AtomicBool,
    resource: Fenced<FencingToken>,
    grants: Mutex<Vec<Instant>>,
    lost: AtomicU64,
}

impl Name {
    fn new(name: &'static str) -> Arc<Self> {
        Arc::new(Self {
            name,
            is_held: AtomicBool::new(false),
            resource: Fenced::new(FencingToken::MIN),
            grants: Mutex::default(),
            lost: AtomicU64::new(0),
        })
    }

    /// Holds and waits until it is over. No acquire may end in an error: that would be a client to restart.
    async fn take_turns(&self, locks: Locks, over: Arc<AtomicBool>) {
        let lock = locks.lock(self.name).ttl(TTL);
        while !over.load(Ordering::SeqCst) {
            let guard = lock.acquire().await.unwrap();
            assert!(!self.is_held.swap(true, Ordering::SeqCst), "two holders of {}", self.name);
            self.grants.lock().unwrap().push(Instant::now());
            self.resource.access(guard.token(), |newest| *newest = guard.token()).unwrap();
            tokio::time::sleep(HOLD).await;
            if !guard.is_held() {
                self.lost.fetch_add(1, Ordering::SeqCst);
            }
            self.is_held.store(false, Ordering::SeqCst);
            // Without an answer the clean-up goes on by itself.
            drop(guard.release().await);
        }
    }

    /// The longest time without a grant since then.
    fn longest_gap(&self, since: Instant) -> Duration {
        let grants = self.grants.lock().unwrap();
        let (mut last, mut longest) = (since, Duration::ZERO);
        for grant in grants.iter().copied().filter(|grant| *grant > since).chain([Instant::now()]) {
            (last, longest) = (grant, longest.max(grant - last));
        }
        longest
    }

    fn granted(&self) -> usize {
        self.grants.lock().unwrap().len()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_is_restarted_in_turn_while_eight_tasks_hold_and_wait_and_no_client_is() {
    in_turn(|member| member.stop().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_is_killed_and_restarted_in_turn_and_no_client_is() {
    in_turn(|member| member.kill().unwrap()).await;
}

async fn in_turn(end: impl Fn(&Server)) {
    let _alone = ALONE.lock().await;
    let cluster = Arc::new(EtcdCluster::start(3).unwrap());
    let names = [Name::new("a"), Name::new("b")];
    let over = Arc::<AtomicBool>::default();
    let mut tasks = Vec::new();
    for number in 0..TASKS {
        // A client of its own, whose first member is any of the three.
        let locks = at(&cluster, number % 3).await;
        let (name, over) = (Arc::clone(&names[number % names.len()]), Arc::clone(&over));
        tasks.push(tokio::spawn(async move { name.take_turns(locks, over).await }));
    }
    let all = at(&cluster, 0).await;
    let long = by(FAIL_OVER, "a name", all.lock("long").ttl(TTL).acquire()).await.unwrap();
    let lasts = |what: &str, began: Instant| {
        let gaps = names.each_ref().map(|name| name.longest_gap(began));
        println!("{what}: without a grant for {gaps:?}");
        assert!(gaps.iter().all(|gap| *gap < FAIL_OVER), "{what}: {gaps:?}");
    };
    for member in 0..3 {
        let is_leader = cluster.leader().unwrap() == member;
        let what = format!("member {member}{}", if is_leader { ", the leader" } else { "" });
        let began = Instant::now();
        end(cluster.member(member));
        tokio::time::sleep(ms(3_000)).await;
        let restarted = Arc::clone(&cluster);
        let restarted = tokio::task::spawn_blocking(move || {
            restarted.member(member).restart(Data::Kept).unwrap();
            restarted.settled().unwrap();
        });
        restarted.await.unwrap();
        tokio::time::sleep(ms(2_000)).await;
        lasts(&what, began);
        testbed::held!(long, "{what}");
        assert!(tasks.iter().all(|task| !task.is_finished()), "{what}: a client gave up");
        let before = names.each_ref().map(|name| name.granted());
        tokio::time::sleep(ms(1_000)).await;
        let after = names.each_ref().map(|name| name.granted());
        assert!(before.iter().zip(after).all(|(before, after)| *before < after), "{what}");
    }
    over.store(true, Ordering::SeqCst);
    for task in tasks {
        by(TTL + FAIL_OVER, "a task's end", task).await.unwrap();
    }
    let lost: u64 = names.iter().map(|name| name.lost.load(Ordering::SeqCst)).sum();
    println!("{:?} grants, {lost} lost", names.each_ref().map(|name| name.granted()));
    assert_eq!(lost, 0);
    long.release().await.unwrap();
}
