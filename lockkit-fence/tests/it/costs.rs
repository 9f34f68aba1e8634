//! What a fenced write costs over one without a fence, for the table in `docs/fencing.md`.

use std::time::{Duration, Instant};

use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::{Access, FencingToken};

use crate::pauses::Open;

const WARM: u64 = 20;
const WRITES: u64 = 300;

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement; `cargo xtask soak` runs it"]
async fn the_cost_of_a_fence_over_none_is_told_for_each_resource() {
    println!("| resource | unfenced | fenced | ratio |\n|---|---|---|---|");
    of("memory", &crate::memory::Fresh).await;
    of("PostgreSQL", &crate::sql::Postgres::start().await).await;
    of("MariaDB", &crate::sql::Mysql::start().await).await;
    of("SQLite", &crate::sql::Sqlite::start().await).await;
    of("Redis", &crate::redis::Numbers::start()).await;
    of("etcd", &crate::etcd::Numbers::start()).await;
    of("ZooKeeper", &crate::zookeeper::Numbers::start().await).await;
    of("file", &crate::file::Files::start()).await;
    of("HTTP, in process", &crate::http::Services).await;
    of("object, in memory", &crate::object::Objects::start()).await;
}

/// Measures both in turns, and prints the medians of one write.
async fn of<F: Fixture<Resource: Open>>(name: &str, fixture: &F) {
    let (open, fenced) = (fixture.fresh().await, fixture.fresh().await);
    let access = Access::from(FencingToken::MIN);
    let (mut without, mut with) = (Vec::new(), Vec::new());
    for value in 0..WARM + WRITES {
        let started = Instant::now();
        open.overwrite(value).await;
        let unfenced = started.elapsed();
        let started = Instant::now();
        fenced.write(access, value).await.expect("a write");
        if value >= WARM {
            with.push(started.elapsed());
            without.push(unfenced);
        }
    }
    let (without, with) = (median(without), median(with));
    let ratio = with.as_secs_f64() / without.as_secs_f64();
    println!("| {name} | {without:.1?} | {with:.1?} | {ratio:.1} |");
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
