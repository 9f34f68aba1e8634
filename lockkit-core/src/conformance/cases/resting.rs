//! Names that stay taken after their guards have ended: minimum holds, and delays after a loss.

use std::time::Duration;

use futures_util::future::join_all;

use crate::conformance::case::Challenge::{Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, all, require};
use crate::conformance::tap::Tap;
use crate::{Error, Grant, Guard, Instant, Kind, LockProvider, MinimumHold, Request};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C11-09",
        Liveness,
        "C11",
        "a name stays taken for its minimum hold after a guard has ended at once, and is free soon after",
        |cx| Box::pin(held_at_least(cx)),
    ),
    Case::new(
        "C11-10",
        Liveness,
        "C11",
        "the store frees a name by itself after its minimum hold, and not before, although the holder's \
         client is gone",
        |cx| Box::pin(freed_by_the_store(cx)),
    )
    .needs(&[Need::HoldByStore]),
    Case::new(
        "C11-11",
        Liveness,
        "C11",
        "the name of a holder that was cut off stays taken for its delay, and is free soon after",
        |cx| Box::pin(delayed(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C11-12",
        Liveness,
        "C11",
        "jobs of 8 ms that many clients start 60 ms apart run once, with a minimum hold of a second",
        |cx| Box::pin(once_per_tick(cx)),
    ),
    Case::new(
        "C13-03",
        Safety,
        "C13",
        "the store keeps minimum holds by itself if it is declared, and else leaves the grant alone",
        |cx| Box::pin(as_declared(cx)),
    ),
    Case::new(
        "C6-09",
        Safety,
        "C6",
        "a release with a rest touches no grant but its own, and brings none back",
        |cx| Box::pin(own_grant_only(cx)),
    )
    .needs(&[Need::HoldByStore]),
    Case::new(
        "C6-10",
        Safety,
        "C6",
        "a grant that rests is over for its request: no renewal and no replay makes it last",
        |cx| Box::pin(over_for_its_request(cx)),
    )
    .needs(&[Need::HoldByStore]),
    Case::new(
        "C6-11",
        Safety,
        "C6",
        "a release with a rest that is repeated or comes late makes no rest longer",
        |cx| Box::pin(repeated(cx)),
    )
    .needs(&[Need::HoldByStore]),
];

/// A rest that a busy machine does not outlast between two calls.
fn rest_of(cx: &Context) -> Duration {
    2 * cx.slack()
}

/// By when after its rest a name is granted to a waiter.
fn soon(cx: &Context) -> Duration {
    cx.expiry_slack()
}

/// Waits until the waiter is granted: not before the rest that was asked for at `since` is over, and soon after.
async fn granted_after(
    cx: &Context,
    waiting: &mut Queue,
    since: Instant,
    rest: Duration,
) -> Verdict<Grant> {
    loop {
        let waited = cx.clock.now().saturating_since(since);
        let ended = waiting.ended(cx).await;
        let now = cx.clock.now().saturating_since(since);
        match ended {
            Ok((_, granted)) => {
                require!(now >= rest, "granted {now:?} after a rest of {rest:?} had begun");
                return Ok(granted?);
            }
            Err(Stop::Late(_)) if waited < rest + soon(cx) => {}
            Err(stop) => return Err(stop),
        }
    }
}

/// A waiter for the name with this tail.
async fn waiter(cx: &Context, tail: &str) -> Verdict<Queue> {
    let mut waiting = Queue::default();
    let request = cx.request_with_ttl(tail, cx.long_ttl())?;
    waiting.add_request(cx, &cx.connect().await?, request).await?;
    Ok(waiting)
}

/// Ends the holder's right, and has the store keep the name for so long.
async fn rest(grant: &Grant, rest: Duration) -> Verdict {
    let offered = grant.lease.release_after(rest).await?;
    require!(offered, "the store declares that it keeps minimum holds, and kept none");
    Ok(())
}

/// Ways in which a guard ends at once.
async fn let_go(guard: Guard, way: &str) -> Verdict {
    match way {
        "released" => guard.release().await?,
        "dropped" => drop(guard),
        _ => guard.run(async |_guard| ()).await?,
    }
    Ok(())
}

async fn held_at_least(cx: Context) -> Verdict {
    let least = rest_of(&cx);
    let ways = ["released", "dropped", "run"].map(|way| {
        let cx = &cx;
        async move {
            let lock = cx.lock(way).await?.ttl(cx.long_ttl()).hold_at_least(least);
            let (early, late) = (cx.lock(way).await?, cx.lock(way).await?);
            let began = cx.clock.now();
            let guard = lock.acquire().await?;
            let watch = guard.watch();
            cx.by(cx.wake_up(), "the end of a guard", let_go(guard, way)).await??;
            require!(!watch.is_held(), "a guard that was {way} is held");
            let attempt = early.try_acquire().await?;
            let gone = cx.clock.now().saturating_since(began);
            require!(
                attempt.is_none() || gone >= least,
                "free after {gone:?}, with a minimum hold of {least:?}"
            );
            drop(attempt);
            let next = late.acquire_within(least + soon(cx)).await?;
            let gone = cx.clock.now().saturating_since(began);
            require!(gone >= least, "free after {gone:?}, with a minimum hold of {least:?}");
            next.release().await?;
            cx.no_residue(way).await
        }
    });
    all(join_all(ways).await).map(drop)
}

async fn freed_by_the_store(cx: Context) -> Verdict {
    let short = rest_of(&cx);
    let parts = [
        ("short", Kind::Exclusive, cx.long_ttl(), short),
        ("long", Kind::Exclusive, cx.ttl(), cx.ttl() + short),
        ("shared", Kind::Shared, cx.long_ttl(), short),
    ];
    let offered = |kind: &Kind| cx.guarantees.kinds.contains(kind);
    let parts = parts.into_iter().filter(|(_, kind, ..)| offered(kind));
    let parts = parts.map(|(tail, kind, ttl, rest_for)| {
        let cx = &cx;
        async move {
            let holder = cx.connect().await?;
            let request = cx.request_with_ttl(tail, ttl)?.with_kind(kind);
            let grant = cx.granted(&*holder, &request).await?;
            let mut waiting = waiter(cx, tail).await?;
            // In time: it may have expired meanwhile.
            grant
                .lease
                .renew()
                .await
                .map_err(|error| cx.not_kept(grant.term, error.to_string()))?;
            let since = cx.clock.now();
            rest(&grant, rest_for).await?;
            drop(grant);
            holder.close().await?;
            drop(holder);
            granted_after(cx, &mut waiting, since, rest_for).await?.lease.release().await?;
            cx.no_residue(tail).await
        }
    });
    all(join_all(parts).await).map(drop)
}

async fn once_per_tick(cx: Context) -> Verdict {
    let (least, apart, lasting) =
        (Duration::from_secs(1), Duration::from_millis(60), Duration::from_millis(8));
    let mut locks = Vec::new();
    for _ in 0..4 {
        locks.push(cx.lock("tick").await?.hold_at_least(least));
    }
    let (mut runs, mut began) = (0, None);
    for lock in locks.iter().cycle().take(12) {
        let started = *began.get_or_insert(cx.clock.now());
        let ran = lock.try_run(async |_guard| cx.sleep(lasting).await).await?.is_some();
        if cx.clock.now().saturating_since(started) >= least {
            break; // A slow store, or machine: the tick is over.
        }
        runs += u32::from(ran);
        cx.sleep(apart).await;
    }
    require!(runs <= 1, "{runs} of the jobs of one tick ran");
    Ok(())
}

async fn delayed(cx: Context) -> Verdict {
    let (ttl, delay) = (cx.ttl(), rest_of(&cx));
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let lock = cx.locks_of(tap.clone()).lock(cx.name("delayed")).ttl(ttl).delay_after_loss(delay);
    let next = cx.lock("delayed").await?;
    // A clean end has no delay.
    lock.acquire().await?.release().await?;
    cx.is_free_for(&next).await?;
    let guard = lock.acquire().await?;
    let end = guard.remaining();
    require!(end <= Some(ttl), "the holder believes for {end:?}, beyond its ttl of {ttl:?}");
    tap.cut();
    guard.lost().await;
    let lost = cx.clock.now();
    let bound = ttl + delay + soon(&cx);
    let granted = cx.by(bound, "the name of a lost holder is free", next.acquire()).await??;
    let gone = cx.clock.now().saturating_since(lost);
    require!(gone >= delay, "free {gone:?} after the loss, with a delay of {delay:?}");
    granted.release().await?;
    Ok(())
}

async fn as_declared(cx: Context) -> Verdict {
    let request = cx.request_with_ttl("declared", cx.long_ttl())?;
    let grant = cx.granted(&*cx.provider, &request).await?;
    let rests = grant.lease.release_after(rest_of(&cx)).await?;
    let declared = cx.guarantees.minimum_hold;
    require!(
        rests == (declared == MinimumHold::ByStore),
        "release_after gave {rests}, and minimum holds are kept by {declared}"
    );
    if !rests {
        grant.lease.renew().await?;
        grant.lease.release().await?;
        cx.is_free("declared").await?;
    }
    Ok(())
}

/// That a release with a rest, late as it is, finds no grant to end; after a release it may say that it did.
async fn in_vain(late: &Grant, how: &str, may_be_ok: bool) -> Verdict {
    match late.lease.release_after(Duration::from_secs(30)).await {
        Err(Error::Lost { .. }) => Ok(()),
        Ok(_) if may_be_ok => Ok(()),
        other => Err(Stop::failed(format!("a rest of a grant that was {how} before: {other:?}"))),
    }
}

async fn own_grant_only(cx: Context) -> Verdict {
    let (holder, next) = (cx.connect().await?, cx.connect().await?);
    let name = cx.lock_name("own")?;
    for how in ["released", "revoked", "expired"] {
        let ttl = if how == "expired" { cx.short_ttl() } else { cx.long_ttl() };
        let ended = cx.granted(&*holder, &cx.request_with_ttl("own", ttl)?).await?;
        match (how, cx.provider.operator()) {
            ("revoked", Some(operator)) => {
                require!(operator.revoke(&name, ended.token).await?, "a live grant was not found");
            }
            ("expired", _) => {
                let free = cx.request_with_ttl("own", cx.long_ttl())?;
                next.acquire(&free).await?.lease.release().await?;
            }
            _ => ended.lease.release().await?,
        }
        let may_be_ok = how == "released" || cx.provider.operator().is_none();
        in_vain(&ended, how, may_be_ok).await?;
        let other = cx.request_with_ttl("own", cx.long_ttl())?;
        let held = cx
            .granted(&*next, &other)
            .await
            .map_err(|stop| stop.of(format!("after a rest of a grant that was {how} before")))?;
        in_vain(&ended, how, may_be_ok).await?;
        held.lease.renew().await?;
        held.lease.release().await?;
        cx.is_free("own").await?;
    }
    Ok(())
}

/// A grant that rests, and a waiter behind it.
async fn resting(
    cx: &Context,
    holder: &dyn LockProvider,
    request: &Request,
    tail: &str,
) -> Verdict<(Grant, Queue, Instant)> {
    let grant = cx.granted(holder, request).await?;
    let waiting = waiter(cx, tail).await?;
    let since = cx.clock.now();
    rest(&grant, rest_of(cx)).await?;
    Ok((grant, waiting, since))
}

async fn over_for_its_request(cx: Context) -> Verdict {
    each_kind(&cx, over_for_this_request).await
}

/// What must hold of each kind of grant, with the tail of its name.
async fn each_kind(cx: &Context, part: impl AsyncFn(&Context, Kind, &str) -> Verdict) -> Verdict {
    for (kind, tail) in [(Kind::Exclusive, "exclusive"), (Kind::Shared, "shared")] {
        if cx.guarantees.kinds.contains(&kind) {
            part(cx, kind, tail).await.map_err(|stop| stop.of(tail))?;
        }
    }
    Ok(())
}

async fn over_for_this_request(cx: &Context, kind: Kind, tail: &str) -> Verdict {
    let holder = cx.connect().await?;
    let request = cx.request_with_ttl(tail, cx.long_ttl())?.with_kind(kind);
    let (grant, mut waiting, since) = resting(cx, &*holder, &request, tail).await?;
    cx.has_ended(&grant, "a grant that rests was renewed").await?;
    let replayed = holder.try_acquire(&request).await;
    require!(!matches!(replayed, Ok(Some(_))), "a replay was given the grant that rests");
    let next = granted_after(cx, &mut waiting, since, rest_of(cx)).await?;
    next.lease.release().await?;
    drop(grant);
    cx.no_residue(tail).await
}

async fn repeated(cx: Context) -> Verdict {
    each_kind(&cx, repeated_of_kind).await
}

async fn repeated_of_kind(cx: &Context, kind: Kind, tail: &str) -> Verdict {
    let holder = cx.connect().await?;
    let request = cx.request_with_ttl(tail, cx.long_ttl())?.with_kind(kind);
    let (grant, mut waiting, since) = resting(cx, &*holder, &request, tail).await?;
    // Repeated, as after a reply that was lost, and as a sending that was held up.
    for again in [rest_of(cx), cx.long_ttl()] {
        let outcome = grant.lease.release_after(again).await;
        let is_over = matches!(outcome, Ok(true) | Err(Error::Lost { .. }));
        require!(is_over, "a repeated release with a rest: {outcome:?}");
    }
    let next = granted_after(cx, &mut waiting, since, rest_of(cx)).await?;
    in_vain(&grant, "over", true).await?;
    next.lease.renew().await?;
    next.lease.release().await?;
    drop(grant);
    cx.no_residue(tail).await
}
