//! Locks in files: lockkit, and `flock` with a token that is flushed.

#![allow(clippy::unwrap_used)]

#[path = "file/synced.rs"]
mod synced;
#[path = "file/ways.rs"]
mod ways;

use std::time::Duration;

use lockkit_bench::{Goals, Plan, Report, Store, Way, in_a_task, is_child, is_wanted, run};
use ways::{Files, Kind};

fn main() {
    let plan = Plan {
        store: "file",
        ours: Way::new("lockkit", Kind::Lockkit),
        hand: None,
        floor: Way::new("flock and fdatasync", Kind::Floor),
        // It is not fair: who comes first after an unlock takes the file.
        fair: Some(Way::new("flock and fdatasync", Kind::Floor)),
        variants: Vec::new(),
        peers: Vec::new(),
        goals: Goals { alone: "<= 1.5", hand_off: [">= 0.5", ""], ..Goals::default() },
        crowd: 0,
        killed_ttl: Some(Duration::from_secs(2)),
    };
    run(&plan, Files::start);
    if !is_child() && is_wanted("file-synced") {
        let mut report = Report::new("file-synced", Files::start().server());
        report.add(in_a_task(synced::synced(plan.ours, plan.floor)));
        report.write();
    }
}
