//! Single moments that only a provider broken in one way gives away.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::task::JoinSet;

use crate::conformance::Challenge::{Fairness, Liveness, Safety};
use crate::conformance::Hook;
use crate::conformance::case::{Case, Need, Stop, Verdict, require};
use crate::conformance::context::Context;
use crate::conformance::poll::polled;
use crate::conformance::queue::Queue;
use crate::{Error, Fairness as Declared, Grant, Guard, Instant};

/// More polls than any provider needs for one call.
const POLLS: u32 = 64;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C10-02",
        Fairness,
        "C10",
        "an attempt in the very turn of a release does not barge past those who wait",
        |cx| Box::pin(no_attempt_barges(cx)),
    )
    .needs(&[Need::Fifo]),
    Case::new(
        "C10-03",
        Fairness,
        "C10",
        "a waiter that comes in the very turn of a release goes behind those who wait",
        |cx| Box::pin(no_newcomer_barges(cx)),
    )
    .needs(&[Need::Fifo]),
    Case::new(
        "C10-04",
        Fairness,
        "C10",
        "two busy clients that hand the name to each other do not starve a waiter",
        |cx| Box::pin(nobody_starves(cx)),
    ),
    Case::new(
        "C11-04",
        Liveness,
        "C11",
        "an attempt that stalls after any poll takes the name for a ttl at most",
        |cx| Box::pin(stalled_attempt(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C5-02",
        Safety,
        "C5",
        "the store keeps a grant for the ttl that it granted, and its holder believes no longer",
        |cx| Box::pin(kept_as_granted(cx)),
    )
    .needs(&[Need::LeaseTtl, Need::Operator]),
    Case::new(
        "C8-03",
        Liveness,
        "C8",
        "waiters keep their places behind a holder that holds for many of their ttls",
        |cx| Box::pin(places_are_kept(cx)),
    ),
    Case::new(
        "C7-04",
        Safety,
        "C7",
        "the store's own signal of a loss is there for who asks only after it was given",
        |cx| Box::pin(signal_for_late_askers(cx)),
    )
    .needs(&[Need::Hook(Hook::Remove)]),
];

/// A holder with three waiters behind it.
async fn queued(cx: &Context) -> Verdict<(Grant, Queue)> {
    let waiting = cx.connect().await?;
    let holder = cx.request_with_ttl("queue", cx.long_ttl())?;
    let holder = cx.granted(&*cx.provider, &holder).await?;
    let mut queue = Queue::default();
    for _ in 0..3 {
        queue.add(cx, &waiting, "queue").await?;
    }
    Ok((holder, queue))
}

async fn no_attempt_barges(cx: Context) -> Verdict {
    let (mut last, mut queue) = queued(&cx).await?;
    let client = cx.connect().await?;
    while queue.len() > 0 {
        let request = cx.request("queue")?;
        last.lease.release().await?;
        // Nobody else has had a turn since.
        let barged = client.try_acquire(&request).await?;
        require!(barged.is_none(), "an attempt was granted past {} waiters", queue.len());
        (_, last) = queue.granted(&cx).await?;
    }
    last.lease.release().await?;
    cx.no_residue("queue").await
}

async fn no_newcomer_barges(cx: Context) -> Verdict {
    let (mut last, mut queue) = queued(&cx).await?;
    let client = cx.connect().await?;
    while queue.len() > 0 {
        let (newcomer, left) = (cx.request("queue")?, queue.len());
        last.lease.release().await?;
        last = tokio::select! {
            biased;
            barged = client.acquire(&newcomer) => {
                let token = barged?.token;
                return Err(Stop::failed(format!("granted past {left} waiters, with token {token}")));
            }
            granted = queue.granted(&cx) => granted?.1,
        };
        client.withdraw(&newcomer).await?;
    }
    last.lease.release().await?;
    cx.no_residue("queue").await
}

async fn nobody_starves(cx: Context) -> Verdict {
    const ROUNDS: usize = 400;
    let holder = cx.lock("busy").await?.acquire().await?;
    let waiter = tokio::spawn(cx.lock("busy").await?.acquire());
    cx.sleep(Duration::from_millis(20)).await;
    let rounds = Arc::new(AtomicUsize::new(0));
    let mut busy = JoinSet::new();
    for _ in 0..2 {
        let (lock, rounds, clock) = (cx.lock("busy").await?, Arc::clone(&rounds), cx.clock.clone());
        busy.spawn(async move {
            while rounds.fetch_add(1, Ordering::SeqCst) < ROUNDS {
                let guard = lock.acquire().await?;
                clock.sleep(Duration::from_millis(2)).await;
                guard.release().await?;
            }
            Ok::<_, Error>(())
        });
    }
    cx.sleep(Duration::from_millis(20)).await;
    holder.release().await?;
    let guard = waiter.await??;
    let rounds = rounds.swap(ROUNDS, Ordering::SeqCst);
    guard.release().await?;
    while let Some(ended) = busy.join_next().await {
        ended??;
    }
    require!(rounds < ROUNDS, "a waiter was granted only when nobody else came any more");
    Ok(())
}

async fn stalled_attempt(cx: Context) -> Verdict {
    let (client, ttl) = (cx.connect().await?, cx.short_ttl());
    let next = cx.lock("stalled").await?;
    for waits in [false, true] {
        for polls in 1..POLLS {
            let request = cx.request_with_ttl("stalled", ttl)?;
            // Kept to the end: neither dropped nor polled on, as in a process that was stopped.
            let mut attempt = pin!(async {
                if waits {
                    client.acquire(&request).await.map(Some)
                } else {
                    client.try_acquire(&request).await
                }
            });
            let granted = polled(attempt.as_mut(), polls).await.transpose()?;
            let bound = ttl + cx.expiry_slack();
            let what = format!("a name behind an attempt that stalled after {polls} polls");
            cx.by(bound, &what, next.acquire()).await??.release().await?;
            client.withdraw(&request).await?;
            cx.no_residue("stalled").await?;
            if granted.is_some() {
                break;
            }
        }
    }
    Ok(())
}

async fn places_are_kept(cx: Context) -> Verdict {
    let (mut last, mut queue) = queued(&cx).await?;
    cx.sleep(cx.ttl() * 4).await;
    let ended = queue.someone_ended(&cx).await;
    require!(!ended, "a waiter's wait ended beside a holder");
    for expected in 0..3 {
        last.lease.release().await?;
        let number;
        (number, last) = queue.granted(&cx).await?;
        let in_order = cx.guarantees.fairness != Declared::Fifo || number == expected;
        require!(in_order, "waiter {number} was granted instead of waiter {expected}");
    }
    last.lease.release().await?;
    cx.no_residue("queue").await
}

async fn kept_as_granted(cx: Context) -> Verdict {
    let seconds = Duration::from_secs;
    let most = cx.guarantees.expiry.range().map_or(cx.ttl(), |range| range.max);
    for wish in [cx.short_ttl(), cx.ttl(), seconds(90), seconds(3600), most] {
        let lock = cx.lock("kept").await?.ttl(wish.min(most)).renew_manually();
        let asked = cx.clock.now();
        let guard = lock.acquire().await?;
        shown_as_granted(&cx, &guard, asked).await?;
        let asked = cx.clock.now();
        guard.renew().await?;
        shown_as_granted(&cx, &guard, asked).await?;
        guard.release().await?;
    }
    Ok(())
}

/// Compares the ttl that was granted since `asked` with what the store shows of it, if it does.
async fn shown_as_granted(cx: &Context, guard: &Guard, asked: Instant) -> Verdict {
    let Some(operator) = cx.provider.operator() else { return Ok(()) };
    let seen = operator.inspect(guard.name()).await?;
    let shown = seen.holders.first().and_then(|holder| holder.expires_in);
    let (Some(shown), Some(granted)) = (shown, guard.ttl()) else { return Ok(()) };
    let step = cx.guarantees.expiry.range().map_or(Duration::ZERO, |range| range.granularity);
    let gone = cx.clock.now().saturating_since(asked) + step;
    require!(shown + gone >= granted, "{granted:?} was granted, and the store keeps it {shown:?}");
    let left = guard.remaining();
    require!(left <= Some(shown + step), "the holder believes {left:?} are left, not {shown:?}");
    Ok(())
}

async fn signal_for_late_askers(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let grant = cx.granted(&*client, &cx.request("removed")?).await?;
    let mut early = grant.lease.lost();
    require!((&mut early).now_or_never().is_none(), "lost before anything happened");
    cx.fixture.remove(&cx.lock_name("removed")?).await?;
    let Ok(reason) = tokio::time::timeout(cx.wake_up(), early).await else {
        // This store sends no signal.
        return Ok(());
    };
    let late = cx.by(cx.slack(), "a late asker is told too", grant.lease.lost()).await?;
    require!(late == reason, "lost because {late}, then because {reason}");
    Ok(())
}
