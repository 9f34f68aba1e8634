//! Safety: what is ended stays ended, and touches nobody else.

use std::collections::HashSet;
use std::time::Duration;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::stop::{Verdict, require, require_held};
use crate::conformance::tap::Tap;
use crate::{Error, RequestId};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "SF-01",
        Safety,
        "C6",
        "the release of an expired lease leaves the next holder alone",
        |cx| Box::pin(late_release(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "SF-03",
        Safety,
        "C6",
        "a repeated release, a late one and a late withdrawal free nobody else's name",
        |cx| Box::pin(repeated_release(cx)),
    ),
    Case::new(
        "SF-04",
        Safety,
        "C6",
        "renewing an ended lease fails and brings nothing back, be the name free or taken",
        |cx| Box::pin(renewal_of_an_ended_lease(cx)),
    ),
    Case::new(
        "C6-01",
        Safety,
        "C6",
        "renewing an expired lease fails and brings nothing back, be the name free or taken",
        |cx| Box::pin(renewal_of_an_expired_lease(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new("SF-23", Safety, "C2", "two requests of one client exclude each other", |cx| {
        Box::pin(one_client_twice(cx))
    }),
    Case::new("SF-24", Safety, "C6", "releasing one name of a client leaves its others", |cx| {
        Box::pin(two_names(cx))
    }),
    Case::new(
        "SF-27",
        Safety,
        "C12",
        "a ttl from 50 ms to 24 h is granted, and any other refused at once",
        |cx| Box::pin(ttls(cx)),
    ),
    Case::new(
        "C12-01",
        Safety,
        "C12",
        "a ttl of hours lasts as long as was granted, without a renewal",
        |cx| Box::pin(long_ttl(cx)),
    )
    .needs(&[Need::Ttl, Need::VirtualTime])
    .within(24 * 3600),
    Case::new(
        "SF-31",
        Safety,
        "C12",
        "unsafe settings are refused before anything is asked of the store",
        |cx| Box::pin(unsafe_settings(cx)),
    ),
    Case::new("SF-32", Safety, "C2", "no two requests have the same identity", |cx| {
        Box::pin(identities(cx))
    }),
    Case::new(
        "C13-01",
        Safety,
        "C13",
        "guarantees() says the same at every client, at any time, and after close()",
        |cx| Box::pin(stable_guarantees(cx)),
    ),
];

async fn late_release(cx: Context) -> Verdict {
    let (client, ttl) = (cx.connect().await?, cx.short_ttl());
    let request = cx.request_with_ttl("expired", ttl)?;
    let expired = cx.granted(&*client, &request).await?;
    let next = cx.connect().await?;
    let taken = cx.request_with_ttl("expired", cx.long_ttl())?;
    let bound = ttl + cx.expiry_slack();
    let taken = cx.by(bound, "an expired name is granted", next.acquire(&taken)).await??;
    let released = expired.lease.release().await;
    require!(matches!(released, Err(Error::Lost { .. })), "a late release answered {released:?}");
    client.withdraw(&request).await?;
    drop(expired);
    let third = cx.provider.try_acquire(&cx.request("expired")?).await?;
    require!(third.is_none(), "a late release freed the next holder's name");
    taken.lease.renew().await?;
    Ok(taken.lease.release().await?)
}

async fn repeated_release(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let request = cx.request("released")?;
    let ours = cx.granted(&*client, &request).await?;
    ours.lease.release().await?;
    let again = ours.lease.release().await;
    let known = matches!(again, Ok(()) | Err(Error::Lost { .. }));
    require!(known, "a second release answered {again:?}");
    let theirs = cx.request_with_ttl("released", cx.long_ttl())?;
    let theirs = cx.granted(&*cx.provider, &theirs).await?;
    drop(ours.lease.release().await);
    client.withdraw(&request).await?;
    client.withdraw(&request).await?;
    drop(ours);
    let third = cx.connect().await?.try_acquire(&cx.request("released")?).await?;
    require!(third.is_none(), "a late release or withdrawal freed another's name");
    theirs.lease.renew().await?;
    theirs.lease.release().await?;
    cx.is_free("released").await?;
    cx.no_residue("released").await
}

async fn renewal_of_an_ended_lease(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let ended = cx.granted(&*client, &cx.request("ended")?).await?;
    ended.lease.release().await?;
    nothing_comes_back(&cx, "ended", &*ended.lease).await
}

async fn renewal_of_an_expired_lease(cx: Context) -> Verdict {
    let (client, ttl) = (cx.connect().await?, cx.short_ttl());
    let expired = cx.granted(&*client, &cx.request_with_ttl("expired", ttl)?).await?;
    cx.sleep(ttl + cx.expiry_slack()).await;
    nothing_comes_back(&cx, "expired", &*expired.lease).await
}

async fn nothing_comes_back(cx: &Context, tail: &str, ended: &dyn crate::Lease) -> Verdict {
    let renewed = ended.renew().await;
    let lost = matches!(renewed, Err(Error::Lost { .. }));
    require!(lost, "renewing an ended lease of a free name answered {renewed:?}");
    let next = cx.request_with_ttl(tail, cx.long_ttl())?;
    let next = cx.granted(&*cx.provider, &next).await?;
    let renewed = ended.renew().await;
    let lost = matches!(renewed, Err(Error::Lost { .. }));
    require!(lost, "renewing an ended lease of a taken name answered {renewed:?}");
    next.lease.renew().await?;
    let third = cx.connect().await?.try_acquire(&cx.request(tail)?).await?;
    require!(third.is_none(), "the next holder's name is free");
    Ok(next.lease.release().await?)
}

async fn one_client_twice(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let locks = cx.locks_of(std::sync::Arc::clone(&client));
    let guard = locks.lock(cx.name("twice")).ttl(cx.long_ttl()).acquire().await?;
    let again = locks.lock(cx.name("twice")).try_acquire().await?;
    require!(again.is_none(), "one client was granted a name twice");
    let again = client.try_acquire(&cx.request("twice")?).await?;
    require!(again.is_none(), "one client was granted a name twice, by a plain request");
    let waiter = tokio::spawn(locks.lock(cx.name("twice")).acquire());
    cx.sleep(cx.arrival()).await;
    require!(!waiter.is_finished(), "one client was granted a name twice, by waiting");
    let token = guard.token();
    guard.release().await?;
    let next = cx.by(cx.wake_up(), "a waiter behind its own client is granted", waiter).await???;
    require!(next.token() > token, "token {} came after {token}", next.token());
    Ok(next.release().await?)
}

async fn two_names(cx: Context) -> Verdict {
    let locks = cx.locks().await?;
    let one = locks.lock(cx.name("one")).ttl(cx.long_ttl()).acquire().await?;
    let two = locks.lock(cx.name("two")).ttl(cx.long_ttl()).acquire().await?;
    one.release().await?;
    cx.is_free("one").await?;
    let other = cx.lock("two").await?;
    let why = "one release ended two holds";
    require_held(&two, why)?;
    require!(other.try_acquire().await?.is_none(), "{why}");
    // Another client's end is no concern of this one either.
    let passing = cx.locks().await?;
    let third = passing.lock(cx.name("one")).acquire().await?;
    passing.close(cx.wake_up()).await?;
    drop(third);
    let why = "closing one client ended another's hold";
    require_held(&two, why)?;
    require!(other.try_acquire().await?.is_none(), "{why}");
    Ok(two.release().await?)
}

async fn ttls(cx: Context) -> Verdict {
    let lock = cx.lock("ttl").await?;
    let day = Duration::from_secs(24 * 3600);
    let millis = Duration::from_millis;
    for ttl in [Duration::ZERO, millis(1), millis(49), day + millis(1), Duration::MAX] {
        let refused = lock.clone().ttl(ttl).try_acquire().await;
        require!(matches!(refused, Err(Error::Invalid { .. })), "a ttl of {ttl:?}: {refused:?}");
    }
    let range = cx.guarantees.expiry.range();
    for ttl in [cx.least_ttl(), cx.least_ttl().max(Duration::from_micros(1_234_567)), day] {
        let lock = lock.clone().ttl(ttl);
        let guard = cx.by(cx.wake_up(), "a good ttl is granted", lock.acquire()).await??;
        let least = range.map(|range| ttl.min(range.max));
        let granted = guard.ttl();
        require!(granted >= least, "{granted:?} was granted for a ttl of {ttl:?}");
        require!(granted.is_some() == range.is_some(), "{granted:?} contradicts {range:?}");
        require!(guard.remaining() < granted || granted.is_none(), "more left than the ttl");
        // With the least ttl, a busy machine may let it run out.
        drop(guard.release().await);
    }
    let guard = lock.ttl(day).acquire().await?;
    if let Some((operator, granted)) = cx.provider.operator().zip(guard.ttl()) {
        let seen = operator.inspect(guard.name()).await?;
        let left = seen.holders.first().and_then(|holder| holder.expires_in).unwrap_or(granted);
        require!(left > granted * 8 / 10, "{left:?} left of a fresh ttl of {granted:?}");
    }
    Ok(guard.release().await?)
}

async fn long_ttl(cx: Context) -> Verdict {
    let day = Duration::from_secs(24 * 3600);
    let range = cx.guarantees.expiry.range().map_or(day, |range| range.max);
    let lock = cx.lock("long").await?.ttl(day.min(range)).renew_manually();
    let guard = lock.acquire().await?;
    let granted = guard.ttl().unwrap_or_default();
    for tenth in 1..=8 {
        cx.sleep(granted / 10).await;
        let other = cx.lock("long").await?.try_acquire().await?;
        let held = guard.is_held() && other.is_none();
        require!(held, "a ttl of {granted:?} ended before {tenth} tenths of it");
    }
    Ok(guard.release().await?)
}

async fn unsafe_settings(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let lock = cx.locks_of(tap.clone()).lock(cx.name("unsafe")).ttl(ttl);
    for (what, unsafe_lock) in [
        ("a renewal every ttl", lock.clone().renew_every(ttl)),
        ("a renewal every two ttls", lock.clone().renew_every(2 * ttl)),
        ("a renewal every zero", lock.clone().renew_every(Duration::ZERO)),
        ("a margin of the ttl", lock.clone().margin(ttl)),
        ("a margin of two ttls", lock.clone().margin(2 * ttl)),
        ("a margin past the renewal", lock.clone().margin(ttl * 7 / 10)),
        ("both past the ttl", lock.clone().margin(ttl * 6 / 10).renew_every(ttl * 39 / 100)),
        ("a max_hold of zero", lock.clone().max_hold(Duration::ZERO)),
    ] {
        let refused = unsafe_lock.try_acquire().await;
        require!(matches!(refused, Err(Error::Invalid { .. })), "{what} was not refused");
    }
    require!(tap.attempts() == 0, "the store was asked {} times", tap.attempts());
    Ok(lock.acquire().await?.release().await?)
}

async fn identities(_: Context) -> Verdict {
    let mut seen = HashSet::new();
    for _ in 0..100_000 {
        let id = RequestId::random()?;
        require!(seen.insert(id), "identity {id} came twice");
    }
    Ok(())
}

async fn stable_guarantees(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let first = client.guarantees();
    cx.granted(&*client, &cx.request("declared")?).await?.lease.release().await?;
    require!(client.guarantees() == first, "guarantees() changed with use");
    require!(cx.connect().await?.guarantees() == first, "guarantees() differ between clients");
    client.close().await?;
    require!(client.guarantees() == first, "guarantees() changed with close()");
    Ok(())
}
