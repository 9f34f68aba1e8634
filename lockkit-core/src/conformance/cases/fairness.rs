//! Fairness: nobody overtakes, and nobody starves.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::conformance::case::Challenge::Fairness;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::conformance::tap::Tap;
use crate::{Fairness as Claim, Grant, LockProvider};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "FR-01",
        Fairness,
        "C10",
        "fifty waiters of five clients are granted in the order in which they queued",
        |cx| Box::pin(in_order(cx)),
    )
    .needs(&[Need::Fifo]),
    Case::new("FR-02", Fairness, "C10", "nobody who tries barges past those who wait", |cx| {
        Box::pin(no_barging(cx))
    })
    .needs(&[Need::Fifo]),
    Case::new(
        "FR-03",
        Fairness,
        "C10",
        "clients that come again and again share the lock, evenly if the order is Fifo",
        |cx| Box::pin(shares(cx)),
    ),
    Case::new(
        "FR-04",
        Fairness,
        "C10",
        "who comes again right after its release goes behind those who wait",
        |cx| Box::pin(back_to_the_tail(cx)),
    )
    .needs(&[Need::Fifo]),
    Case::new(
        "FR-05",
        Fairness,
        "C10",
        "waiters that leave do not change the order of the others",
        |cx| Box::pin(some_leave(cx)),
    )
    .needs(&[Need::Fifo]),
    Case::new(
        "C10-02",
        Fairness,
        "C10",
        "a client that comes again right after each release does not starve a waiter",
        |cx| Box::pin(nobody_starves(cx)),
    ),
    Case::new(
        "FR-09",
        Fairness,
        "C10",
        "a client with slow replies gets its share beside a fast one",
        |cx| Box::pin(slow_beside_fast(cx)),
    ),
    Case::new(
        "C10-01",
        Fairness,
        "C10",
        "every one of fifty waiters is granted in the end",
        |cx| Box::pin(everybody(cx)),
    ),
];

/// A holder, and `waiters` of five clients queued behind it.
async fn queued(cx: &Context, tail: &str, waiters: usize) -> Verdict<(Grant, Queue)> {
    let clients = cx.clients(5).await?;
    let holder = cx.granted(&*cx.provider, &cx.request_with_ttl(tail, cx.long_ttl())?).await?;
    let mut queue = Queue::default();
    for waiter in 0..waiters {
        queue.add(cx, &clients[waiter % clients.len()], tail).await?;
    }
    Ok((holder, queue))
}

async fn in_order(cx: Context) -> Verdict {
    let (mut last, mut queue) = queued(&cx, "queue", 50).await?;
    // A waiter keeps its place for longer than any ttl.
    cx.sleep(cx.ttl() * 3 / 2).await;
    for expected in 0..50 {
        last.lease.release().await?;
        let (number, grant) = queue.granted(&cx).await?;
        require!(number == expected, "waiter {number} was granted instead of waiter {expected}");
        require!(grant.token > last.token, "token {} came after {}", grant.token, last.token);
        last = grant;
    }
    last.lease.release().await?;
    cx.no_residue("queue").await
}

async fn no_barging(cx: Context) -> Verdict {
    let (mut last, mut queue) = queued(&cx, "queue", 5).await?;
    let client = cx.connect().await?;
    for left in (0..5).rev() {
        last.lease.release().await?;
        // Before the next waiter has had a turn to learn of the release, and after it.
        for _ in 0..10 {
            let barged = client.try_acquire(&cx.request("queue")?).await?;
            require!(barged.is_none(), "an attempt was granted past {} waiters", left + 1);
        }
        (_, last) = queue.granted(&cx).await?;
    }
    last.lease.release().await?;
    cx.is_free("queue").await?;
    Ok(())
}

async fn shares(cx: Context) -> Verdict {
    const CLIENTS: usize = 8;
    const ENOUGH: usize = 400;
    // Where the order is not promised, it may take its time, but not for ever.
    let patience = Duration::from_secs(20).max(32 * (cx.poll() + 2 * cx.call));
    let shares: Arc<Vec<AtomicUsize>> = Arc::new((0..CLIENTS).map(|_| 0.into()).collect());
    let counts = |shares: &[AtomicUsize]| -> Vec<usize> {
        shares.iter().map(|share| share.load(Ordering::SeqCst)).collect()
    };
    // All are connected before the first one asks: alone, it would be granted every time.
    let mut locks = Vec::new();
    for _ in 0..CLIENTS {
        locks.push(cx.lock("shared").await?);
    }
    let end = cx.clock.now().saturating_add(patience);
    let mut clients = JoinSet::new();
    for (client, lock) in locks.into_iter().enumerate() {
        let (clock, shares) = (cx.clock.clone(), Arc::clone(&shares));
        clients.spawn(async move {
            // What comes once all have had enough is no share.
            let over = || {
                let counts = counts(&shares);
                let enough = counts.iter().sum::<usize>() >= ENOUGH && !counts.contains(&0);
                enough || clock.now() >= end
            };
            while !over() {
                let guard = lock.acquire().await?;
                if !over() {
                    shares[client].fetch_add(1, Ordering::SeqCst);
                }
                // Long enough for whoever released last to come again.
                clock.sleep(Duration::from_millis(2)).await;
                guard.release().await?;
            }
            Ok::<_, crate::Error>(())
        });
    }
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let shares = counts(&shares);
    let (least, most) = (shares.iter().min().copied(), shares.iter().max().copied());
    let (least, most) = (least.unwrap_or(0), most.unwrap_or(0));
    cx.notes.count("grants of a client, least", least as u64);
    cx.notes.count("grants of a client, most", most as u64);
    require!(least > 0, "a client was never granted in {patience:?}: {shares:?}");
    if cx.guarantees.fairness == Claim::Fifo {
        require!(most <= 2 * least + 2, "the order is Fifo, and the shares are {shares:?}");
        // A client that its machine kept from coming again in time has missed turns.
        let even = most <= least + least / 10 + 2;
        require_in_time!(even, "the order is Fifo, and the shares are {shares:?}");
    }
    Ok(())
}

