//! A rolling restart: each member in turn, while clients hold and wait.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::{by, locks_at, ms, three};
use lockkit_core::{Error, Lock};
use testbed::{Data, ZkEnsemble};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

const TASKS: usize = 8;
const NAMES: usize = 4;
const TTL: Duration = ms(10_000);
/// How long a member stays away.
const AWAY: Duration = ms(1_000);
/// How long a client may take to come back on a busy machine.
const BACK: Duration = ms(40_000);

/// What a task does until it is told to stop: it holds, and waits while the other one of its name holds.
struct Task {
    number: usize,
    lock: Lock,
    stop: Arc<AtomicBool>,
    /// The greatest token of the name so far.
    last: Arc<AtomicU64>,
    granted: mpsc::UnboundedSender<(usize, Instant)>,
}

impl Task {
    /// How many holds were lost, and how many releases had no answer.
    async fn run(self) -> [usize; 2] {
        let mut failed = [0; 2];
        while !self.stop.load(Ordering::SeqCst) {
            let guard = self.lock.acquire().await.expect("a waiter waits through a restart");
            let token = guard.token().as_u64();
            let before = self.last.fetch_max(token, Ordering::SeqCst);
            assert!(token > before, "{token} after {before}");
            self.granted.send((self.number, Instant::now())).unwrap();
            tokio::time::sleep(ms(50)).await;
            match guard.release().await {
                Ok(()) => {}
                Err(Error::Lost { .. }) => failed[0] += 1,
                Err(Error::Unavailable { .. }) => failed[1] += 1,
                Err(error) => panic!("{error}"),
            }
        }
        failed
    }
}

/// Restarts a member, and waits until all follow a leader.
async fn restarted(ensemble: &Arc<ZkEnsemble>, member: usize) {
    let ensemble = Arc::clone(ensemble);
    let restart = move || {
        ensemble.member(member).kill().unwrap();
        std::thread::sleep(AWAY);
        ensemble.member(member).restart(Data::Kept).unwrap();
        ensemble.settled().unwrap();
    };
    tokio::task::spawn_blocking(restart).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_member_restarts_in_turn_and_no_client_needs_to() {
    let ensemble = Arc::new(three());
    let (granted, mut grants) = mpsc::unbounded_channel();
    let stop = Arc::new(AtomicBool::new(false));
    let last: Vec<_> = (0..NAMES).map(|_| Arc::<AtomicU64>::default()).collect();
    let mut tasks = JoinSet::new();
    for number in 0..TASKS {
        let locks = locks_at(&ensemble.addresses()).await;
        let lock = locks.lock(format!("a{}", number % NAMES)).ttl(TTL);
        let (stop, last) = (Arc::clone(&stop), Arc::clone(&last[number % NAMES]));
        let granted = granted.clone();
        tasks.spawn(async move {
            let failed = Task { number, lock, stop, last, granted }.run().await;
            locks.close(ms(5_000)).await.unwrap();
            failed
        });
    }
    for member in 0..ensemble.addresses().len() {
        let role = if ensemble.leader().unwrap() == member { "the leader" } else { "a follower" };
        while grants.try_recv().is_ok() {}
        let began = Instant::now();
        restarted(&ensemble, member).await;
        let took = began.elapsed();
        // Every client goes on afterwards.
        let (mut before, mut longest, mut all) = (began, Duration::ZERO, [false; TASKS]);
        let mut of_one = [began; TASKS];
        let mut longest_of_one = Duration::ZERO;
        by(BACK, "every task's next grant", async {
            while all.contains(&false) {
                let (number, at) = grants.recv().await.unwrap();
                longest = longest.max(at.saturating_duration_since(before));
                longest_of_one = longest_of_one.max(at.saturating_duration_since(of_one[number]));
                (before, of_one[number]) = (at, at);
                all[number] |= at > began + took;
            }
        })
        .await;
        println!(
            "{role} restarted in {took:?}: {longest:?} without a grant, {longest_of_one:?} for one task"
        );
    }
    stop.store(true, Ordering::SeqCst);
    let (mut lost, mut unanswered) = (0, 0);
    while let Some(task) = by(BACK, "the end of a task", tasks.join_next()).await {
        let failed = task.unwrap();
        lost += failed[0];
        unanswered += failed[1];
    }
    println!("{lost} holds lost, {unanswered} releases without an answer");
}
