//! A leader among replicas: who holds the lock leads, and gives its orders with its token.
//!
//! A follower refuses orders with an older token than the newest it has seen, so a leader that was
//! replaced without noticing changes nothing. Another store: `cargo run --example leader_election -- file:/tmp/locks`

use std::time::Duration;

use lockkit::{Error, Fence, FencingToken, Locks, Stale, connect};

/// A follower: it takes orders, and remembers the newest token that it has seen.
static FOLLOWER: Fence = Fence::new(());

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or("memory:cluster".to_owned());
    let (ann, ben) = (connect(&url).await?, connect(&url).await?);
    let (ann_led, ben_led) = tokio::join!(campaign("ann", &ann), campaign("ben", &ben));
    let (ann_led, ben_led) = (ann_led?, ben_led?);

    let replaced = ann_led.min(ben_led);
    match order(replaced, "an order that was on its way for a long time") {
        Err(stale) => println!("the follower refuses it: {stale}"),
        Ok(()) => panic!("a replaced leader was obeyed"),
    }
    ann.close(Duration::from_secs(5)).await?;
    ben.close(Duration::from_secs(5)).await
}

/// Waits to be elected, leads for a while, and steps down; the token with which it led. A replica
/// that is to lead again campaigns again: whoever waits longest comes first.
async fn campaign(replica: &str, locks: &Locks) -> Result<FencingToken, Error> {
    let guard = locks.lock("cluster/leader").label(replica).acquire().await?;
    let token = guard.token();
    println!("{replica} leads with token {token}");
    let deposed = guard.lost();
    tokio::select! {
        reason = deposed => println!("{replica} was deposed: {reason}"),
        () = lead(token) => println!("{replica} steps down"),
    }
    guard.release().await?;
    Ok(token)
}

async fn lead(token: FencingToken) {
    for round in 1..=3 {
        if let Err(stale) = order(token, &format!("order {round}")) {
            return println!("there is another leader: {stale}");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Sends an order with the token of the leader that gave it.
fn order(token: FencingToken, text: &str) -> Result<(), Stale> {
    FOLLOWER.access(token, |()| println!("the follower obeys token {token}: {text}"))
}
