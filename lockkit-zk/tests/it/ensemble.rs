//! On an ensemble of three: what it survives, and a follower that is cut off.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::{TICK, by, ms, queued};
use lockkit_core::{Guard, Locks};
use lockkit_zk::{ZkConfig, ZkNode, ZkProvider};
use testbed::{Data, ZkEnsemble, ZkServer};
use zookeeper_client::Client;

/// How long three members on a busy machine may take to elect a leader.
const ELECTION: Duration = ms(20_000);

fn ensemble() -> ZkEnsemble {
    ZkServer::builder().tick(TICK).line("maxClientCnxns=0").start_ensemble(3).unwrap()
}

async fn locks_at(servers: &[SocketAddr]) -> Locks {
    let connect = async {
        loop {
            let config = ZkConfig::new(servers.iter().map(ToString::to_string)).tick(TICK);
            match ZkProvider::connect(config).await {
                Ok(provider) => return Locks::new(provider),
                Err(error) => {
                    assert!(error.is_retryable(), "{error}");
                    tokio::time::sleep(ms(100)).await;
                }
            }
        }
    };
    by(ELECTION, "a connection", connect).await
}

/// The member that the holder's session is connected to.
async fn server_of(ensemble: &ZkEnsemble, guard: &Guard) -> Option<usize> {
    let servers: Vec<_> = ensemble.addresses().iter().map(ToString::to_string).collect();
    let node = guard.native::<ZkNode>().unwrap();
    let look = async {
        let client = Client::connect(&servers.join(",")).await.unwrap();
        client.check_stat(&node.path).await.unwrap().unwrap().ephemeral_owner
    };
    let session = format!("sid={:#x},", by(ELECTION, "a look", look).await);
    let is_there = |member: &usize| {
        // One that is killed or paused does not answer.
        ensemble.ask(*member, "cons").is_ok_and(|known| known.contains(&session))
    };
    (0..ensemble.addresses().len()).find(is_there)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_on_an_isolated_follower_is_lost_before_another_is_granted() {
    const ROUNDS: u32 = 20;
    let ensemble = ensemble();
    // The least: followers answer for five ticks after they are cut off, the session lasts three.
    let ttl = TICK;
    let mut least = Duration::MAX;
    for round in 0..ROUNDS {
        let follower = ensemble.follower().unwrap();
        let leader = ensemble.leader().unwrap();
        let addresses = ensemble.addresses();
        let name = format!("a{round}");
        let holder = locks_at(&[addresses[follower]]).await.lock(&name).ttl(ttl);
        let holder = by(ELECTION, "the grant", holder.acquire()).await.unwrap();
        let next = locks_at(&[addresses[leader]]).await.lock(&name).ttl(ttl);
        let waiting = tokio::spawn({
            let next = next.acquire();
            async move { (next.await.unwrap(), Instant::now()) }
        });
        queued(&next, 1).await;
        let watch = holder.watch();
        let lost = tokio::spawn(async move {
            watch.lost().await;
            Instant::now()
        });
        ensemble.isolate(follower);
        let (next, granted) = by(ELECTION, "the next grant", waiting).await.unwrap();
        assert!(!holder.is_held(), "two believe at once in round {round}");
        let lost = lost.await.unwrap();
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
    let ensemble = ensemble();
    let addresses = ensemble.addresses();
    let mut last = None;
    for (takes_leader, pauses) in [(false, false), (false, true), (true, false), (true, true)] {
        let leader = ensemble.leader().unwrap();
        // One whose session is at the member that goes: the driver draws where it connects.
        let (lock, guard, member) = loop {
            let lock = locks_at(&addresses).await.lock("a").ttl(ms(12_000));
            let guard = by(ELECTION, "the grant", lock.acquire()).await.unwrap();
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
            assert!(guard.is_held(), "lost {:?} after a member had gone", began.elapsed());
            tokio::time::sleep(ms(100)).await;
        }
        assert!(!waiting.is_finished(), "granted beside a holder");
        let moved = server_of(&ensemble, &guard).await.unwrap();
        assert_ne!(moved, member, "the client has not moved");
        let token = guard.token();
        guard.release().await.unwrap();
        let next = by(ELECTION, "the next grant", waiting).await.unwrap().unwrap();
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
    let ensemble = Arc::new(ensemble());
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
        by(ELECTION * 2, "all turns", task).await.unwrap();
    }
    assert_eq!(last.lock().unwrap().1, TASKS * ROUNDS);
}
