//! Waiters: many of them, of different ttls, for several ttls, beside other names, and who wakes them.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;

use crate::conformance::case::Challenge::{Fairness, Liveness};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Verdict, all, require, require_held};
use crate::{Error, LockProvider};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "FR-11",
        Fairness,
        "C10",
        "waiters of different ttls keep the order in which they came, however long they wait",
        |cx| Box::pin(keep_their_order(cx)),
    )
    .needs(&[Need::Fifo]),
    Case::new(
        "C8-04",
        Liveness,
        "C8",
        "a waiter is granted at once when the holder is revoked, or withdrawn, or the next in the queue leaves",
        |cx| Box::pin(told_of_any_end(cx)),
    ),
    Case::new(
        "C8-05",
        Liveness,
        "C8",
        "more than a hundred wait at once, none is turned away, and the last is granted",
        |cx| Box::pin(many(cx)),
    )
    .within(60),
    Case::new(
        "C12-04",
        Liveness,
        "C12",
        "a client that waits for one name goes on renewing and releasing its others",
        |cx| Box::pin(renews_while_it_waits(cx)),
    ),
];

async fn keep_their_order(cx: Context) -> Verdict {
    let (client, ttl) = (cx.connect().await?, cx.ttl());
    let long = cx.long_ttl();
    for waits in [1, 3] {
        let holder = cx.granted(&*cx.provider, &cx.request_with_ttl("kept", long)?).await?;
        let mut queue = Queue::default();
        // The later it comes, the sooner its place would end.
        for ttls in [3, 2, 1] {
            queue.add_request(&cx, &client, cx.request_with_ttl("kept", ttls * ttl)?).await?;
            cx.sleep(ttl / 9).await;
        }
        // Some have just kept their places alive by then, and others are about to.
        cx.sleep(waits * ttl / 2 + ttl / 27).await;
        let mut last = holder;
        for expected in 0..3 {
            last.lease.release().await?;
            let (number, grant) = queue.granted(&cx).await?;
            require!(
                number == expected,
                "waiter {number} was granted instead of waiter {expected}"
            );
            last = grant;
        }
        last.lease.release().await?;
    }
    cx.no_residue("kept").await
}

/// How a holder ends that does not release.
#[derive(Clone, Copy, Debug)]
enum End {
    Withdrawn,
    Revoked,
}

async fn told_of_any_end(cx: Context) -> Verdict {
    let (ours, theirs) = (cx.connect().await?, cx.connect().await?);
    let mut took = [Vec::new(), Vec::new()];
    for end in [End::Withdrawn, End::Revoked].repeat(3) {
        // So long that no waiter asks again by itself in time.
        let request = cx.request_with_ttl("ended", cx.long_ttl())?;
        let holder = cx.granted(&*ours, &request).await?;
        let mut queue = Queue::default();
        for _ in 0..2 {
            queue.add_request(&cx, &theirs, cx.request_with_ttl("ended", cx.long_ttl())?).await?;
        }
        let ends = cx.clock.now();
        let ended = match (end, cx.provider.operator()) {
            (End::Withdrawn, _) => ours.withdraw(&request).await.map(|()| true),
            (End::Revoked, Some(operator)) => operator.revoke(request.name(), holder.token).await,
            (End::Revoked, None) => Err(Error::rejected("there is no operator", "")),
        };
        if let (End::Revoked, Err(Error::Rejected { .. })) = (end, &ended) {
            ours.withdraw(&request).await?;
        } else {
            require!(ended?, "{end:?}: the end of a grant that is there ended nothing");
        }
        for _ in 0..2 {
            let (_, grant) =
                queue.granted(&cx).await.map_err(|stop| stop.of(format!("{end:?}")))?;
            require!(grant.token > holder.token, "{} came after {}", grant.token, holder.token);
            took[end as usize].push(cx.clock.now().saturating_since(ends));
            grant.lease.release().await?;
        }
    }
    for (end, took) in [End::Withdrawn, End::Revoked].into_iter().zip(took) {
        cx.require_prompt(&format!("{end:?}: a waiter"), &took)?;
    }
    let mut took = Vec::new();
    for _ in 0..3 {
        took.push(next_leaves(&cx, &*ours, &theirs).await?);
    }
    cx.require_prompt("a waiter behind one that left", &took)?;
    cx.no_residue("ended").await
}

