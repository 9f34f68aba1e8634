//! At the link: holders whose link fails.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::join_all;

use crate::conformance::case::Challenge::{Liveness, Safety, SplitBrain};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::faults::{Linked, Way};
use crate::conformance::hook::Hook;
use crate::conformance::outcome::Outcome;
use crate::conformance::stop::{Stop, Verdict, all, require, require_held, require_in_time};
use crate::{Clock, Error, Guard, GuardWatch, Instant, Lock, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "LV-03",
        Liveness,
        "C7",
        "a holder whose link goes dark is lost by its deadline, and before the next one is granted",
        |cx| Box::pin(dark(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Ttl])
    .operations(12)
    .faults(3),
    Case::new(
        "SB-05",
        SplitBrain,
        "C7",
        "a holder heard by the store but deaf, or the reverse, is lost before the next is granted",
        |cx| Box::pin(one_way(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Ttl])
    .operations(10)
    .faults(2),
    Case::new(
        "LV-04",
        Liveness,
        "C12",
        "a lease survives fifty resets of all its client's connections",
        |cx| Box::pin(resets(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Reconnects])
    .operations(52)
    .faults(50),
    Case::new(
        "LV-05-link",
        Liveness,
        "C12",
        "a lease survives renewals that the network loses, refuses, holds up or delays",
        |cx| Box::pin(bad_renewals(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Reconnects])
    .within(60)
    .operations(12)
    .faults(6),
    Case::new(
        "C7-04",
        Safety,
        "C7",
        "a guard whose link breaks is at risk at once, held all the same, and recovers with the link",
        |cx| Box::pin(at_risk_at_once(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Reconnects])
    .operations(2)
    .faults(2),
    Case::new(
        "C12-02",
        Liveness,
        "C12",
        "on a link that is dark, every call ends by its limit",
        |cx| Box::pin(limits(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(8)
    .faults(1),
    Case::new(
        "C12-03",
        Liveness,
        "C12",
        "a connection that is stuck is replaced after the first call that it costs",
        |cx| Box::pin(stuck(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(10)
    .faults(3),
];

/// Waits for the grant of `lock`, and looks at once whether another still believes, and when.
async fn succeed(lock: Lock, before: GuardWatch, clock: Clock) -> Result<(bool, Instant, Guard)> {
    let guard = lock.acquire().await?;
    Ok((before.is_held(), clock.now(), guard))
}

async fn dark(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let (lock, ttl) = (cx.locks_of(client).lock(cx.name("dark")), cx.ttl());
    let (mut lost_after, mut granted_after) = (Vec::new(), Vec::new());
    let mut margin = Duration::MAX;
    for _ in 0..3 {
        let acquired = cx.by(cx.healed(), "a link that passes again is used", lock.acquire());
        let guard = acquired.await??;
        let next = succeed(cx.lock("dark").await?, guard.watch(), cx.clock.clone());
        let next = tokio::spawn(next);
        cx.sleep(ttl / 2).await;
        require_held(&guard, "lost although it was renewed")?;
        require!(!next.is_finished(), "granted beside a holder that is renewed");
        link.blackhole().await?;
        let dark = cx.clock.now();
        let bound = ttl + cx.slack();
        cx.by(bound, "a holder whose link is dark is lost", guard.lost()).await?;
        let lost = cx.clock.now();
        lost_after.push(lost.saturating_since(dark));
        require!(!guard.is_held(), "held after its loss");
        let (believed, granted, next) =
            cx.by(cx.recovery(), "the next is granted", next).await???;
        granted_after.push(granted.saturating_since(dark));
        margin = margin.min(granted.saturating_since(lost));
        require!(!believed, "two guards held");
        require!(next.token() > guard.token(), "token {} came again", next.token());
        link.pass().await?;
        cx.sleep(ttl / 2).await;
        require!(!guard.is_held(), "the end of the outage brought a lost guard back");
        require_held(&next, "the end of the outage changed the holder")?;
        next.release().await?;
    }
    cx.notes.times("dark to lost", lost_after);
    cx.notes.times("dark to next grant", granted_after);
    cx.notes.time("margin, smallest", margin);
    cx.no_residue("dark").await
}

async fn one_way(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    for way in [Way::Replies, Way::Requests] {
        let Linked { client, link, .. } = cx.linked().await?;
        let locks = cx.locks_of(client);
        let guard = locks.lock(cx.name("deaf")).acquire().await?;
        let next = succeed(cx.lock("deaf").await?, guard.watch(), cx.clock.clone());
        let next = tokio::spawn(next);
        cx.sleep(ttl / 2).await;
        require_held(&guard, "lost although it was renewed")?;
        require!(!next.is_finished(), "granted beside a holder that is renewed");
        link.lose(way).await?;
        let bound = ttl + cx.slack();
        cx.by(bound, "a holder without acknowledgements is lost", guard.lost()).await?;
        // The store may keep a holder that it still hears, until the link is whole.
        cx.sleep(ttl / 2).await;
        link.pass().await?;
        let (believed, _, next) = cx.by(cx.healed(), "the next is granted", next).await???;
        require!(!believed && !guard.is_held(), "two guards held");
        next.release().await?;
        cx.no_residue("deaf").await?;
    }
    Ok(())
}

async fn resets(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let lock = cx.locks_of(client).lock(cx.name("reset")).ttl(5 * cx.ttl());
    let guard = lock.renew_every(cx.ttl() / 10).acquire().await?;
    let waiter = tokio::spawn(cx.lock("reset").await?.acquire());
    for reset in 1..=50 {
        link.reset().await?;
        if reset % 2 == 0 {
            // Every second one certainly meets a renewal.
            match guard.renew().await {
                Ok(()) | Err(Error::Unavailable { .. }) => {}
                Err(error) => {
                    return Err(Stop::error(
                        &error,
                        format_args!("a renewal after {reset} resets"),
                    ));
                }
            }
        }
        cx.sleep(cx.ttl() / 8).await;
        require_held(&guard, format_args!("lost after {reset} resets"))?;
    }
    require!(!waiter.is_finished(), "granted beside a holder");
    guard.renew().await?;
    let made = link.traffic().await?.connections;
    cx.notes.count("connections", made);
    require!(made >= 25, "only {made} connections were made over fifty resets");
    guard.release().await?;
    cx.by(cx.wake_up(), "the waiter is granted", waiter).await???.release().await?;
    cx.no_residue("reset").await
}

async fn bad_renewals(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    // A session is found again by a new connection first, which a busy server takes its time for.
    let ttl = if cx.has_sessions() { 4 } else { 2 } * cx.ttl();
    let lock = cx.locks_of(client).lock(cx.name("renewed")).ttl(ttl);
    // So often that each fault meets a renewal.
    let guard = lock.renew_every(ttl / 5).acquire().await?;
    let mut least = ttl;
    for fault in ["lost", "unanswered", "refused", "held up", "delayed", "cut"] {
        match fault {
            "lost" => link.lose(Way::Requests).await?,
            "unanswered" => link.lose(Way::Replies).await?,
            "refused" => {
                link.refuse().await?;
                link.reset().await?;
            }
            "held up" => link.hold(Way::Requests).await?,
            "delayed" => link.delay(ttl / 30).await?,
            _ => link.cut(Way::Requests, 1).await?,
        }
        cx.sleep(ttl / 4).await;
        require_held(&guard, format_args!("lost while renewals were {fault}"))?;
        link.pass().await?;
        cx.sleep(ttl / 2).await;
        require_held(&guard, format_args!("lost after they had been {fault}"))?;
        let left = guard.remaining().unwrap_or_default();
        least = least.min(left);
        require_in_time!(left > ttl / 4, "only {left:?} are left after renewals had been {fault}");
    }
    cx.notes.time("left after a fault, least", least);
    guard.release().await?;
    cx.is_free("renewed").await?;
    Ok(())
}

async fn at_risk_at_once(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    // So long that nothing but the store's own signal can tell in time.
    let lock = cx.locks_of(client).lock(cx.name("risky")).ttl(cx.long_ttl());
    let guard = lock.acquire().await?;
    cx.sleep(cx.moment()).await;
    require!(guard.at_risk().now_or_never().is_none(), "at risk on a link that is whole");
    link.refuse().await?;
    link.reset().await?;
    let broken = cx.clock.now();
    require!(link.traffic().await?.sent > 0, "nothing went over the link");
    if tokio::time::timeout(cx.wake_up(), guard.at_risk()).await.is_err() {
        let claim = "C7: the provider notices at once that its store is out of reach";
        return Err(Stop::Final(Outcome::NotClaimed(claim.into())));
    }
    cx.notes.time("broken to at risk", cx.clock.now().saturating_since(broken));
    require!(guard.is_held(), "lost when the link broke: {}", guard.lost().await);
    link.pass().await?;
    cx.answered("a renewal is acknowledged after the outage", || guard.renew()).await?;
    let end = cx.clock.now().saturating_add(cx.healed());
    while guard.at_risk().now_or_never().is_some() {
        require_held(&guard, "lost after the outage")?;
        require_in_time!(
            cx.clock.now() < end,
            "at risk although the link is whole and it was renewed"
        );
        cx.sleep(cx.slack() / 10).await;
        drop(guard.renew().await);
    }
    guard.release().await?;
    cx.is_free("risky").await?;
    cx.no_residue("risky").await
}

type Called<'a> = Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

async fn limits(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let request = |tail| cx.request_with_ttl(tail, cx.long_ttl());
    let (renewed, released) = (request("renewed")?, request("released")?);
    let (tried, withdrawn) = (request("tried")?, request("withdrawn")?);
    let renewed = cx.granted(&*client, &renewed).await?;
    let released = cx.granted(&*client, &released).await?;
    // A client may know without asking that a request which it never made left nothing.
    let _withdrawn = cx.granted(&*client, &withdrawn).await?;
    let locks = cx.locks_of(Arc::clone(&client));
    let lock = locks.lock(cx.name("lock")).ttl(cx.long_ttl());
    let guard = locks.lock(cx.name("guard")).ttl(cx.long_ttl()).acquire().await?;
    link.blackhole().await?;

    let name = cx.lock_name("lock")?;
    let mut calls: Vec<(&str, Called<'_>)> = vec![
        (
            "LockProvider::try_acquire",
            Box::pin(async { client.try_acquire(&tried).await.map(drop) }),
        ),
        ("LockProvider::withdraw", Box::pin(async { client.withdraw(&withdrawn).await })),
        ("Lease::renew", Box::pin(async { renewed.lease.renew().await.map(drop) })),
        ("Lease::release", Box::pin(async { released.lease.release().await })),
        ("Lock::try_acquire", Box::pin(async { lock.try_acquire().await.map(drop) })),
        ("Guard::renew", Box::pin(async { guard.renew().await })),
        ("Locks::list", Box::pin(async { locks.list("", None, 1).await.map(drop) })),
    ];
    if let Some(operator) = client.operator() {
        let (name, token) = (&name, renewed.token);
        calls.push((
            "Operator::inspect",
            Box::pin(async { operator.inspect(name).await.map(drop) }),
        ));
        let revoke = async move { operator.revoke(name, token).await.map(drop) };
        calls.push(("Operator::revoke", Box::pin(revoke)));
        calls.push((
            "Operator::list",
            Box::pin(async { operator.list("", None, 1).await.map(drop) }),
        ));
    }
    let limit = cx.call_limit();
    all_fail_within(limit, calls).await?;

    let within = cx.slack() / 2;
    let waited = cx.by(within + cx.slack(), "a wait has its limit", lock.acquire_within(within));
    let waited = waited.await?;
    let told = matches!(waited, Err(Error::Unavailable { .. }));
    require!(told, "a wait on a dark link answered {waited:?}");
    let released = cx.by(limit, "a guard's release has a limit", guard.release()).await?;
    require!(released.is_err(), "a release on a dark link was acknowledged");
    let closed = cx.by(within + cx.slack(), "closing has its limit", locks.close(within)).await?;
    require!(closed.is_err(), "all was cleaned up on a dark link");
    Ok(())
}

/// Makes all calls at once, on a dark link.
async fn all_fail_within(limit: Duration, calls: Vec<(&str, Called<'_>)>) -> Verdict {
    let limited = calls
        .into_iter()
        .map(|(what, call)| async move { (what, tokio::time::timeout(limit, call).await) });
    all(join_all(limited).await.into_iter().map(|(what, ended)| {
        let Ok(ended) = ended else {
            return Err(Stop::late(format!("{what} on a dark link did not end within {limit:?}")));
        };
        let failed = matches!(ended, Err(Error::Unavailable { .. } | Error::Rejected { .. }));
        // A client may know by itself that nothing of this request can be in the store.
        let known = what == "LockProvider::withdraw" && ended.is_ok();
        require!(failed || known, "{what} on a dark link answered {ended:?}");
        Ok(())
    }))
    .map(drop)
}

async fn stuck(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    for round in 0..3 {
        let tail = format!("stuck-{round}");
        let request = cx.request(&tail)?;
        cx.granted(&*client, &cx.request(&tail)?).await?.lease.release().await?;
        link.blackhole_old().await?;
        let first = client.try_acquire(&request);
        let first = cx.by(cx.call_limit(), "a call on a stuck connection ends", first).await?;
        let failed = matches!(&first, Err(Error::Unavailable { .. }) | Ok(Some(_)));
        require!(failed, "a call on a stuck connection answered {first:?}");
        // A replay of the same request.
        let granted = client.try_acquire(&request);
        let granted = cx.by(cx.wake_up(), "the next call has a new connection", granted).await??;
        let granted =
            granted.ok_or_else(|| Stop::failed("a free name was refused after a stuck call"))?;
        granted.lease.release().await?;
        client.withdraw(&request).await?;
        link.pass().await?;
        cx.no_residue(&tail).await?;
    }
    Ok(())
}
