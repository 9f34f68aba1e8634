//! Locks on a real Redis: lockkit, its own requests sent by a bare client, floors in Lua, and the crates `rslock` and `rlock`.

#![allow(clippy::unwrap_used)]

#[path = "redis/ways.rs"]
mod ways;

use std::time::Duration;

use lockkit_bench::{Goals, Plan, Way, run};
use ways::{Kind, Redis};

fn main() {
    let plan = Plan {
        store: "redis",
        ours: Way::new("lockkit", Kind::Lockkit),
        hand: Some(Way::new("lockkit's requests", Kind::Hand)),
        floor: Way::new("SET NX PX, delete if ours", Kind::Floor),
        fair: Some(Way::new("list and BLPOP", Kind::Queue)),
        variants: Vec::new(),
        peers: vec![
            Way::new("rslock, 5 ms", Kind::Rslock(Some(5))),
            Way::new("rlock, 5 ms", Kind::Rlock(5)),
        ],
        goals: Goals {
            alone: "<= 1.45",
            hand: "<= 1.15",
            hand_off: [">= 0.55", ">= 0.55"],
            names: ">= 0.65",
        },
        crowd: 10_000,
        killed_ttl: Some(Duration::from_secs(2)),
    };
    run(&plan, Redis::start);
}
