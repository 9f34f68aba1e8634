//! Liveness: leases that are kept, and ends that come.

use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;

use crate::conformance::case::Challenge::Liveness;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::stop::{Stop, Verdict, require, require_held, require_in_time};
use crate::conformance::tap::Tap;
use crate::{Error, Locks, LossReason};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "LV-05",
        Liveness,
        "C12",
        "a lease survives renewals that fail for a quarter of its ttl",
        |cx| Box::pin(failed_renewals(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "LV-07",
        Liveness,
        "C12",
        "a lease held for ten ttls is renewed in time, is never lost, and keeps waiters out",
        |cx| Box::pin(held_for_long(cx)),
    )
    .needs(&[Need::Ttl])
    .within(60),
    Case::new(
        "LV-08",
        Liveness,
        "C7",
        "without renewal the guard is lost at its deadline, and the waiter granted soon after",
        |cx| Box::pin(not_renewed(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "C11-01",
        Liveness,
        "C11",
        "a holder that is cut off keeps its name for its ttl, and not for much longer",
        |cx| Box::pin(cut_off(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C11-02",
        Liveness,
        "C11",
        "where leases end with their holder, no ttl ends one",
        |cx| Box::pin(no_ttl_ends_it(cx)),
    )
    .needs(&[Need::NoTtl]),
    Case::new(
        "C11-03",
        Liveness,
        "C11",
        "where leases end with their holder, dropping the lease or a waiting future frees the name",
        |cx| Box::pin(dropping_frees(cx)),
    )
    .needs(&[Need::NoTtl]),
    Case::new("LV-18", Liveness, "C7", "max_hold ends a hold whose renewals go on", |cx| {
        Box::pin(max_hold(cx))
    }),
    Case::new(
        "LV-19",
        Liveness,
        "C7",
        "a guard whose driver has died is lost, and its name free after a ttl at most",
        |cx| Box::pin(dead_driver(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "LV-20",
        Liveness,
        "C12",
        "a guard whose runtime was blocked past the deadline is not held at the first look",
        |cx| Box::pin(starved(cx)),
    )
    .needs(&[Need::RealTime, Need::Ttl]),
    Case::new(
        "LV-21",
        Liveness,
        "C9",
        "a forgotten guard is renewed until its locks are closed",
        |cx| Box::pin(forgotten(cx)),
    ),
    Case::new(
        "LV-22",
        Liveness,
        "C9",
        "closing ends waiters, releases what is held, and leaves nothing",
        |cx| Box::pin(closed(cx)),
    ),
];

async fn failed_renewals(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("held")).acquire().await?;
    for _ in 0..3 {
        tap.cut();
        cx.sleep(ttl / 4).await;
        tap.mend();
        cx.sleep(ttl).await;
        require_held(&guard, "lost after renewals had failed for a quarter of the ttl")?;
    }
    Ok(guard.release().await?)
}

async fn held_for_long(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("held")).acquire().await?;
    let token = guard.token();
    let waiter = tokio::spawn(cx.lock("held").await?.acquire());
    let busy = cx.lock("busy").await?;
    let end = cx.clock.now().saturating_add(10 * ttl);
    while cx.clock.now() < end {
        require_held(&guard, "lost although it was renewed")?;
        require!(!waiter.is_finished(), "granted beside a holder that is renewed");
        require!(guard.remaining() < Some(ttl), "more left than the ttl: {:?}", guard.remaining());
        busy.acquire().await?.release().await?;
        cx.sleep(ttl / 17).await;
    }
    let renewals = tap.renewals();
    cx.notes.count("renewals in ten ttls", renewals.into());
    require!((20..=60).contains(&renewals), "{renewals} renewals in ten ttls");
    require!(guard.token() == token, "a renewal changed the token");
    guard.release().await?;
    cx.by(cx.wake_up(), "the waiter is granted", waiter).await???.release().await?;
    Ok(())
}

async fn not_renewed(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let started = cx.clock.now();
    let lock = cx.lock("lapsing").await?.renew_manually();
    let guard = lock.acquire().await?;
    let waiter = tokio::spawn(cx.lock("lapsing").await?.acquire());
    let reason = guard.lost().await;
    let lost = cx.clock.now().saturating_since(started);
    require!(reason == LossReason::Expired, "lost because {reason}");
    require!(lost > ttl / 2, "lost {lost:?} after a grant with a ttl of {ttl:?}");
    let late = ttl + cx.slack();
    require_in_time!(lost < late, "lost only {lost:?} after a grant with a ttl of {ttl:?}");
    let next = cx.by(ttl + cx.expiry_slack(), "the waiter is granted", waiter).await???;
    require!(next.token() > guard.token(), "token {} came again", next.token());
    require!(matches!(guard.release().await, Err(Error::Lost { .. })), "released after its loss");
    Ok(next.release().await?)
}

async fn cut_off(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("held")).renew_manually().acquire().await?;
    let asked = cx.clock.now();
    guard.renew().await?;
    let renewed = cx.clock.now();
    tap.cut();
    let waiter = cx.lock("held").await?;
    let next = cx.by(ttl + cx.expiry_slack(), "the waiter is granted", waiter.acquire()).await??;
    let after = cx.clock.now().saturating_since(renewed);
    cx.notes.time("last renewal to next grant", after);
    // Renewed at some moment of the call, however long the machine took for it.
    let took = renewed.saturating_since(asked);
    let early = ttl.saturating_sub(cx.slack().min(ttl / 10));
    require!(after + took > early, "granted {after:?} after a renewal with a ttl of {ttl:?}");
    require!(!guard.is_held(), "two guards held");
    Ok(next.release().await?)
}

async fn no_ttl_ends_it(cx: Context) -> Verdict {
    let ttl = cx.short_ttl();
    let client = cx.connect().await?;
    let request = cx.request_with_ttl("held", ttl)?;
    let grant = cx.granted(&*client, &request).await?;
    require!(grant.term.ttl.is_none(), "a ttl was granted: {:?}", grant.term.ttl);
    let guard = cx.lock("guarded").await?.ttl(ttl).acquire().await?;
    cx.sleep(10 * ttl).await;
    let other = cx.provider.try_acquire(&cx.request("held")?).await?;
    require!(other.is_none(), "a lease ended by a ttl that has no effect");
    require!(guard.is_held() && guard.remaining().is_none(), "{guard:?} has an end");
    guard.release().await?;
    Ok(grant.lease.release().await?)
}

async fn dropping_frees(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    drop(cx.granted(&*client, &cx.request("dropped")?).await?);
    cx.is_free("dropped").await?;
    let holder = cx.lock("dropped").await?.acquire().await?;
    let request = cx.request("dropped")?;
    tokio::select! {
        granted = client.acquire(&request) => require!(false, "granted beside a holder: {granted:?}"),
        queued = cx.queued(&request) => queued?,
    }
    holder.release().await?;
    cx.is_free("dropped").await?;
    cx.no_residue("dropped").await
}

async fn max_hold(cx: Context) -> Verdict {
    let cap = cx.ttl() * 2;
    let lock = cx.lock("capped").await?.max_hold(cap);
    let guard = lock.acquire().await?;
    let granted = cx.clock.now();
    let reason = cx.by(cap + cx.slack(), "max_hold ends a hold", guard.lost()).await?;
    let held = cx.clock.now().saturating_since(granted);
    // A machine that stands still for longer than a ttl ends it first.
    require_in_time!(reason != LossReason::Expired, "lost because {reason}");
    require!(reason == LossReason::MaxHold, "lost because {reason}");
    require!(held > cap / 2, "lost {held:?} after its grant, with a max_hold of {cap:?}");
    cx.is_free("capped").await?;
    Ok(())
}

async fn dead_driver(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("orphaned")).acquire().await?;
    tap.break_renewals();
    // The first renewal comes before that, and the deadline after it.
    let bound = ttl / 2 + cx.slack();
    let reason = cx.by(bound, "the loss of its driver is told", guard.lost()).await?;
    require!(!guard.is_held(), "held without a driver, lost because {reason}");
    let renewed = guard.renew().await;
    require!(matches!(renewed, Err(Error::Lost { .. })), "renewed without a driver: {renewed:?}");
    let released = cx.by(cx.slack(), "a release without a driver ends", guard.release()).await?;
    require!(released.is_err(), "released without a driver");
    let next = cx.lock("orphaned").await?.acquire_within(ttl + cx.expiry_slack()).await?;
    Ok(next.release().await?)
}

async fn starved(cx: Context) -> Verdict {
    let (fixture, name, ttl) = (std::sync::Arc::clone(&cx.fixture), cx.name("starved"), cx.ttl());
    let settled = cx.arrival();
    let builder = Locks::builder().clock(cx.clock.clone()).ttl(ttl);
    let starving = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let lock = builder.build(fixture.connect().await?).lock(name);
            let guard = lock.acquire().await?;
            thread::sleep(ttl * 3 / 2);
            let first_look = guard.is_held();
            let ensured = guard.ensure(Duration::ZERO).is_ok();
            drop(guard);
            // A client that stands still within a call may hold up those of other cases, as where it has a
            // transaction open: what the guard left is cleaned up first.
            tokio::time::sleep(settled).await;
            let ran = lock.run(async |_| thread::sleep(ttl * 3 / 2));
            Ok::<_, Stop>((first_look, ensured, ran.await))
        })
    });
    let ended = tokio::task::spawn_blocking(move || starving.join()).await?;
    let ended = ended.map_err(|_| Stop::failed("a blocked runtime panicked"))?;
    let (first_look, ensured, ran) = ended?;
    require!(!first_look, "held at the first look after its deadline");
    require!(!ensured, "ensured after its deadline");
    require!(matches!(ran, Err(Error::Lost { .. })), "run() answered {ran:?} after its deadline");
    Ok(())
}