/// Has the name freed for a waiter that does not come for it, and that leaves; how long it takes from there
/// until the next is granted.
async fn next_leaves(
    cx: &Context,
    ours: &dyn LockProvider,
    theirs: &Arc<dyn LockProvider>,
) -> Verdict<Duration> {
    let request = || cx.request_with_ttl("ended", cx.long_ttl());
    let (holder, leaves) = (cx.granted(&*cx.provider, &request()?).await?, request()?);
    let mut waiting = pin!(ours.acquire(&leaves));
    tokio::select! {
        ended = &mut waiting => require!(false, "a waiter behind a holder ended: {ended:?}"),
        queued = cx.queued(&leaves) => queued?,
    }
    let mut queue = Queue::default();
    queue.add_request(cx, theirs, request()?).await?;
    // The first waiter is not polled from here on.
    holder.lease.release().await?;
    let left = cx.clock.now();
    ours.withdraw(&leaves).await?;
    let (_, grant) = queue.granted(cx).await?;
    let took = cx.clock.now().saturating_since(left);
    grant.lease.release().await?;
    Ok(took)
}

async fn many(cx: Context) -> Verdict {
    let waiters = if cx.is_virtual() { 300 } else { 101 };
    let clients = cx.clients(5).await?;
    let request = || cx.request_with_ttl("many", cx.long_ttl());
    // It is renewed, for as long as it takes them all to come and go.
    let holder = cx.lock("many").await?.acquire().await?;
    let mut queue = Queue::default();
    for waiter in 0..waiters {
        queue.add_request(&cx, &clients[waiter % clients.len()], request()?).await?;
    }
    require!(!queue.someone_ended(&cx).await, "one of {waiters} waiters was turned away");
    all(join_all((0..waiters - 1).map(|waiter| queue.withdraw(waiter))).await)?;
    for _ in 0..waiters - 1 {
        let (number, ended) = queue.ended(&cx).await?;
        require!(ended.is_err(), "waiter {number}, which was withdrawn, ended with {ended:?}");
    }
    require_held(&holder, "a holder before many waiters")?;
    holder.release().await?;
    let (last, grant) = queue.granted(&cx).await?;
    require!(last == waiters - 1, "waiter {last} was granted, which was withdrawn");
    grant.lease.release().await?;
    cx.no_residue("many").await
}

async fn renews_while_it_waits(cx: Context) -> Verdict {
    let locks = cx.locks().await?;
    let other = cx.granted(&*cx.provider, &cx.request_with_ttl("other", cx.long_ttl())?).await?;
    let (held, released) = (locks.lock(cx.name("held")), locks.lock(cx.name("released")));
    let (held, released) = (held.acquire().await?, released.acquire().await?);
    let waiting = tokio::spawn(locks.lock(cx.name("other")).acquire());
    for _ in 0..2 {
        cx.sleep(cx.ttl()).await;
        require_held(&held, "lost while its client waited for another name")?;
        let barged = cx.provider.try_acquire(&cx.request("held")?).await?;
        require!(barged.is_none(), "the store ended a lease whose client waits for another name");
    }
    require!(!waiting.is_finished(), "a wait behind a holder ended: {:?}", waiting.await);
    released.release().await?;
    cx.is_free("released").await?;
    other.lease.release().await?;
    let guard = cx.by(cx.wake_up(), "the waiter is granted", waiting).await???;
    require_held(&guard, "a grant was lost on its arrival")?;
    guard.release().await?;
    held.release().await?;
    cx.no_residue("other").await
}
