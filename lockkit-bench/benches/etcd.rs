//! Locks on a real etcd: lockkit, its own requests sent by a bare client, floors, and the driver's own `lock()`.

#![allow(clippy::unwrap_used)]

#[path = "etcd/ways.rs"]
mod ways;

use std::time::Duration;

use lockkit_bench::{Goals, Plan, Way, run};
use ways::{Etcd, Kind};

fn main() {
    let plan = Plan {
        store: "etcd",
        ours: Way::new("lockkit", Kind::Lockkit),
        hand: Some(Way::new("lockkit's requests", Kind::Hand)),
        floor: Way::new("put if absent, delete", Kind::Floor),
        fair: Some(Way::new("queue keys", Kind::Queue)),
        variants: Vec::new(),
        peers: vec![Way::new("etcd-client lock()", Kind::Driver)],
        goals: Goals {
            alone: "<= 1.25",
            hand: "<= 1.15",
            hand_off: [">= 1.0", ">= 1.0"],
            names: ">= 0.85",
        },
        crowd: 10_000,
        killed_ttl: Some(Duration::from_secs(2)),
    };
    run(&plan, Etcd::start);
}
