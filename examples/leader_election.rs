//! A leader among replicas: the leader gives its orders with its token, and all can see who leads.
//!
//! A follower refuses orders with an older token than the newest it has seen, so a leader that was
//! replaced without noticing changes nothing. Another store: `cargo run --example leader_election -- file:/tmp/locks`

use std::ops::ControlFlow;
use std::time::Duration;

use lockkit::{Error, Fence, FencingToken, Leadership, Locks, Stale, connect};

/// A follower: it takes orders, and remembers the newest token that it has seen.
static FOLLOWER: Fence = Fence::new(());

#[tokio::main]
async fn main() -> Result<(), Error> {
    let url = std::env::args().nth(1).unwrap_or("memory:cluster".to_owned());
    let (ann, ben) = (connect(&url).await?, connect(&url).await?);
    let mut leaders =
        ann.election("cluster/leader").seen_within(Duration::from_millis(100)).observe();
    let observer = tokio::spawn(async move {
        while let Some(Ok(leader)) = leaders.next().await {
            println!("all see that {leader} leads");
        }
    });
    let (ann_led, ben_led) = tokio::join!(stand("ann", &ann), stand("ben", &ben));
    let replaced = ann_led?.min(ben_led?);
    match order(replaced, "an order that was on its way for a long time") {
        Err(stale) => println!("the follower refuses it: {stale}"),
        Ok(()) => panic!("a replaced leader was obeyed"),
    }
    observer.abort();
    ann.close(Duration::from_secs(5)).await?;
    ben.close(Duration::from_secs(5)).await
}

/// Stands until it was elected, and leads for a while; the token with which it led. A replica that is
/// to lead again gives `Continue`: it resigns, and stands behind those that wait.
async fn stand(replica: &str, locks: &Locks) -> Result<FencingToken, Error> {
    let election = locks.election("cluster/leader").candidate(replica);
    election
        .run(async |leadership: &Leadership| {
            // Dropped right here if it is deposed; then it stands again.
            lead(leadership.token()).await;
            println!("{replica} steps down");
            ControlFlow::Break(leadership.token())
        })
        .await
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