async fn forgotten(cx: Context) -> Verdict {
    let locks = cx.locks().await?;
    let guard = locks.lock(cx.name("forgotten")).acquire().await?;
    let watch = guard.watch();
    std::mem::forget(guard);
    cx.sleep(2 * cx.ttl()).await;
    let why = "a forgotten guard was not renewed";
    watch.ensure(Duration::ZERO).map_err(|error| Stop::error(&error, why))?;
    let other = cx.lock("forgotten").await?.try_acquire().await?;
    require!(other.is_none(), "{why}");
    locks.close(cx.wake_up()).await?;
    cx.is_free("forgotten").await?;
    Ok(())
}

async fn closed(cx: Context) -> Verdict {
    let locks = cx.locks().await?;
    let guard = locks.lock(cx.name("held")).ttl(cx.long_ttl()).acquire().await?;
    let holder = cx.lock("waited").await?.ttl(cx.long_ttl()).acquire().await?;
    // One waits for another client, and one for what this close() releases.
    let waiters = ["waited", "held"].map(|name| tokio::spawn(locks.lock(cx.name(name)).acquire()));
    cx.sleep(cx.arrival()).await;
    cx.by(2 * cx.wake_up(), "close() ends", locks.close(cx.wake_up())).await??;
    for waiter in waiters {
        let waited = cx.by(cx.slack(), "close() ends a waiter", waiter).await??;
        require!(matches!(waited, Err(Error::Closed)), "a waiter was told {waited:?} by close()");
    }
    let reason = cx.by(cx.slack(), "close() ends a hold", guard.lost()).await?;
    require!(reason == LossReason::Closed, "a holder was told {reason} by close()");
    require!(!guard.is_held(), "held after close()");
    let more = locks.lock(cx.name("held")).try_acquire().await;
    require!(matches!(more, Err(Error::Closed)), "an attempt after close() got {more:?}");
    let again = locks.close(Duration::ZERO).await;
    require!(again.is_ok(), "a second close() answered {again:?}");
    cx.is_free("held").await?;
    require_held(&holder, "close() ended another client's hold")?;
    holder.release().await?;
    cx.is_free("waited").await?;
    cx.no_residue("held").await?;
    cx.no_residue("waited").await
}
