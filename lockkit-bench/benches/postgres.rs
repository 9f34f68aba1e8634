//! Locks on a real PostgreSQL: lockkit's two strategies, floors on bare connections, and sqlx's `PgAdvisoryLock`.
//!
//! Each part stands for itself: `cargo bench -p lockkit-bench --bench postgres -- table/alone snapshot` runs those
//! whose names contain one of the words.

#![allow(clippy::unwrap_used)]

#[path = "postgres/snapshot.rs"]
mod snapshot;
#[path = "postgres/ways.rs"]
mod ways;

use std::time::Duration;

use lockkit_bench::{
    Goals, Plan, Report, Store, Variant, Way, in_a_task, is_child, is_quick, is_wanted, run,
};
use ways::{Kind, Postgres};

fn main() {
    let table = Plan {
        store: "postgres-table",
        ours: Way::new("table", Kind::Table { flush: false }),
        hand: Some(Way::new("lockkit's requests", Kind::Hand)),
        floor: Way::new("upsert and update", Kind::Upsert),
        fair: Some(Way::new("queue table", Kind::Queue)),
        variants: vec![Variant {
            way: Way::new("table, flush", Kind::Table { flush: true }),
            goals: Goals { alone: "<= 1.45", ..Goals::default() },
        }],
        peers: Vec::new(),
        goals: Goals {
            alone: "<= 1.0",
            hand: "<= 1.15",
            hand_off: [">= 0.7", ">= 0.6"],
            names: ">= 0.7",
        },
        crowd: 10_000,
        killed_ttl: Some(Duration::from_secs(2)),
    };
    run(&table, Postgres::table);
    let advisory = Plan {
        store: "postgres-advisory",
        ours: Way::new("advisory", Kind::Advisory),
        hand: Some(Way::new("try and unlock, prepared", Kind::Try { prepared: true })),
        floor: Way::new("try and unlock", Kind::Try { prepared: false }),
        fair: Some(Way::new("pg_advisory_lock", Kind::Blocking)),
        variants: Vec::new(),
        peers: vec![Way::new("PgAdvisoryLock", Kind::Sqlx)],
        goals: Goals { alone: "<= 1.5", hand: "", hand_off: [">= 0.7", ">= 0.7"], names: ">= 0.7" },
        crowd: 0,
        killed_ttl: Some(Duration::from_secs(2)),
    };
    run(&advisory, Postgres::advisory);
    if !is_child() && is_wanted("postgres-snapshot") {
        let mut report = Report::new("postgres-snapshot", Postgres::table().server());
        let rounds = if is_quick() { 1 } else { 3 };
        report.add(in_a_task(snapshot::snapshot(rounds)));
        report.write();
    }
}
