//! Orders from a queue that delivers some of them twice: each is charged once.
//!
//! The lock keeps two consumers from working on one order. What makes it safe where one of them is
//! paused for too long is on the other side: a fence at the row, and, since the payment service knows
//! no tokens, an idempotency key there.
//!
//! Another store: `cargo run --example no_duplicate_processing -- file:/tmp/locks`

use std::collections::{HashMap, HashSet};
use std::sync::{LazyLock, Mutex};
use std::time::Duration;

use lockkit::{Fenced, Locks, connect};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// The rows of the orders, each with a fence of its own: tokens of two names do not compare.
static ORDERS: LazyLock<HashMap<&str, Fenced<Status>>> =
    LazyLock::new(|| ["order-1", "order-2"].map(|order| (order, Fenced::default())).into());

/// The keys that the payment service has seen.
static PAID: LazyLock<Mutex<HashSet<String>>> = LazyLock::new(Mutex::default);

#[derive(Clone, Copy, Default, PartialEq)]
enum Status {
    #[default]
    Open,
    Charged,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or("memory:orders".to_owned());
    let locks = connect(&url).await?;
    let (one, two) = tokio::join!(
        consume("consumer 1", &locks, ["order-1", "order-2"]),
        consume("consumer 2", &locks, ["order-1", "order-2"]),
    );
    one.and(two)?;
    Ok(locks.close(Duration::from_secs(5)).await?)
}

async fn consume(consumer: &str, locks: &Locks, deliveries: [&str; 2]) -> Result<(), Error> {
    for order in deliveries {
        let Some(guard) = locks.lock(format!("orders/{order}")).try_acquire().await? else {
            println!("{consumer}: {order} is being processed elsewhere; back into the queue");
            continue;
        };
        let row = &ORDERS[order];
        if row.access(guard.token(), |status| *status)? == Status::Charged {
            println!("{consumer}: {order} was charged before");
        } else {
            charge(order).await;
            // Refused if this consumer was so slow that another one has taken over.
            row.access(guard.token(), |status| *status = Status::Charged)?;
            println!("{consumer}: {order} charged, with token {}", guard.token());
        }
        guard.release().await?;
    }
    Ok(())
}

/// The payment service, beyond any fence of ours: it takes money once for a key, however often it
/// is asked.
async fn charge(key: &str) {
    tokio::time::sleep(Duration::from_millis(100)).await;
    let mut paid = PAID.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    if !paid.insert(key.to_owned()) {
        println!("the payment for {key} was taken before");
    }
}
