//! Clusters of three: their clients, and what befalls a member.

use std::time::{Duration, Instant};

use lockkit_core::{Guard, Locks};
use testbed::{Data, EtcdCluster, Server};

use super::{join, ms};

fn ports(cluster: &EtcdCluster) -> Vec<u16> {
    cluster.members().iter().map(Server::port).collect()
}

/// One cluster at a time: an election wants an idle machine.
pub(crate) static ALONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// A client whose current member is this one.
pub(crate) async fn at(cluster: &EtcdCluster, member: usize) -> Locks {
    let mut ports = ports(cluster);
    ports.rotate_left(member);
    join(&ports).await
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Trouble {
    Kill,
    Pause,
    CutOff,
}

impl Trouble {
    /// How long a waiter with a long ttl takes to notice.
    pub(crate) const fn noticed(self) -> Duration {
        match self {
            Self::Kill => ms(0),
            // Asked after 2 s of silence, it has 1 s.
            Self::Pause => ms(3_000),
            // Without a leader for 3 or 4 of its election timeouts, it ends its watches.
            Self::CutOff => ms(6_000),
        }
    }

    pub(crate) fn begin(self, cluster: &EtcdCluster, member: usize) {
        match self {
            Self::Kill => cluster.member(member).kill().unwrap(),
            Self::Pause => cluster.member(member).pause().unwrap(),
            Self::CutOff => cluster.isolate(member),
        }
    }

    pub(crate) fn end(self, cluster: &EtcdCluster, member: usize) {
        self.end_of_all(cluster, &[member]);
    }

    /// Ends it for all these members, and then waits until the cluster has settled.
    pub(crate) fn end_of_all(self, cluster: &EtcdCluster, members: &[usize]) {
        for &member in members {
            match self {
                Self::Kill => cluster.member(member).restart(Data::Kept).unwrap(),
                Self::Pause => cluster.member(member).resume().unwrap(),
                Self::CutOff => cluster.heal().unwrap(),
            }
        }
        cluster.settled().unwrap();
    }
}

/// Completes once `guard` lives on a keep-alive that was sent after `began`.
pub(crate) async fn renewed(guard: &Guard, began: Instant) {
    let ttl = guard.ttl().unwrap();
    // What it takes off a ttl.
    let margin = (ttl / 10).min(ms(2_000));
    loop {
        testbed::held!(guard, "a false loss");
        let left = guard.remaining().unwrap();
        if left + margin + began.elapsed() > ttl {
            return;
        }
        tokio::time::sleep(ms(20)).await;
    }
}
