//! At the link: what is left of calls that have long ended, and of clients that are closed.

use std::sync::Arc;
use std::time::Duration;

use crate::conformance::case::Challenge::{Atomicity, Performance};
use crate::conformance::case::{Case, Need};
use crate::conformance::cases::link_late::{nothing_stays, warm};
use crate::conformance::context::Context;
use crate::conformance::faults::{Link, Linked, Traffic, Way};
use crate::conformance::hook::Hook;
use crate::conformance::outcome::Outcome;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Error, LockProvider};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-07-old",
        Atomicity,
        "C9",
        "a request that is delivered long after its withdrawal, and after many others, is not granted",
        |cx| Box::pin(old_requests(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(300)
    .operations(2)
    .faults(1),
    Case::new(
        "C9-04",
        Performance,
        "C9",
        "attempts, waits and renewals that have ended leave no connection open",
        |cx| Box::pin(no_connection_stays(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(60),
    Case::new(
        "C9-05",
        Performance,
        "C9",
        "a client that is closed sends nothing, opens nothing and leaves no connection open",
        |cx| Box::pin(quiet_once_closed(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(3),
];

async fn old_requests(cx: Context) -> Verdict {
    let Linked { client, link } = cx.linked().await?;
    warm(&cx, &*client, "old").await?;
    let request = cx.request_with_ttl("old", cx.long_ttl())?;
    link.hold_old(Way::Requests).await?;
    let given_up = client.try_acquire(&request);
    let given_up = cx.by(cx.call_limit(), "a request that is held up ends", given_up).await?;
    let has_failed = matches!(&given_up, Err(Error::Unavailable { .. }));
    require!(has_failed, "a request that was held up answered {given_up:?}");
    cx.answered("the withdrawal is answered", || client.withdraw(&request)).await?;
    let lock = cx.lock("old").await?;
    for _ in 0..40 {
        cx.is_free_for(&lock).await?;
    }
    cx.sleep(Duration::from_secs(if cx.is_virtual() { 120 } else { 3 })).await;
    link.deliver().await?;
    nothing_stays(&cx, None, "old", cx.wake_up()).await
}

/// An attempt and a wait that are granted, renewed and released.
async fn some_calls(
    cx: &Context,
    client: &Arc<dyn LockProvider>,
    tail: &str,
    ttl: Duration,
) -> Verdict {
    let holder = cx.granted(&**client, &cx.request_with_ttl(tail, ttl)?).await?;
    holder.lease.renew().await?;
    let request = cx.request_with_ttl(tail, ttl)?;
    let waiting = {
        let (client, request) = (Arc::clone(client), request.clone());
        tokio::spawn(async move { client.acquire(&request).await })
    };
    cx.queued(&request).await?;
    holder.lease.release().await?;
    let next = cx.by(cx.healed(), "the next waiter is granted", waiting).await???;
    Ok(next.lease.release().await?)
}

async fn used(link: &dyn Link) -> Verdict<Traffic> {
    let traffic = link.traffic().await?;
    require!(traffic.sent > 0, "calls send nothing over the link");
    Ok(traffic)
}

/// How many connections of this link, over which calls have gone, are open.
async fn open(link: &dyn Link) -> Verdict<u64> {
    let untold = || {
        let why = "the link does not tell which connections are open";
        Stop::Final(Outcome::NotReached(why.into()))
    };
    used(link).await?.open.ok_or_else(untold)
}

async fn no_connection_stays(cx: Context) -> Verdict {
    const ROUNDS: u64 = 20;
    let Linked { client, link } = cx.linked().await?;
    for _ in 0..ROUNDS / 2 {
        some_calls(&cx, &client, "calls", cx.long_ttl()).await?;
    }
    cx.sleep(cx.slack()).await;
    let before = open(&*link).await?;
    for _ in 0..ROUNDS {
        some_calls(&cx, &client, "calls", cx.long_ttl()).await?;
    }
    cx.sleep(cx.slack()).await;
    let after = open(&*link).await?;
    // A pool may grow by a few, and one for each round is a leak.
    let grown = after.saturating_sub(before);
    require!(grown < ROUNDS / 2, "{ROUNDS} rounds of calls left {grown} more connections open");
    Ok(())
}

async fn quiet_once_closed(cx: Context) -> Verdict {
    let Linked { client, link } = cx.linked().await?;
    // A session of a short ttl is kept alive by calls that follow soon.
    for ttl in [cx.long_ttl(), cx.patient_ttl()] {
        some_calls(&cx, &client, "closed", ttl).await?;
    }
    client.close().await?;
    cx.sleep(cx.slack()).await;
    let before = used(&*link).await?;
    cx.sleep(if cx.is_virtual() { Duration::from_secs(60) } else { 3 * cx.ttl() }).await;
    let after = link.traffic().await?;
    let sent = after.sent - before.sent;
    require!(sent == 0, "a client that was closed sent {sent} bytes more");
    let new = after.connections - before.connections;
    require!(new == 0, "a client that was closed opened {new} connections");
    let open = after.open.unwrap_or(0);
    require!(open == 0, "a client that was closed has {open} connections open");
    cx.no_residue("closed").await
}
