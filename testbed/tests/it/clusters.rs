//! Clusters of real servers: a leader, another one after its end, and members that are cut off.

use crate::common::zk::Zk;
use crate::common::{LONG, Tested, ends};
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};
use testbed::children::{self, Child};
use testbed::{Data, EtcdCluster, EtcdServer, ZkEnsemble, ZkServer, in_time, timing};

/// For a start with an election.
const ELECTED: Duration = Duration::from_secs(40);

/// A write, which takes a majority.
fn put(cluster: &EtcdCluster, member: usize, key: &str) -> testbed::Result<String> {
    cluster.cli(member, &["--command-timeout=10s", "put", key, "1"])
}

/// Whether the member has no majority, or does not run.
fn refuses(cluster: &EtcdCluster, member: usize) -> bool {
    cluster.cli(member, &["--command-timeout=1s", "put", "refused", "1"]).is_err()
}

/// What the member has itself; empty where it has no such key.
fn own(cluster: &EtcdCluster, member: usize, key: &str) -> testbed::Result<String> {
    let value = cluster.cli(member, &["get", "--consistency=s", "--print-value-only", key])?;
    Ok(value.trim_end().to_owned())
}

#[test]
fn an_etcd_cluster_has_another_leader_after_the_first_is_killed_or_paused() -> Tested {
    let cluster = EtcdCluster::start(3)?;
    let first = cluster.leader()?;
    assert_ne!(cluster.follower()?, first);
    put(&cluster, cluster.follower()?, "a")?;
    cluster.member(first).kill()?;
    let second = cluster.leader_other_than(first)?;
    assert!(refuses(&cluster, first));
    put(&cluster, second, "b")?;
    cluster.member(first).restart(Data::Kept)?;
    cluster.settled()?;
    assert_eq!(own(&cluster, first, "b")?, "1");
    cluster.member(second).pause()?;
    let third = cluster.leader_other_than(second)?;
    put(&cluster, third, "c")?;
    cluster.member(second).resume()?;
    cluster.settled()?;
    assert_ne!(cluster.leader()?, second);
    Ok(())
}

#[test]
fn a_restored_etcd_cluster_has_the_data_of_the_backup_at_every_member_and_goes_on() -> Tested {
    let cluster = EtcdCluster::start(3)?;
    put(&cluster, 0, "before")?;
    let (snapshot, before) = (cluster.snapshot(cluster.leader()?)?, cluster.revision()?);
    put(&cluster, 0, "after")?;
    let addresses = cluster.addresses();
    cluster.restore(&snapshot)?;
    assert_eq!(cluster.addresses(), addresses);
    assert_eq!(cluster.revision()?, before);
    for member in 0..3 {
        assert_eq!(own(&cluster, member, "before")?, "1");
        assert_eq!(own(&cluster, member, "after")?, "");
    }
    let first = cluster.leader()?;
    cluster.member(first).kill()?;
    put(&cluster, cluster.leader_other_than(first)?, "later")?;
    Ok(())
}

#[test]
fn an_isolated_member_of_etcd_answers_its_clients_and_learns_nothing() -> Tested {
    let cluster = EtcdCluster::start(3)?;
    let follower = cluster.follower()?;
    put(&cluster, follower, "a")?;
    cluster.isolate(follower);
    assert!(refuses(&cluster, follower));
    put(&cluster, cluster.leader()?, "c")?;
    assert_eq!(own(&cluster, follower, "a")?, "1");
    assert_eq!(own(&cluster, follower, "c")?, "");
    cluster.heal()?;
    cluster.settled()?;
    put(&cluster, follower, "d")?;
    assert_eq!(own(&cluster, follower, "c")?, "1");
    Ok(())
}

#[test]
fn an_isolated_leader_of_etcd_is_replaced_and_follows_after_healing() -> Tested {
    let cluster = EtcdCluster::start(3)?;
    let former = cluster.leader()?;
    cluster.isolate(former);
    let leader = cluster.leader_other_than(former)?;
    put(&cluster, leader, "a")?;
    assert!(refuses(&cluster, former));
    cluster.heal()?;
    cluster.settled()?;
    assert_eq!(own(&cluster, former, "a")?, "1");
    Ok(())
}

#[test]
fn a_whole_etcd_cluster_comes_back_with_its_data_or_without() -> Tested {
    let cluster = EtcdServer::builder().user("app", "secret", "lock/").start_cluster(3)?;
    put(&cluster, 0, "a")?;
    let revision = cluster.revision()?;
    assert_eq!(cluster.compact()?, revision);
    let pids: Vec<_> = cluster.members().iter().filter_map(testbed::Server::pid).collect();
    // Alone, a member listens and waits for the others.
    cluster.kill()?;
    cluster.member(0).restart(Data::Kept)?;
    cluster.member(1).restart(Data::Kept)?;
    assert!(cluster.leader()? < 2);
    cluster.restart(Data::Kept)?;
    for pid in pids {
        assert!(ends(pid)?);
    }
    assert_eq!(cluster.cli(1, &["get", "--print-value-only", "a"])?, "1\n");
    cluster.pause()?;
    cluster.resume()?;
    cluster.settled()?;
    cluster.restart(Data::Lost)?;
    assert_eq!(cluster.revision()?, 1);
    Ok(())
}

/// A client of a member; a session takes a majority.
fn client(ensemble: &ZkEnsemble, member: usize, within: Duration) -> std::io::Result<Zk> {
    Zk::connect(ensemble.member(member).address(), within)
}

