//! One client with several leases: on one name one after the other, and on several names at once.

use std::pin::pin;
use std::sync::Arc;

use futures_util::FutureExt;

use crate::conformance::case::Challenge::{Fairness, Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::outcome::Outcome;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::{Error, Grant, LockProvider, Request, Term};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C6-04",
        Safety,
        "C6",
        "calls for an expired lease leave its client's next lease, and its waits, as they are",
        |cx| Box::pin(expired_and_next(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C6-05",
        Safety,
        "C6",
        "a revocation ends one name of a client: it cannot be undone, and no other name is touched",
        |cx| Box::pin(one_name_revoked(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C6-07",
        Safety,
        "C6",
        "the release of a grant that has ended leaves a later one of the same request as it is",
        |cx| Box::pin(granted_again(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C6-08",
        Safety,
        "C6",
        "calls for a grant that has expired leave a later one of the same request as it is",
        |cx| Box::pin(granted_after_expiry(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C11-05",
        Liveness,
        "C11",
        "a lease lasts for its own ttl, an odd one too, whatever else its client or others ask",
        |cx| Box::pin(its_own_ttl(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C11-06",
        Liveness,
        "C11",
        "a renewal in the last moments of a ttl, or right after another, is as good as any",
        |cx| Box::pin(renewed_at_any_time(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C10-03",
        Fairness,
        "C10",
        "a name whose holder has expired goes to the next waiter, and to no request that came later",
        |cx| Box::pin(expired_in_order(cx)),
    )
    .needs(&[Need::LeaseTtl, Need::Fifo]),
];

async fn expired_and_next(cx: Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let (ttl, long) = (cx.short_ttl(), cx.long_ttl());
    let elsewhere = cx.granted(&*other, &cx.request_with_ttl("elsewhere", long)?).await?;
    let mut waits = Queue::default();
    waits.add_request(&cx, &client, cx.request_with_ttl("elsewhere", long)?).await?;
    let request = cx.request_with_ttl("twice", ttl)?;
    let expired = cx.granted(&*client, &request).await?;
    cx.sleep(ttl + cx.expiry_slack()).await;
    let next = cx.granted(&*client, &cx.request_with_ttl("twice", long)?).await?;
    require!(next.token > expired.token, "token {} came after {}", next.token, expired.token);

    let renewed = expired.lease.renew().await;
    require!(renewed.is_err(), "an expired lease was renewed beside its client's next one");
    let replayed = client.try_acquire(&request).await;
    let granted = matches!(&replayed, Ok(Some(_)));
    require!(!granted, "a replay was granted beside its client's next lease: {replayed:?}");
    let released = expired.lease.release().await;
    require!(matches!(released, Err(Error::Lost { .. })), "it was released: {released:?}");
    client.withdraw(&request).await?;
    let third = other.try_acquire(&cx.request("twice")?).await?;
    require!(third.is_none(), "a call for an expired lease ended its client's next one");
    next.lease.renew().await?;
    next.lease.release().await?;
    require!(!waits.someone_ended(&cx).await, "a call for one name ended a wait for another");
    elsewhere.lease.release().await?;
    waits.granted(&cx).await?.1.lease.release().await?;

    // Once the name is free, a replay may be a new grant, and has a new token then.
    let request = cx.request_with_ttl("again", ttl)?;
    let first = cx.granted(&*client, &request).await?;
    cx.sleep(ttl + cx.expiry_slack()).await;
    if let Some(again) = client.try_acquire(&request).await? {
        require!(again.token > first.token, "token {} was granted twice", again.token);
    }
    client.withdraw(&request).await?;
    cx.no_residue("again").await
}

async fn one_name_revoked(cx: Context) -> Verdict {
    let operator = cx.operator()?;
    let client = cx.connect().await?;
    let mut held = Vec::new();
    // Where tokens are counted for each name, they all have the same.
    for tail in ["revoked", "left", "also left"] {
        let request = cx.request_with_ttl(tail, cx.long_ttl())?;
        held.push((tail, cx.granted(&*client, &request).await?));
    }
    let (_, revoked) = held.remove(0);
    match operator.revoke(&cx.lock_name("revoked")?, revoked.token).await {
        Err(Error::Rejected { .. }) => {
            let claim = "C16: this store can end another's grant";
            return Err(Stop::Final(Outcome::NotClaimed(claim.into())));
        }
        ended => require!(ended?, "revoking a token that holds ended nothing"),
    }
    cx.sleep(cx.slack()).await;
    require!(revoked.lease.renew().await.is_err(), "a lease was renewed after its revocation");
    let released = revoked.lease.release().await;
    require!(matches!(released, Err(Error::Lost { .. })), "it was released: {released:?}");
    for (tail, grant) in held {
        let lost = grant.lease.lost().now_or_never();
        require!(lost.is_none(), "{tail:?} is told of the end of another name: {lost:?}");
        grant.lease.renew().await?;
        let second = cx.provider.try_acquire(&cx.request(tail)?).await?;
        require!(second.is_none(), "the revocation of another name ended {tail:?}");
        grant.lease.release().await?;
    }
    cx.is_free("revoked").await?;
    cx.no_residue("revoked").await
}

async fn granted_again(cx: Context) -> Verdict {
    let (operator, name) = (cx.operator()?, cx.lock_name("again")?);
    let request = cx.request_with_ttl("again", cx.long_ttl())?;
    let ended = cx.granted(&*cx.provider, &request).await?;
    match operator.revoke(&name, ended.token).await {
        Err(Error::Rejected { .. }) => {
            let claim = "C16: this store can end another's grant";
            return Err(Stop::Final(Outcome::NotClaimed(claim.into())));
        }
        revoked => require!(revoked?, "revoking a token that holds ended nothing"),
    }
    still_held(&cx, &request, ended).await
}

async fn granted_after_expiry(cx: Context) -> Verdict {
    let request = cx.request("again")?;
    let ended = cx.granted(&*cx.provider, &request).await?;
    cx.sleep(cx.ttl() + cx.wake_up()).await;
    still_held(&cx, &request, ended).await
}

/// A driver that has not heard of a grant's end sends its request once more, and then ends the grant that it knew.
async fn still_held(cx: &Context, request: &Request, ended: Grant) -> Verdict {
    // A store may take the request for one that is over.
    if let Ok(Some(again)) = cx.provider.try_acquire(request).await {
        require!(again.token > ended.token, "token {} came after {}", again.token, ended.token);
        let renewed = ended.lease.renew().await;
        require!(renewed.is_err(), "a grant was renewed that had ended: {renewed:?}");
        let released = ended.lease.release().await;
        let still = again.lease.renew().await;
        require!(still.is_ok(), "an earlier grant's release ({released:?}) ended it: {still:?}");
        let other = cx.connect().await?;
        let second = other.try_acquire(&cx.request("again")?).await?;
        require!(second.is_none(), "the release of an earlier grant freed the name");
        again.lease.release().await?;
    }
    cx.provider.withdraw(request).await?;
    cx.is_free("again").await?;
    cx.no_residue("again").await
}

async fn its_own_ttl(cx: Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let (ttl, step) = (cx.odd_ttl(), cx.ttl() / 20);
    let request = cx.request_with_ttl("odd", ttl)?;
    let odd = cx.granted(&*client, &request).await?;
    let kept = cx.granted(&*client, &cx.request_with_ttl("kept", cx.long_ttl())?).await?;
    cx.sleep(ttl / 4).await;
    // One that asked last, for longer, and one for less.
    for asks in [cx.long_ttl(), cx.short_ttl()] {
        let refused = other.try_acquire(&cx.request_with_ttl("odd", asks)?).await?;
        if refused.is_some() {
            return Err(cx.not_kept(odd.term, "granted beside a holder"));
        }
    }
    let renewed = odd.lease.renew().await;
    let renewed = renewed.map_err(|error| {
        cx.not_kept(odd.term, format!("a renewal within its ttl was refused: {error}"))
    })?;
    cx.sleep(ttl / 4).await;
    // It is kept: some stores end a grant with its lease.
    let again = replay(&cx, &*client, &odd, renewed, &request).await?;
    let end = again.term.sent.max(renewed.sent).saturating_add(ttl);
    let latest = cx.clock.now().saturating_add(ttl).saturating_add(cx.expiry_slack());
    loop {
        kept.lease.renew().await?;
        let aside = client.try_acquire(&cx.request("aside")?).await?;
        let tried = other.try_acquire(&cx.request("odd")?).await?;
        let now = cx.clock.now();
        if let Some(next) = tried {
            require!(now >= end, "granted {:?} before the holder's end", end.saturating_since(now));
            next.lease.release().await?;
            break;
        }
        require_in_time!(now < latest, "a lease of {ttl:?} outlives its ttl beside others");
        if let Some(aside) = aside {
            aside.lease.release().await?;
        }
        // Close to the end, look closer.
        let left = end.saturating_since(now);
        cx.sleep(if left > step { left.min(step) } else { step / 25 }).await;
    }
    kept.lease.release().await?;
    client.withdraw(&request).await?;
    cx.no_residue("odd").await
}

async fn renewed_at_any_time(cx: Context) -> Verdict {
    let (client, ttl) = (cx.connect().await?, 3 * cx.ttl());
    let held = cx.granted(&*client, &cx.request_with_ttl("renewed", ttl)?).await?;
    let mut term = held.term;
    // In twentieths of a ttl: late, at once after it, and soon.
    for twentieths in [19, 0, 1] {
        let at = term.sent.saturating_add(ttl * twentieths / 20);
        cx.sleep(at.saturating_since(cx.clock.now())).await;
        term = match held.lease.renew().await {
            Ok(term) => term,
            Err(error) => {
                let end = term.sent.saturating_add(ttl);
                let late = cx.clock.now().saturating_since(end);
                require_in_time!(late.is_zero(), "a renewal came {late:?} after its ttl: {error}");
                return Err(Stop::failed(format!("a renewal within its ttl was refused: {error}")));
            }
        };
    }
    let end = term.sent.saturating_add(ttl);
    cx.sleep(end.saturating_sub(ttl / 20).saturating_since(cx.clock.now())).await;
    let early = cx.provider.try_acquire(&cx.request("renewed")?).await?;
    let within = cx.clock.now() < end;
    require!(early.is_none() || !within, "granted within the term of the last renewal");
    held.lease.release().await.or_else(|error| if within { Err(error) } else { Ok(()) })?;
    cx.is_free("renewed").await?;
    cx.no_residue("renewed").await
}

/// A replay of the holder's request, whose term the store must keep as any other.
async fn replay(
    cx: &Context,
    client: &dyn LockProvider,
    held: &Grant,
    term: Term,
    request: &Request,
) -> Verdict<Grant> {
    let Some(again) = client.try_acquire(request).await? else {
        return Err(cx.not_kept(term, format!("a replay of {held:?} was refused (C2)")));
    };
    if again.token != held.token {
        return Err(cx.not_kept(term, format!("{:?} was granted for {held:?}", again.token)));
    }
    let now = cx.clock.now();
    require!(again.term.sent <= now, "a replay was sent later than it was answered");
    Ok(again)
}

async fn expired_in_order(cx: Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let holder = cx.granted(&*client, &cx.request("expiring")?).await?;
    let request = cx.request_with_ttl("expiring", cx.long_ttl())?;
    let mut head = pin!(client.acquire(&request));
    tokio::select! {
        granted = &mut head => {
            return Err(cx.not_kept(holder.term, format!("granted beside a holder: {granted:?}")));
        }
        queued = cx.queued(&request) => queued?,
    }
    let mut later = Queue::default();
    later.add_request(&cx, &other, cx.request_with_ttl("expiring", cx.long_ttl())?).await?;
    // Its waiter keeps its place until the holder is about to expire, and is not polled while it does.
    let end = holder.term.sent.saturating_add(cx.ttl());
    let about = end.saturating_sub(cx.slack() / 5).saturating_since(cx.clock.now());
    tokio::select! {
        granted = &mut head => {
            require!(cx.clock.now() >= end, "granted before the holder's end: {granted:?}");
            return Err(Stop::late("the holder expired before this case looked"));
        }
        () = cx.sleep(about) => {}
    }
    while cx.clock.now() <= end.saturating_add(cx.slack() / 2) {
        let barged = cx.provider.try_acquire(&cx.request("expiring")?).await?;
        require!(barged.is_none(), "an attempt took a name that expired, past two waiters");
        cx.sleep(cx.slack() / 10).await;
    }
    let newcomer = cx.request_with_ttl("expiring", cx.long_ttl())?;
    later.add_request(&cx, &Arc::clone(&cx.provider), newcomer).await?;
    require!(!later.someone_ended(&cx).await, "a name that expired went to a later waiter");
    let grant = cx.by(cx.wake_up(), "the next waiter is granted", head).await??;
    require!(grant.token > holder.token, "token {} came after {}", grant.token, holder.token);
    let mut last = grant;
    for expected in 0..2 {
        last.lease.release().await?;
        let (number, grant) = later.granted(&cx).await?;
        require!(number == expected, "waiter {number} was granted instead of waiter {expected}");
        last = grant;
    }
    last.lease.release().await?;
    cx.no_residue("expiring").await
}
