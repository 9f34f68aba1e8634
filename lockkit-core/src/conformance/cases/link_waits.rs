//! At the link: waiters whose link fails, or beside whom something comes late.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Challenge::{Fairness, Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::faults::{Linked, Way};
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_held};
use crate::{Error, Grant, Guard, LockProvider, Request, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "LV-15",
        Liveness,
        "C8",
        "a waiter whose connections are cut, or fall silent, learns that the name is free",
        |cx| Box::pin(cut_wake_ups(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(18)
    .faults(12),
    Case::new(
        "C8-07",
        Liveness,
        "C8",
        "a client whose connections were cut, and refused for a while, is told of releases as before",
        |cx| Box::pin(told_again(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Push])
    .operations(20)
    .faults(2),
    Case::new(
        "LV-09-link",
        Liveness,
        "C8",
        "waiters go through an outage of three ttls by themselves, and all are granted after it",
        |cx| Box::pin(through_an_outage(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .operations(12)
    .faults(2),
    Case::new(
        "C8-06",
        Liveness,
        "C8",
        "a wait that runs out of time in an outage tells of that, and not of the holder before it",
        |cx| Box::pin(outage_told(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(1)
    .faults(2),
    Case::new(
        "C6-03",
        Safety,
        "C6",
        "the end of a grant that came after its withdrawal hands nothing on to a waiter",
        |cx| Box::pin(late_grant_ends(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(4)
    .faults(1),
    Case::new(
        "FR-06",
        Fairness,
        "C10",
        "resetting one waiter's connections disturbs nobody else's place",
        |cx| Box::pin(one_is_reset(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Fifo])
    .operations(6)
    .faults(1),
];

async fn cut_wake_ups(cx: Context) -> Verdict {
    for round in 0..12 {
        let Linked { client, link, .. } = cx.linked().await?;
        let request = cx.request_with_ttl("waiting", cx.long_ttl())?;
        let holder = cx.granted(&*cx.provider, &request).await?;
        let waiter = tokio::spawn(cx.locks_of(client).lock(cx.name("waiting")).acquire());
        cx.have_come("waiting", 2).await?;
        // Once before the wake-ups are subscribed to, once after.
        cx.sleep(Duration::from_millis(100) * (round / 4 % 2)).await;
        // A cut is seen at once; silence costs a call and what comes after it.
        let bound = match round % 4 {
            0 | 1 => {
                link.reset().await?;
                cx.wake_up()
            }
            2 => {
                link.blackhole_old().await?;
                cx.recovery()
            }
            _ => {
                link.refuse().await?;
                link.reset().await?;
                cx.recovery()
            }
        };
        if round % 4 == 1 {
            // The release falls into the time of its recovery.
            cx.sleep(Duration::from_millis(u64::from(round))).await;
        }
        holder.lease.release().await?;
        if round % 4 == 3 {
            cx.sleep(cx.slack()).await;
            link.pass().await?;
        }
        cx.by(bound, "a waiter that was cut is granted", waiter).await???.release().await?;
        cx.no_residue("waiting").await?;
    }
    Ok(())
}

async fn told_again(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    for is_refused in [false, true] {
        // The first time, so that there is a connection that brings wake-ups.
        hand_over(&cx, &client).await?;
        if is_refused {
            link.refuse().await?;
            link.reset().await?;
            cx.sleep(cx.slack()).await;
            link.pass().await?;
        } else {
            link.reset().await?;
        }
        // It may need a call and a wait to notice that; then a pause, and a connection.
        if let Ok(Some(grant)) = client.try_acquire(&cx.request("elsewhere")?).await {
            drop(grant.lease.release().await);
        }
        hand_over(&cx, &client).await?;
        cx.sleep(cx.recovery()).await;
        let mut took = Vec::new();
        for _ in 0..3 {
            took.push(hand_over(&cx, &client).await?);
        }
        let how = if is_refused { "cut, and refused," } else { "cut," };
        cx.require_prompt(&format!("after its link was {how} a waiter"), &took)?;
    }
    cx.no_residue("told").await
}

/// Has a waiter of this client wait for a release; how long it took from there to its grant.
async fn hand_over(cx: &Context, client: &Arc<dyn LockProvider>) -> Verdict<Duration> {
    let request = || cx.request_with_ttl("told", cx.long_ttl());
    let holder = cx.granted(&*cx.provider, &request()?).await?;
    let asked = request()?;
    let waiter = tokio::spawn(wait(Arc::clone(client), asked.clone()));
    cx.queued(&asked).await?;
    cx.sleep(cx.arrival()).await;
    let released = cx.clock.now();
    holder.lease.release().await?;
    let grant = cx.by(cx.healed(), "a waiter is granted", waiter).await???;
    let took = cx.clock.now().saturating_since(released);
    grant.lease.release().await?;
    Ok(took)
}

async fn through_an_outage(cx: Context) -> Verdict {
    const WAITERS: usize = 5;
    let Linked { client, link, .. } = cx.linked().await?;
    let lock = cx.locks_of(client).lock(cx.name("outage"));
    for dark in [false, true] {
        let holder = cx.lock("outage").await?.acquire().await?;
        let mut last = holder.token();
        let mut waiters = JoinSet::new();
        for _ in 0..WAITERS {
            waiters.spawn(lock.acquire());
        }
        cx.have_come("outage", 1 + WAITERS).await?;
        if dark {
            link.blackhole().await?;
        } else {
            link.refuse().await?;
            link.reset().await?;
        }
        cx.sleep(3 * cx.ttl()).await;
        let ended = waiters.try_join_next();
        require!(ended.is_none(), "a waiter did not go through the outage: {ended:?}");
        require_held(&holder, "an outage of its waiters ended a holder")?;
        link.pass().await?;
        holder.release().await?;
        for _ in 0..WAITERS {
            let guard: Guard = cx
                .by(cx.healed(), "a waiter is granted after the outage", waiters.join_next())
                .await?
                .ok_or_else(|| Stop::failed("nobody waits any more"))???;
            require!(guard.token() > last, "token {} came after {last}", guard.token());
            last = guard.token();
            guard.release().await?;
        }
        cx.is_free("outage").await?;
        cx.no_residue("outage").await?;
    }
    Ok(())
}

async fn outage_told(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let holder = cx.lock("outage").await?.acquire().await?;
    let lock = cx.locks_of(client).lock(cx.name("outage"));
    // Time enough to find out that the link is broken.
    let limit = cx.wake_up() + cx.call_limit();
    let waiter = tokio::spawn(lock.acquire_within(limit));
    cx.have_come("outage", 2).await?;
    cx.sleep(cx.moment()).await;
    link.refuse().await?;
    link.reset().await?;
    let ended = cx.by(limit + cx.slack(), "a wait ends with its time", waiter).await??;
    let told = matches!(ended, Err(Error::Unavailable { .. }));
    require!(told, "a wait that ran out of time in an outage ended with {ended:?}");
    require_held(&holder, "an outage of its waiter ended a holder")?;
    link.pass().await?;
    holder.release().await?;
    cx.is_free("outage").await?;
    cx.no_residue("outage").await
}

async fn late_grant_ends(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let before = cx.request_with_ttl("before", cx.long_ttl())?;
    cx.granted(&*client, &before).await?.lease.release().await?;
    let first = cx.request_with_ttl("late", cx.long_ttl())?;
    link.hold(Way::Replies).await?;
    let late = tokio::spawn(wait_once(Arc::clone(&client), first.clone()));
    cx.sleep(cx.moment()).await;
    let withdrawn = {
        let (client, first) = (Arc::clone(&client), first.clone());
        tokio::spawn(async move { client.withdraw(&first).await })
    };
    cx.sleep(cx.moment()).await;
    link.deliver().await?;
    cx.by(cx.call_limit(), "a withdrawal is answered", withdrawn).await???;
    let late = cx.by(cx.call_limit(), "a withdrawn request ends", late).await??;

    let next = cx.request_with_ttl("late", cx.long_ttl())?;
    let holder = cx.granted(&*cx.provider, &next).await?;
    let second = cx.request_with_ttl("late", cx.long_ttl())?;
    let waiting = tokio::spawn(wait_once(Arc::clone(&client), second.clone()));
    cx.queued(&second).await?;
    if let Ok(grant) = late {
        let released = grant.lease.release().await;
        let known = matches!(released, Ok(()) | Err(Error::Lost { .. }));
        require!(known, "the release of a grant that came late answered {released:?}");
    }
    cx.sleep(cx.moment()).await;
    require!(!waiting.is_finished(), "granted, or refused, beside a holder");
    holder.lease.release().await?;
    let granted = cx.by(cx.wake_up(), "a waiter is granted", waiting).await???;
    require!(granted.token > holder.token, "{} after {}", granted.token, holder.token);
    granted.lease.release().await?;
    cx.no_residue("late").await
}

async fn wait_once(client: Arc<dyn LockProvider>, request: Request) -> Result<Grant> {
    client.acquire(&request).await
}

/// Waits as the driver does: through failures, with one request.
async fn wait(client: Arc<dyn LockProvider>, request: Request) -> Result<Grant> {
    loop {
        match client.acquire(&request).await {
            Err(Error::Unavailable { .. }) => {
                request.clock().sleep(Duration::from_millis(10)).await;
            }
            ended => return ended,
        }
    }
}

async fn one_is_reset(cx: Context) -> Verdict {
    const WAITERS: usize = 5;
    const RESET: usize = 2;
    let first = cx.request_with_ttl("order", cx.long_ttl())?;
    let holder = cx.granted(&*cx.provider, &first).await?;
    let (mut links, mut waiters) = (Vec::new(), JoinSet::new());
    for number in 0..WAITERS {
        let Linked { client, link, .. } = cx.linked().await?;
        let request = cx.request("order")?;
        let asked = request.clone();
        waiters.spawn(async move { (number, wait(client, asked).await) });
        cx.queued(&request).await?;
        links.push(link);
    }
    links[RESET].reset().await?;
    cx.sleep(cx.moment()).await;
    holder.lease.release().await?;
    let mut order = Vec::new();
    for _ in 0..WAITERS {
        let granted = cx.by(cx.recovery(), "a waiter is granted", waiters.join_next()).await?;
        let (number, granted) = granted.ok_or_else(|| Stop::failed("nobody waits any more"))??;
        order.push(number);
        granted?.lease.release().await?;
    }
    let others: Vec<_> = order.iter().copied().filter(|number| *number != RESET).collect();
    require!(others.is_sorted(), "{RESET} was reset, and the order became {order:?}");
    // Where leases outlive connections, places do.
    let keeps = cx.ends_with_connection() || order.is_sorted();
    require!(keeps, "{RESET} was reset, and lost its place: {order:?}");
    cx.no_residue("order").await
}
