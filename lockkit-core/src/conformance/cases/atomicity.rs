//! Atomicity: one winner, whoever tries how.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::super::Challenge::Atomicity;
use super::super::case::{Case, Verdict, require};
use super::super::context::Context;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-01",
        Atomicity,
        "C1",
        "sixty-four tasks try at once, and exactly one wins each round",
        |cx| Box::pin(one_of_many_wins(cx)),
    ),
    Case::new(
        "AT-03",
        Atomicity,
        "C1",
        "an unprotected counter that sixteen tasks bump under the lock loses no update",
        |cx| Box::pin(no_update_is_lost(cx)),
    ),
];

async fn one_of_many_wins(cx: Context) -> Verdict {
    const TASKS: usize = 64;
    const CLIENTS: usize = 4;
    let rounds = if cx.is_virtual() { 100 } else { 50 };
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(cx.locks().await?);
    }
    for round in 0..rounds {
        let barrier = Arc::new(Barrier::new(TASKS));
        let mut tries = JoinSet::new();
        for task in 0..TASKS {
            let lock = clients[task % CLIENTS].lock(cx.name("contended"));
            let barrier = Arc::clone(&barrier);
            tries.spawn(async move {
                barrier.wait().await;
                lock.try_acquire().await
            });
        }
        // Kept until everybody has tried.
        let mut winners = Vec::new();
        while let Some(tried) = tries.join_next().await {
            winners.extend(tried??);
        }
        let won = winners.len();
        require!(won == 1, "{won} of {TASKS} tasks won round {round} instead of exactly one");
        for guard in winners {
            guard.release().await?;
        }
    }
    Ok(())
}

async fn no_update_is_lost(cx: Context) -> Verdict {
    const TASKS: u32 = 16;
    let bumps: u32 = if cx.is_virtual() { 100 } else { 50 };
    let counter = Arc::new(AtomicU32::new(0));
    let mut tasks = JoinSet::new();
    for task in 0..TASKS {
        let lock = cx.lock("counter").await?;
        let (counter, clock) = (Arc::clone(&counter), cx.clock.clone());
        tasks.spawn(async move {
            for bump in 0..bumps {
                let guard = lock.acquire().await?;
                let seen = counter.load(Ordering::SeqCst);
                // Read, leave, write: what any second holder would break.
                match (task + bump) % 8 {
                    0 => clock.sleep(Duration::from_micros(200)).await,
                    _ => tokio::task::yield_now().await,
                }
                counter.store(seen + 1, Ordering::SeqCst);
                guard.release().await?;
            }
            Ok::<_, crate::Error>(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    let counted = counter.load(Ordering::SeqCst);
    require!(counted == TASKS * bumps, "{counted} of {} updates were kept", TASKS * bumps);
    Ok(())
}
