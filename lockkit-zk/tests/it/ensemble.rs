//! On an ensemble of three: what it survives, and a follower that is cut off.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::session::{self, BACK};
use crate::common::succession::{self, Succession};
use crate::common::{TICK, by, locks_at, ms, queued, three};
use lockkit_core::Guard;
use testbed::{Data, ZkEnsemble};

/// The member that the holder's session is connected to.
async fn server_of(ensemble: &ZkEnsemble, guard: &Guard) -> Option<usize> {
    let name = session::name(session::of(&ensemble.addresses(), guard).await);
    let is_there = |member: &usize| {
        // One that is killed or paused does not answer.
        ensemble.ask(*member, "cons").is_ok_and(|known| known.contains(&name))
    };
    (0..ensemble.addresses().len()).find(is_there)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_on_an_isolated_follower_is_lost_before_another_is_granted() {
    const ROUNDS: u32 = 20;
    let ensemble = three();
    // The least: followers answer for five ticks after they are cut off, the session lasts three.
    let ttl = TICK;
    let mut least = Duration::MAX;
    for round in 0..ROUNDS {
        let follower = ensemble.follower().unwrap();
        let leader = ensemble.leader().unwrap();
        let addresses = ensemble.addresses();
        let name = format!("a{round}");
        let holder = locks_at(&[addresses[follower]]).await.lock(&name).ttl(ttl);
        let holder = by(BACK, "the grant", holder.acquire()).await.unwrap();
        let next = locks_at(&[addresses[leader]]).await.lock(&name).ttl(ttl);
        let Succession { next: waiting, lost } = succession::after(&holder, &next).await;
        ensemble.isolate(follower);
        let (next, granted) = by(BACK, "the next grant", waiting).await.unwrap();
        assert!(!holder.is_held(), "two believe at once in round {round}");
        let (_, lost) = lost.await.unwrap();
        assert!(lost < granted, "lost {:?} after the next grant", lost - granted);
        least = least.min(granted - lost);
        assert!(next.token() > holder.token());
        next.release().await.unwrap();
        drop(holder);
        ensemble.heal().unwrap();
        ensemble.settled().unwrap();
    }
    println!("lost before the next grant {ROUNDS} times of {ROUNDS}, by {least:?} at the least");
}

#[tokio::test(flavor = "multi_thread")]
async fn held_locks_live_on_when_a_member_is_killed_or_paused() {
    let ensemble = three();
    let addresses = ensemble.addresses();
    let mut last = None;
    for (takes_leader, pauses) in [(false, false), (false, true), (true, false), (true, true)] {
        let leader = ensemble.leader().unwrap();
        // One whose session is at the member that goes: the driver draws where it connects.
        let (lock, guard, member) = loop {
            let lock = locks_at(&addresses).await.lock("a").ttl(ms(12_000));
            let guard = by(BACK, "the grant", lock.acquire()).await.unwrap();
            let member = server_of(&ensemble, &guard).await.unwrap();
            if (member == leader) == takes_leader {
                break (lock, guard, member);
            }
            guard.release().await.unwrap();
        };
        assert!(Some(guard.token()) > last);
        let waiting = tokio::spawn(lock.acquire());
        queued(&lock, 1).await;
        let server = ensemble.member(member);
        if pauses {
            server.pause().unwrap();
        } else {
            server.kill().unwrap();
        }
        let began = Instant::now();
        if takes_leader {
            ensemble.leader_other_than(member).unwrap();
        }
        // For longer than a term: it was renewed through the others.
        while began.elapsed() < ms(14_000) {
            testbed::held!(guard, "lost {:?} after a member had gone", began.elapsed());
            tokio::time::sleep(ms(100)).await;
        }
        assert!(!waiting.is_finished(), "granted beside a holder");
        let moved = server_of(&ensemble, &guard).await.unwrap();
        assert_ne!(moved, member, "the client has not moved");
        let token = guard.token();
        guard.release().await.unwrap();
        let next = by(BACK, "the next grant", waiting).await.unwrap().unwrap();
        assert!(next.token() > token);
        last = Some(next.token());
        next.release().await.unwrap();
        if pauses {
            server.resume().unwrap();
        } else {
            server.restart(Data::Kept).unwrap();
        }
        ensemble.settled().unwrap();
        println!("leader {takes_leader}, paused {pauses}: held on, from {member} to {moved}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_on_three_members_take_turns_and_their_tokens_grow() {
    const TASKS: usize = 6;
    const ROUNDS: usize = 8;
    let ensemble = Arc::new(three());
    let mut tasks = Vec::new();
    let last = Arc::new(std::sync::Mutex::new((None, 0)));
    for task in 0..TASKS {
        let address = ensemble.addresses()[task % 3];
        let last = Arc::clone(&last);
        tasks.push(tokio::spawn(async move {
            let lock = locks_at(&[address]).await.lock("a");
            for _ in 0..ROUNDS {
                let guard = lock.acquire().await.unwrap();
                {
                    let mut last = last.try_lock().expect("two held at once");
                    assert!(Some(guard.token()) > last.0);
                    *last = (Some(guard.token()), last.1 + 1);
                    std::thread::sleep(ms(2));
                }
                guard.release().await.unwrap();
            }
        }));
    }
    for task in tasks {
        by(BACK * 2, "all turns", task).await.unwrap();
    }
    assert_eq!(last.lock().unwrap().1, TASKS * ROUNDS);
}
