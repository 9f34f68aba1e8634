//! Liveness: waiters are granted, whoever leaves the queue beside them.

use std::pin::pin;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Challenge::Liveness;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::poll::{pass, polled};
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Verdict, require, require_held, require_in_time};
use crate::conformance::tap::Tap;
use crate::{Error, Fairness};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "LV-12",
        Liveness,
        "C8",
        "a waiter that leaves the middle of the queue disturbs neither holder nor followers",
        |cx| Box::pin(one_leaves(cx)),
    ),
    Case::new(
        "LV-13",
        Liveness,
        "C8",
        "when all waiters leave together with the release, the name is free at once",
        |cx| Box::pin(all_leave(cx)),
    ),
    Case::new(
        "LV-14",
        Liveness,
        "C8",
        "a release between any two polls of a waiter is not lost on it",
        |cx| Box::pin(no_wake_up_is_lost(cx)),
    ),
    Case::new(
        "LV-17",
        Liveness,
        "C5",
        "a waiter that stalls in the queue blocks others for a ttl at most, and is not granted late",
        |cx| Box::pin(stalled_waiter(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C8-01",
        Liveness,
        "C8",
        "a wait that times out behind a holder says TimedOut, and names the holder if any",
        |cx| Box::pin(timed_out(cx)),
    ),
    Case::new(
        "C8-02",
        Liveness,
        "C8",
        "a time limit is one budget, and ends a wait in time",
        |cx| Box::pin(one_budget(cx)),
    ),
    Case::new(
        "C9-03",
        Liveness,
        "C9",
        "an attempt on a held name leaves no trace, and nothing is withdrawn after it",
        |cx| Box::pin(definite_none(cx)),
    ),
];

async fn one_leaves(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let holder = cx.lock("queue").await?.ttl(cx.long_ttl()).acquire().await?;
    let mut queue = Queue::default();
    for _ in 0..3 {
        queue.add(&cx, &client, "queue").await?;
    }
    queue.withdraw(1).await?;
    // Its pending attempt ends too.
    let (number, left) = queue.ended(&cx).await?;
    require!(number == 1, "the withdrawal of waiter 1 ended waiter {number}");
    require!(left.is_err(), "a withdrawn attempt was granted");
    require!(!queue.someone_ended(&cx).await, "a waiter was granted beside the holder");
    require_held(&holder, "a waiter that left ended the holder's lease")?;
    holder.release().await?;
    let (first, grant) = queue.granted(&cx).await?;
    require!(!queue.someone_ended(&cx).await, "two waiters were granted");
    grant.lease.release().await?;
    let (last, grant) = queue.granted(&cx).await?;
    grant.lease.release().await?;
    let in_order = cx.guarantees.fairness != Fairness::Fifo || (first, last) == (0, 2);
    require!(in_order, "waiter {first} was granted before waiter {last}");
    cx.no_residue("queue").await
}

async fn all_leave(cx: Context) -> Verdict {
    const WAITERS: usize = 5;
    let (ours, theirs) = (cx.lock("left").await?, cx.lock("left").await?);
    for turns in 0..30 {
        let holder = ours.acquire().await?;
        let mut waiters = JoinSet::new();
        for _ in 0..WAITERS {
            waiters.spawn(theirs.acquire());
        }
        pass(turns).await;
        // They leave before, while or after the name passes through their hands.
        match turns % 3 {
            0 => {
                waiters.shutdown().await;
                holder.release().await?;
            }
            1 => {
                waiters.abort_all();
                holder.release().await?;
            }
            _ => {
                let release = tokio::spawn(holder.release());
                pass(turns % 5).await;
                waiters.abort_all();
                release.await??;
            }
        }
        while let Some(ended) = waiters.join_next().await {
            drop(ended);
        }
        cx.is_free_for(&ours).await?;
        cx.no_residue("left").await?;
    }
    Ok(())
}

async fn no_wake_up_is_lost(cx: Context) -> Verdict {
    const POLLS: u32 = 64;
    let client = cx.connect().await?;
    let ours = cx.lock("paused").await?.ttl(cx.long_ttl());
    for polls in 0..POLLS {
        let holder = ours.acquire().await?;
        let request = cx.request("paused")?;
        let mut waiting = pin!(client.acquire(&request));
        let moment = Duration::from_millis(10) + cx.call;
        let early = tokio::time::timeout(moment, polled(&mut waiting, polls));
        let early = early.await.ok().flatten();
        require!(early.is_none(), "granted beside a holder: {early:?}");
        // Not polled while the name becomes free.
        holder.release().await?;
        cx.sleep(Duration::from_millis(2)).await;
        let grant = cx.by(cx.wake_up(), "a waiter learns of a release between its polls", waiting);
        grant.await??.lease.release().await?;
        if polls > 8 {
            return Ok(());
        }
    }
    Ok(())
}

async fn stalled_waiter(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let holder = cx.lock("stalled").await?.acquire().await?;
    let request = cx.request("stalled")?;
    let mut stalled = pin!(client.acquire(&request));
    tokio::select! {
        granted = &mut stalled => require!(false, "granted beside a holder: {granted:?}"),
        queued = cx.queued(&request) => queued?,
    }
    // From here on its client does nothing, and does not say so.
    let follower = cx.lock("stalled").await?;
    let follower = tokio::spawn(follower.acquire());
    cx.sleep(cx.ttl() * 2).await;
    require_held(&holder, "a waiter that stalls ended the holder's lease")?;
    holder.release().await?;
    let bound = cx.ttl() + cx.expiry_slack();
    let guard = cx.by(bound, "the follower of a stalled waiter is granted", follower).await???;
    // It wakes up: whatever it is told, it is not that it holds.
    if let Ok(Ok(grant)) = tokio::time::timeout(cx.arrival(), stalled).await {
        let end = grant.term.ttl.map(|ttl| grant.term.sent.saturating_add(ttl));
        let over = end.is_some_and(|end| end <= cx.clock.now());
        require!(over, "a stalled waiter was granted beside its follower");
        drop(grant);
    }
    require_held(&guard, "a stalled waiter ended its follower's lease")?;
    let other = cx.provider.try_acquire(&cx.request("stalled")?).await?;
    require!(other.is_none(), "the name is free beside a holder");
    client.withdraw(&request).await?;
    guard.release().await?;
    cx.no_residue("stalled").await
}

async fn timed_out(cx: Context) -> Verdict {
    let holder = cx.lock("held").await?.label("the holder of this case").acquire().await?;
    let waited = cx.lock("held").await?.acquire_within(cx.wake_up()).await;
    match waited {
        Err(Error::TimedOut { holder: None, .. }) => {}
        Err(Error::TimedOut { holder: Some(named), .. }) => {
            let right = named.token == Some(holder.token()) || named.token.is_none();
            require!(right, "the time-out names another holder than {holder:?}: {named:?}");
        }
        other => require!(false, "a wait behind a holder ended with {other:?}"),
    }
    holder.release().await?;
    cx.no_residue("held").await
}

async fn one_budget(cx: Context) -> Verdict {
    let holder = cx.lock("held").await?.ttl(cx.long_ttl()).acquire().await?;
    let lock = cx.lock("held").await?;
    for millis in [0, 10, 100, 300] {
        let (limit, started) = (Duration::from_millis(millis), cx.clock.now());
        let waited = lock.acquire_within(limit).await;
        let took = cx.clock.now().saturating_since(started);
        require!(waited.is_err(), "granted beside a holder");
        require!(took >= limit, "a wait of {limit:?} took only {took:?}");
        require_in_time!(took <= limit + cx.slack(), "a wait of at most {limit:?} took {took:?}");
    }
    holder.release().await?;
    cx.no_residue("held").await
}

async fn definite_none(cx: Context) -> Verdict {
    let holder = cx.lock("held").await?.ttl(cx.long_ttl()).acquire().await?;
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let lock = cx.locks_of(tap.clone()).lock(cx.name("held"));
    for _ in 0..10 {
        let tried = lock.try_acquire().await?;
        require!(tried.is_none(), "granted beside a holder");
    }
    // No withdrawal comes to the rescue: the provider itself leaves nothing.
    require!(tap.withdrawals() == 0, "{} withdrawals after a definite None", tap.withdrawals());
    if let Some(operator) = cx.provider.operator() {
        let seen = operator.inspect(&cx.lock_name("held")?).await?;
        require!(seen.waiters.unwrap_or(0) == 0, "ten attempts left {:?} waiters", seen.waiters);
    }
    holder.release().await?;
    cx.is_free("held").await?;
    cx.no_residue("held").await
}
