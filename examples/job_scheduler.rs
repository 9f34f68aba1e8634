//! A job that runs once per tick, although every replica of the service starts it.
//!
//! The lock keeps two replicas from running it at once, and its minimum hold keeps a replica whose clock is late
//! from running it again after a run of some milliseconds. The table of runs refuses a replica whose lock has
//! passed to another.
//! Another store: `cargo run --example job_scheduler -- file:/tmp/locks`

use std::collections::BTreeMap;
use std::time::Duration;

use lockkit::{Fenced, Locks, connect};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The table of finished runs, by tick; in a service it is one of the database, with a column `fence`.
static RUNS: Fenced<BTreeMap<u32, u32>> = Fenced::new(BTreeMap::new());
/// Longer than the clocks of two hosts differ, and shorter than the time from tick to tick.
const LEAST: Duration = Duration::from_secs(1);
const TICKS: u32 = 2;

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or("memory:scheduler".to_owned());
    let (one, two, three) = tokio::join!(replica(1, &url), replica(2, &url), replica(3, &url));
    println!("{TICKS} ticks for three replicas: {} runs", one? + two? + three?);
    Ok(())
}

/// A replica of the service, whose clock is late by 60 ms for each replica before it; how many ticks it ran.
async fn replica(number: u32, url: &str) -> Result<u32, Error> {
    let locks = connect(url).await?;
    tokio::time::sleep(number * Duration::from_millis(60)).await;
    let mut runs = 0;
    for tick in 1..=TICKS {
        runs += u32::from(ran(number, tick, &locks).await?);
        tokio::time::sleep(2 * LEAST).await;
    }
    // Waits for minimum holds that would end with this process.
    locks.close(Duration::from_secs(5)).await?;
    Ok(runs)
}

/// What cron starts in every replica; whether this one ran the job.
async fn ran(replica: u32, tick: u32, locks: &Locks) -> Result<bool, Error> {
    let lock = locks.lock("scheduler/report").hold_at_least(LEAST);
    let outcome = lock.try_run(async |guard| -> Result<(), Error> {
        println!("tick {tick}: replica {replica} writes the report, with token {}", guard.token());
        tokio::time::sleep(Duration::from_millis(8)).await;
        RUNS.access(guard.token(), |runs| runs.insert(tick, replica))?;
        Ok(())
    });
    match outcome.await? {
        Some(done) => done.map(|()| true),
        None => {
            println!(
                "tick {tick}: replica {replica} leaves it to the one that runs it, or just did"
            );
            Ok(false)
        }
    }
}