#[test]
fn an_ensemble_has_another_leader_after_the_first_is_killed_or_paused() -> Tested {
    let ensemble = ZkEnsemble::start(3)?;
    let first = ensemble.leader()?;
    assert!(ensemble.ask(first, "srvr")?.contains("Mode: leader"));
    assert!(ensemble.ask(ensemble.follower()?, "srvr")?.contains("Mode: follower"));
    client(&ensemble, ensemble.follower()?, LONG)?.create("/a")?;
    ensemble.member(first).kill()?;
    let second = ensemble.leader_other_than(first)?;
    client(&ensemble, second, LONG)?.create("/b")?;
    ensemble.member(first).restart(Data::Kept)?;
    ensemble.settled()?;
    assert!(client(&ensemble, first, LONG)?.exists("/b")?);
    ensemble.member(second).pause()?;
    let third = ensemble.leader_other_than(second)?;
    client(&ensemble, third, LONG)?.create("/c")?;
    ensemble.member(second).resume()?;
    ensemble.settled()?;
    assert!(client(&ensemble, second, LONG)?.exists("/c")?);
    Ok(())
}

#[test]
fn an_ensemble_has_settled_only_once_its_leader_has_a_paused_follower_back() -> Tested {
    let ensemble = ZkEnsemble::start(3)?;
    let leader = ensemble.leader()?;
    let has = |followers: usize| -> testbed::Result<bool> {
        let known = ensemble.ask(leader, "mntr")?;
        let synced = known.lines().find_map(|line| line.strip_prefix("zk_synced_followers"));
        Ok(synced.is_some_and(|synced| synced.trim() == followers.to_string()))
    };
    let follower = ensemble.member(ensemble.follower()?);
    follower.pause()?;
    let began = timing::start();
    while !has(1)? {
        in_time!(began, began.elapsed() < ELECTED, "the leader goes on without it");
        sleep(Duration::from_millis(50));
    }
    follower.resume()?;
    ensemble.settled()?;
    assert!(has(2)?);
    Ok(())
}

#[test]
fn an_isolated_follower_answers_its_clients_for_a_while_and_learns_nothing() -> Tested {
    // For five ticks: longer than this test may stand still.
    let ensemble = ZkServer::builder().tick(Duration::from_secs(1)).start_ensemble(3)?;
    let follower = ensemble.follower()?;
    let mut reader = client(&ensemble, follower, LONG)?;
    reader.create("/a")?;
    ensemble.isolate(follower);
    client(&ensemble, ensemble.leader()?, LONG)?.create("/b")?;
    assert!(reader.exists("/a")?);
    assert!(!reader.exists("/b")?);
    assert!(reader.create("/c").is_err());
    assert!(client(&ensemble, follower, Duration::from_secs(5)).is_err());
    ensemble.heal()?;
    ensemble.settled()?;
    assert!(client(&ensemble, follower, LONG)?.exists("/b")?);
    Ok(())
}

#[test]
fn an_isolated_leader_of_an_ensemble_is_replaced_and_follows_after_healing() -> Tested {
    let ensemble = ZkEnsemble::start(3)?;
    let former = ensemble.leader()?;
    ensemble.isolate(former);
    let leader = ensemble.leader_other_than(former)?;
    client(&ensemble, leader, LONG)?.create("/a")?;
    assert!(client(&ensemble, former, Duration::from_secs(5)).is_err());
    ensemble.heal()?;
    ensemble.settled()?;
    assert!(client(&ensemble, former, LONG)?.exists("/a")?);
    Ok(())
}

#[test]
fn a_whole_ensemble_comes_back_with_its_data_or_without() -> Tested {
    let ensemble = ZkEnsemble::start(3)?;
    client(&ensemble, 0, LONG)?.create("/a")?;
    ensemble.restart(Data::Kept)?;
    assert!(client(&ensemble, 1, LONG)?.exists("/a")?);
    ensemble.pause()?;
    ensemble.resume()?;
    ensemble.settled()?;
    ensemble.restart(Data::Lost)?;
    assert!(!client(&ensemble, 2, LONG)?.exists("/a")?);
    Ok(())
}

#[test]
fn no_member_outlives_a_test_that_panics_or_is_killed() -> Tested {
    if let Some(role) = children::role() {
        let cluster = EtcdCluster::start(3)?;
        cluster.member(0).pause()?;
        for member in cluster.members() {
            children::say(&member.pid().unwrap_or_default().to_string());
            children::say(&member.place().directory().display().to_string());
        }
        assert_ne!(role, "panics");
        children::wait_for_the_end();
    }
    for role in ["panics", "is killed"] {
        let name = "clusters::no_member_outlives_a_test_that_panics_or_is_killed";
        let child = Child::test(name, role).env("RUST_BACKTRACE", "0").start()?;
        let mut left = Vec::new();
        for _ in 0..3 {
            left.push((
                timing::kept(|| child.line(ELECTED)).parse()?,
                PathBuf::from(timing::kept(|| child.line(LONG))),
            ));
        }
        if role == "is killed" {
            child.kill()?;
        }
        for (pid, directory) in left {
            assert!(ends(pid)?);
            let began = Instant::now();
            while directory.exists() {
                assert!(began.elapsed() < LONG, "{} is left", directory.display());
                sleep(Duration::from_millis(5));
            }
        }
    }
    Ok(())
}
