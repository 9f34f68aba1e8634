//! A schema change that one of many instances makes, each time the service is deployed.
//!
//! Another store: `cargo run --example schema_change -- file:/tmp/locks`

use std::time::Duration;

use lockkit::{Fenced, connect};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The steps of all releases so far, in order.
const STEPS: [&str; 3] = ["create table orders", "add column paid", "create index on paid"];

/// The database's own record of the steps made; `Fenced` stands for its `WHERE fence <= $token`.
static SCHEMA: Fenced<Vec<&str>> = Fenced::new(Vec::new());

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or("memory:deployment".to_owned());
    let (one, two) = tokio::join!(start_instance(1, &url), start_instance(2, &url));
    one.and(two)
}

/// Every instance starts like this; it serves only when the schema is what it needs.
async fn start_instance(instance: u32, url: &str) -> Result<(), Error> {
    let locks = connect(url).await?;
    // A change may take long: a holder that hangs all the same is cut off after ten minutes.
    let lock = locks.lock("orders/schema").max_hold(Duration::from_secs(600));
    let guard = lock.acquire_within(Duration::from_secs(900)).await?;
    let made = SCHEMA.access(guard.token(), |made| made.len())?;
    for step in &STEPS[made..] {
        // Each step is checked before it starts, and fenced when it is recorded.
        let token = guard.ensure(Duration::from_secs(1))?;
        tokio::time::sleep(Duration::from_millis(100)).await;
        SCHEMA.access(token, |made| made.push(*step))?;
        println!("instance {instance}: {step}, with token {token}");
    }
    println!("instance {instance}: the schema is up to date, serving");
    guard.release().await?;
    Ok(locks.close(Duration::from_secs(5)).await?)
}
