//! Locks on a real ZooKeeper: lockkit, floors of its recipe, and the driver's own lock.

#![allow(clippy::unwrap_used)]

#[path = "zk/ways.rs"]
mod ways;

use std::time::Duration;

use lockkit_bench::{Goals, Plan, Way, run};
use ways::{Kind, ZooKeeper};

fn main() {
    let plan = Plan {
        store: "zookeeper",
        ours: Way::new("lockkit", Kind::Lockkit),
        hand: None,
        floor: Way::new("create, list, delete", Kind::Queue),
        fair: Some(Way::new("sequential nodes", Kind::Queue)),
        variants: Vec::new(),
        peers: vec![Way::new("zookeeper-client lock()", Kind::Driver)],
        goals: Goals {
            alone: "<= 1.1",
            hand: "",
            hand_off: [">= 0.85", ">= 0.75"],
            names: ">= 0.85",
        },
        crowd: 5_000,
        killed_ttl: Some(Duration::from_secs(2)),
    };
    run(&plan, ZooKeeper::start);
}
