//! Three members: one of them killed, paused or cut off at any moment, the leader among them, and
//! the majority lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::cluster::{ALONE, Trouble, at, renewed};
use crate::common::{SLACK, by, ms, waiter};
use lockkit_core::{Error, Fenced, Guard, Lock, Locks};
use testbed::{EtcdCluster, in_time, timing};

const TTL: Duration = ms(5_000);
/// What is left of it outlasts an election in which candidates spoil it for each other.
const LONG_TTL: Duration = ms(15_000);
/// A call of 1.8 s, an election of two rounds of 2 s, and a busy machine.
const FAIL_OVER: Duration = ms(8_000);

/// Takes and releases a name without an end, until told; how often.
struct Busy {
    cycles: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    task: tokio::task::JoinHandle<()>,
}

impl Busy {
    fn with(lock: Lock) -> Self {
        let (cycles, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let task = tokio::spawn({
            let (cycles, over) = (Arc::clone(&cycles), Arc::clone(&over));
            async move {
                while !over.load(Ordering::SeqCst) {
                    let guard = lock.acquire().await.unwrap();
                    // Released, or lost while a member was away.
                    drop(guard.release().await);
                    cycles.fetch_add(1, Ordering::SeqCst);
                }
            }
        });
        Self { cycles, over, task }
    }

    /// Completes once it has done some more.
    async fn goes_on(&self) {
        let before = self.cycles.load(Ordering::SeqCst);
        while self.cycles.load(Ordering::SeqCst) < before + 3 {
            tokio::time::sleep(ms(5)).await;
        }
    }

    async fn end(self) {
        self.over.store(true, Ordering::SeqCst);
        by(LONG_TTL + FAIL_OVER, "the end of a busy client", self.task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_killed_paused_or_cut_off_ends_no_hold_and_no_wait_and_acquiring_goes_on() {
    let _alone = ALONE.lock().await;
    let cluster = EtcdCluster::start(3).unwrap();
    // One client at each member: whichever fails is somebody's.
    let mut clients = Vec::new();
    for member in 0..3 {
        clients.push(at(&cluster, member).await);
    }
    let ttl = LONG_TTL;
    for trouble in [Trouble::Kill, Trouble::Pause, Trouble::CutOff] {
        let leader = cluster.leader().unwrap();
        for member in [leader, (leader + 1) % 3] {
            let mut held = Vec::new();
            for (number, locks) in clients.iter().enumerate() {
                let lock = locks.lock(format!("held-{number}")).ttl(ttl);
                let guard = by(ttl + FAIL_OVER, "a free name", lock.acquire()).await.unwrap();
                let next = clients[(number + 1) % 3].lock(format!("held-{number}")).ttl(ttl);
                held.push((guard, waiter(&next, 0).await));
            }
            let busy: Vec<_> =
                clients.iter().map(|locks| Busy::with(locks.lock("busy").ttl(ttl))).collect();
            let began = Instant::now();
            trouble.begin(&cluster, member);
            for busy in &busy {
                let noticed = trouble.noticed().min(ttl / 2);
                by(noticed + FAIL_OVER, "acquiring without a member", busy.goes_on()).await;
            }
            let took = began.elapsed();
            // Not for longer: a leader that stood still while a ttl ran out, as it has seen it
            // renewed, may revoke. That is another test's.
            for (guard, _) in &held {
                by(ttl * 2 / 3, "a renewal without a member", renewed(guard, began)).await;
            }
            let after = began.elapsed();
            println!(
                "{trouble:?} of {member} (leader {leader}): acquired {took:?}, renewed {after:?}"
            );
            trouble.end(&cluster, member);
            for (guard, _) in &held {
                testbed::held!(guard, "a false loss: {held:?}");
            }
            assert!(held.iter().all(|(_, next)| !next.is_finished()), "granted beside a holder");
            for (guard, next) in held {
                let token = guard.token();
                guard.release().await.unwrap();
                let next = by(ttl + FAIL_OVER, "the waiter's grant", next).await.unwrap();
                assert!(next.token() > token);
                next.release().await.unwrap();
            }
            for busy in busy {
                busy.end().await;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiter_whose_member_stands_still_or_is_cut_off_is_granted_soon_whatever_its_ttl() {
    // No keep-alive comes in time to notice.
    const TTL: Duration = ms(60_000);
    let _alone = ALONE.lock().await;
    let cluster = EtcdCluster::start(3).unwrap();
    for trouble in [Trouble::Pause, Trouble::CutOff] {
        let leader = cluster.leader().unwrap();
        let follower = (leader + 1) % 3;
        let (holders, waiters) = (at(&cluster, leader).await, at(&cluster, follower).await);
        let holder = holders.lock("a").ttl(TTL).acquire().await.unwrap();
        let next = waiter(&waiters.lock("a").ttl(TTL), 0).await;
        trouble.begin(&cluster, follower);
        let began = Instant::now();
        holder.release().await.unwrap();
        let guard =
            by(trouble.noticed() + ms(1_000) + SLACK, "the waiter's grant", next).await.unwrap();
        println!("{trouble:?}: the waiter was granted after {:?}", began.elapsed());
        guard.release().await.unwrap();
        trouble.end(&cluster, follower);
    }
}

/// What the store says of the holder of `name`: whether that is this guard.
async fn is_in_the_store(locks: &Locks, guard: &Guard) -> Option<bool> {
    let seen = locks.lock(guard.name().as_str()).inspect().await.ok()?;
    Some(seen.holders.first().and_then(|holder| holder.token) == Some(guard.token()))
}

/// Reads and writes a counter in two steps, each with the token, until it is over.
async fn count_up(
    lock: Lock,
    counter: Arc<Fenced<u64>>,
    written: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
) {
    while !over.load(Ordering::SeqCst) {
        let guard = lock.acquire().await.unwrap();
        let token = guard.token();
        if let Ok(seen) = counter.access(token, |value| *value) {
            tokio::time::sleep(ms(2)).await;
            if counter.access(token, |value| *value = seen + 1).is_ok() {
                written.fetch_add(1, Ordering::SeqCst);
            }
        }
        drop(guard.release().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_comes_back_after_nine_seconds_breaks_no_fenced_write_and_hides_no_loss() {
    const NAMES: usize = 4;
    // Ends, as the old leader has seen it renewed, while that one stands still.
    const TTL: Duration = ms(10_000);
    let _alone = ALONE.lock().await;
    let cluster = EtcdCluster::start(3).unwrap();
    let mut clients = Vec::new();
    for member in 0..3 {
        clients.push(at(&cluster, member).await);
    }
    let mut revoked = 0;
    for round in 0..2 {
        let leader = cluster.leader().unwrap();
        let counter = Arc::new(Fenced::new(0_u64));
        let written = Arc::new(AtomicU64::new(0));
        let over = Arc::new(AtomicBool::new(false));
        let mut writers = Vec::new();
        for locks in &clients {
            let lock = locks.lock(format!("counter-{round}")).ttl(TTL);
            let (counter, written, over) =
                (Arc::clone(&counter), Arc::clone(&written), Arc::clone(&over));
            writers.push(tokio::spawn(count_up(lock, counter, written, over)));
        }
        let mut held = Vec::new();
        for (number, locks) in (0..NAMES).zip(clients.iter().cycle()) {
            let lock = locks.lock(format!("held-{round}-{number}")).ttl(TTL);
            held.push(by(TTL + FAIL_OVER, "a free name", lock.acquire()).await.unwrap());
        }
        tokio::time::sleep(ms(1_500)).await;
        cluster.member(leader).pause().unwrap();
        tokio::time::sleep(ms(9_000)).await;
        for guard in &held {
            testbed::held!(guard, "lost while the leader stood still");
        }
        cluster.member(leader).resume().unwrap();
        // Where the old leader revokes what was renewed without it, the holder is told at once.
        let end = Instant::now() + ms(3_000);
        while Instant::now() < end {
            for (guard, locks) in held.iter().zip(clients.iter().cycle()) {
                if guard.is_held() && is_in_the_store(locks, guard).await == Some(false) {
                    by(ms(1_000), "a holder that the store forgot is told", guard.lost()).await;
                    revoked += 1;
                }
            }
            tokio::time::sleep(ms(50)).await;
        }
        over.store(true, Ordering::SeqCst);
        for writer in writers {
            by(TTL + FAIL_OVER, "a writer's end", writer).await.unwrap();
        }
        let written = written.load(Ordering::SeqCst);
        let counted = counter.access(lockkit_core::FencingToken::MAX, |value| *value).unwrap();
        assert_eq!(counted, written, "a fenced write was lost");
        assert!(written > 0);
        for guard in held {
            drop(guard.release().await);
        }
        cluster.settled().unwrap();
    }
    println!("two pauses of 9 s: {revoked} holders found revoked by the old leader, and told");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_calls_end_holders_are_lost_in_time_and_all_recovers() {
    let _alone = ALONE.lock().await;
    let cluster = EtcdCluster::start(3).unwrap();
    for trouble in [Trouble::Pause, Trouble::Kill] {
        let (locks, other) = (at(&cluster, 0).await, at(&cluster, 1).await);
        let lock = locks.lock("held").ttl(TTL);
        let guard = by(TTL + FAIL_OVER, "a free name", lock.acquire()).await.unwrap();
        let next = waiter(&other.lock("held").ttl(TTL), 0).await;
        let released = locks.lock("released").ttl(TTL).acquire().await.unwrap();
        let closed = at(&cluster, 2).await;
        let ended = closed.lock("ended").ttl(TTL).acquire().await.unwrap();
        let leader = cluster.leader().unwrap();
        let gone = [leader, (leader + 1) % 3];
        let began = timing::start();
        gone.iter().for_each(|member| trouble.begin(&cluster, *member));
        let tried = async { other.lock("x").try_acquire().await.map(drop) };
        let inspected = async { other.lock("held").inspect().await.map(drop) };
        let listed = async { other.list("", None, 10).await.map(drop) };
        let (x, y) = tokio::join!(
            by(ms(2_000) + SLACK, "the end of a try, a look and a list", async {
                tokio::join!(tried, inspected, listed)
            }),
            by(ms(2_000) + SLACK, "the end of a renewal, a release and all", async {
                tokio::join!(guard.renew(), released.release(), closed.close(ms(2_000)))
            }),
        );
        for outcome in [x.0, x.1, x.2, y.0, y.1, y.2] {
            assert!(matches!(outcome, Err(Error::Unavailable { .. })), "{outcome:?}");
        }
        assert!(!ended.is_held(), "held although its client was closed");
        let within =
            by(ms(1_500) + SLACK, "a wait's end", other.lock("x").acquire_within(ms(1_500)));
        let within = within.await;
        assert!(matches!(within, Err(Error::Unavailable { .. })), "{within:?}");
        by(TTL + SLACK, "the holder's loss", guard.lost()).await;
        println!("without a majority: the holder was lost after {:?}", began.elapsed());
        in_time!(began, began.elapsed() < TTL + SLACK);
        assert!(!next.is_finished());
        trouble.end_of_all(&cluster, &gone);
        let healed = Instant::now();
        // The new leader begins the ttl anew.
        let next = by(TTL * 2 + FAIL_OVER, "the waiter's grant", next).await.unwrap();
        println!("healed: the waiter was granted after {:?}", healed.elapsed());
        assert!(!guard.is_held() && next.token() > guard.token());
        next.release().await.unwrap();
        let guard = by(TTL + FAIL_OVER, "a new grant", lock.acquire()).await.unwrap();
        guard.release().await.unwrap();
        for name in ["x", "released", "ended"] {
            let free = by(TTL + FAIL_OVER, "a name of meanwhile", other.lock(name).acquire()).await;
            free.unwrap().release().await.unwrap();
        }
        let seen = other.lock("x").inspect().await.unwrap();
        assert!(seen.holders.is_empty() && seen.waiters == Some(0), "{seen:?}");
    }
}
