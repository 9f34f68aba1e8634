//! What grows with old versions of rows: cycles behind an open snapshot.

use std::time::{Duration, Instant};

use lockkit_bench::{Part, Ratio, Store, median};
use lockkit_core::Lock;
use sqlx::Connection;
use sqlx::postgres::PgConnection;

use crate::ways::{Postgres, locks_at};

const TTL: Duration = Duration::from_secs(60);
const CYCLES: usize = 20_000;
const BLOCK: usize = 1_000;

/// The median of so many cycles, in µs.
async fn block(lock: &Lock, cycles: usize) -> f64 {
    let mut took = Vec::new();
    for _ in 0..cycles {
        let began = Instant::now();
        lock.acquire().await.unwrap().release().await.unwrap();
        took.push(began.elapsed().as_secs_f64() * 1e6);
    }
    median(&took)
}

/// Cycles of one name behind an open snapshot, beside those of another database without one.
pub(crate) async fn snapshot(rounds: usize) -> Part {
    let (mut ratios, mut beside) = (Vec::new(), Vec::new());
    let mut part = Part::new(
        format!("{CYCLES} cycles of one name behind an open snapshot, a figure for each thousand"),
        "µs",
    );
    for round in 0..rounds {
        let store = Postgres::table();
        let server = store.server.as_ref().unwrap();
        server.sql("CREATE DATABASE other").unwrap();
        let other = server.url().strip_suffix("/postgres").unwrap().to_owned() + "/other";
        let subject = store.locks().await.lock("bloated").ttl(TTL);
        let control = locks_at(&other, "", false).await.lock("bloated").ttl(TTL);
        block(&subject, 200).await;
        block(&control, 200).await;
        let mut snapshot = PgConnection::connect(&server.url()).await.unwrap();
        let open = "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM lockkit.lease";
        sqlx::raw_sql(open).execute(&mut snapshot).await.unwrap();
        let (mut with, mut without) = (Vec::new(), Vec::new());
        for _ in 0..CYCLES / BLOCK {
            without.push(block(&control, BLOCK / 5).await);
            with.push(block(&subject, BLOCK).await);
        }
        let generation = server.sql("SELECT max(gen) FROM lockkit.lease").unwrap();
        let last = with.len() - 1;
        ratios.push(with[last] / with[0]);
        beside.push(with[last] / without[last] / (with[0] / without[0]));
        part = part.row(
            &format!("behind a snapshot, round {round}"),
            with,
            format!("gen {generation}"),
        );
        part = part.row(&format!("without one, round {round}"), without, "");
        sqlx::raw_sql("ROLLBACK").execute(&mut snapshot).await.unwrap();
    }
    let ratio = |label: &str, values, goal: &str| Ratio {
        label: label.to_owned(),
        values,
        goal: goal.to_owned(),
    };
    part.ratios.push(ratio("the last thousand / the first", ratios, "<= 2"));
    part.ratios.push(ratio("the same, each beside those without a snapshot", beside, ""));
    part
}
