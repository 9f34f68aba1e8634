//! A nightly job that runs once, although every replica of the service starts it.
//!
//! The lock keeps two replicas from running it at once; the table of finished runs says that it
//! need not run again, and refuses a replica whose lock has passed to another.
//! Another store: `cargo run --example job_scheduler -- file:/tmp/locks`

use std::collections::BTreeMap;
use std::time::Duration;

use lockkit::{Fenced, connect};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The table of finished runs; in a service it is one of the database, with a column `fence`.
static RUNS: Fenced<BTreeMap<&str, u32>> = Fenced::new(BTreeMap::new());

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or("memory:scheduler".to_owned());
    let (one, two, three) = tokio::join!(tick(1, &url), tick(2, &url), tick(3, &url));
    one.and(two).and(three)
}

/// What cron starts in every replica at two o'clock.
async fn tick(replica: u32, url: &str) -> Result<(), Error> {
    const NIGHT: &str = "2026-03-01";
    let locks = connect(url).await?;
    let lock = locks.lock("scheduler/nightly-report");
    lock.run(async |guard| -> Result<(), Error> {
        // Reading raises the fence: whoever held before cannot finish a run any more.
        let done = RUNS.access(guard.token(), |runs| runs.get(NIGHT).copied())?;
        if let Some(by) = done {
            println!("replica {replica}: replica {by} has written the report of {NIGHT}");
            return Ok(());
        }
        println!("replica {replica}: writing the report, with token {}", guard.token());
        tokio::time::sleep(Duration::from_millis(200)).await;
        RUNS.access(guard.token(), |runs| runs.insert(NIGHT, replica))?;
        Ok(())
    })
    .await??;
    Ok(locks.close(Duration::from_secs(5)).await?)
}