async fn back_to_the_tail(cx: Context) -> Verdict {
    let (holder, mut queue) = queued(&cx, "queue", 3).await?;
    let request = cx.request("queue")?;
    let mut again = pin!(cx.provider.acquire(&request));
    holder.lease.release().await?;
    // At once: the next waiter has not had a turn to learn of the release.
    let early = (&mut again).now_or_never();
    require!(early.is_none(), "who came again was granted past three waiters: {early:?}");
    for expected in 0..3 {
        let (number, grant) = tokio::select! {
            biased;
            again = &mut again => return Err(Stop::failed(format!(
                "who came again was granted past {} waiters: {again:?}", 3 - expected
            ))),
            granted = queue.granted(&cx) => granted?,
        };
        require!(number == expected, "waiter {number} was granted instead of waiter {expected}");
        grant.lease.release().await?;
    }
    let grant = cx.by(cx.wake_up(), "who came again is granted in the end", again).await??;
    grant.lease.release().await?;
    cx.no_residue("queue").await
}

async fn some_leave(cx: Context) -> Verdict {
    const WAITERS: usize = 30;
    let (holder, mut queue) = queued(&cx, "queue", WAITERS).await?;
    let leaves = |number: usize| number % 7 == 2 || number % 10 == 3 || number == WAITERS - 1;
    for number in (0..WAITERS).filter(|number| leaves(*number)) {
        queue.withdraw(number).await?;
    }
    for _ in (0..WAITERS).filter(|number| leaves(*number)) {
        let (number, ended) = queue.ended(&cx).await?;
        require!(ended.is_err() && leaves(number), "waiter {number} ended with {ended:?}");
    }
    let mut last = holder;
    for expected in (0..WAITERS).filter(|number| !leaves(*number)) {
        last.lease.release().await?;
        let (number, grant) = queue.granted(&cx).await?;
        require!(number == expected, "waiter {number} was granted instead of waiter {expected}");
        last = grant;
    }
    last.lease.release().await?;
    cx.no_residue("queue").await
}

async fn everybody(cx: Context) -> Verdict {
    let (holder, mut queue) = queued(&cx, "queue", 50).await?;
    let mut last = holder;
    while queue.len() > 0 {
        last.lease.release().await?;
        (_, last) = queue.granted(&cx).await?;
    }
    last.lease.release().await?;
    cx.no_residue("queue").await
}

async fn nobody_starves(cx: Context) -> Verdict {
    const ROUNDS: u32 = 400;
    let client = cx.connect().await?;
    let mut held = cx.granted(&*client, &cx.request("busy")?).await?;
    let lock = cx.lock("busy").await?;
    let waiter = tokio::spawn(async move { lock.acquire().await?.release().await });
    cx.sleep(cx.arrival()).await;
    for _ in 0..ROUNDS {
        cx.sleep(Duration::from_millis(2)).await;
        // No turn for anybody else between the two, unless the store gives it.
        held.lease.release().await?;
        let request = cx.request("busy")?;
        held =
            cx.by(cx.wake_up(), "who comes again is granted", client.acquire(&request)).await??;
        if waiter.is_finished() {
            held.lease.release().await?;
            waiter.await??;
            return cx.no_residue("busy").await;
        }
    }
    Err(Stop::failed(format!("a waiter was not granted in {ROUNDS} releases of a busy client")))
}

async fn slow_beside_fast(cx: Context) -> Verdict {
    const ROUNDS: usize = 60;
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    tap.delay_replies(Duration::from_millis(20));
    let (slow, fast) = (cx.locks_of(tap).lock(cx.name("shared")), cx.lock("shared").await?);
    let done = Arc::new(AtomicBool::new(false));
    let fast = tokio::spawn({
        let (done, clock) = (Arc::clone(&done), cx.clock.clone());
        async move {
            let mut grants = 0_usize;
            while !done.load(Ordering::SeqCst) {
                let guard = fast.acquire().await?;
                // Long enough for the slow one to come again.
                clock.sleep(Duration::from_millis(2)).await;
                guard.release().await?;
                grants += 1;
            }
            Ok::<_, crate::Error>(grants)
        }
    });
    let slow = tokio::spawn(async move {
        for _ in 0..ROUNDS {
            slow.acquire().await?.release().await?;
        }
        Ok::<_, crate::Error>(())
    });
    slow.await??;
    done.store(true, Ordering::SeqCst);
    let grants = fast.await??;
    let fair = cx.guarantees.fairness != Claim::Fifo || grants <= ROUNDS * 3 / 2;
    require!(
        fair,
        "the order is Fifo, and a fast client got {grants} beside {ROUNDS} of a slow one"
    );
    Ok(())
}
