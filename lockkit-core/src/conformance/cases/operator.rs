//! Operators: what they see is so, and what they end is what they mean.

use std::time::Duration;

use futures_util::FutureExt;

use crate::conformance::case::Challenge::{Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::outcome::Outcome;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, require, require_held, require_in_time};
use crate::{Error, FencingToken, LockName, WakeUp};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C16-01",
        Safety,
        "C16",
        "inspect shows the holder with label, token and what is left, and how many wait",
        |cx| Box::pin(inspected(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-02",
        Safety,
        "C16",
        "list shows what is held or waited for, by prefix, in pages, in the order of the bytes",
        |cx| Box::pin(listed(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-03",
        Liveness,
        "C16",
        "revoke ends exactly the grant with that token, tells its holder, and lets the next in",
        |cx| Box::pin(revoked(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-12",
        Safety,
        "C16",
        "a revocation is heard within the declared wake-up, also by a holder whose client never waited",
        |cx| Box::pin(revocation_heard(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "C16-11",
        Safety,
        "C16",
        "forgetting names takes nothing that is held, waited for or in use, and sets no token back",
        |cx| Box::pin(forgotten(cx)),
    )
    .needs(&[Need::Operator]),
];

async fn inspected(cx: Context) -> Verdict {
    let operator = cx.operator()?;
    let name = cx.lock_name("seen")?;
    let free = operator.inspect(&name).await?;
    require!(free.name == name, "{name:?} is shown as {:?}", free.name);
    require!(free.holders.is_empty(), "held by {:?} before anybody asked", free.holders);
    require!(free.waiters.unwrap_or(0) == 0, "{:?} wait for a free name", free.waiters);

    let guard = cx.lock("seen").await?.label("a label \u{e9} 'of' this case").acquire().await?;
    let mut queue = Queue::default();
    for expected in 1..=3 {
        queue.add(&cx, &cx.provider, "seen").await?;
        let waiters = operator.inspect(&name).await?.waiters.unwrap_or(expected);
        require!(waiters == expected, "{expected} wait, and {waiters} are shown");
    }
    let seen = operator.inspect(&name).await?;
    let [holder] = &seen.holders[..] else {
        return Err(Stop::failed(format!("one holds, and {:?} are shown", seen.holders)));
    };
    require!(holder.token == Some(guard.token()), "{holder:?} is shown for {guard:?}");
    require!(holder.label == "a label \u{e9} 'of' this case", "the label is {:?}", holder.label);
    require!(holder.age.unwrap_or_default() <= cx.limit(), "held for {:?}", holder.age);
    let left = holder.expires_in;
    require!(left <= guard.ttl(), "it expires in {left:?}, {:?} was granted", guard.ttl());
    guard.release().await?;
    for _ in 0..3 {
        queue.granted(&cx).await?.1.lease.release().await?;
    }
    cx.no_residue("seen").await
}

async fn listed(cx: Context) -> Verdict {
    let operator = cx.operator()?;
    let prefix = cx.name("");
    let tails = ["", "/", "//", "0", "00", "A", "B", "a", "a%", "a/b", "a_", "ab", "b", "\u{e9}"];
    let locks = cx.locks().await?;
    let mut guards = Vec::new();
    // Taken in another order than they are listed in.
    for tail in tails.iter().rev() {
        guards.push(locks.lock(format!("{prefix}x{tail}")).acquire().await?);
    }
    guards.push(locks.lock(format!("{prefix}y")).acquire().await?);
    let expected: Vec<String> = tails.iter().map(|tail| format!("{prefix}x{tail}")).collect();
    for limit in [1, 3, 100] {
        let (mut shown, mut after): (Vec<String>, Option<LockName>) = (Vec::new(), None);
        loop {
            let page = operator.list(&format!("{prefix}x"), after.as_ref(), limit).await?;
            require!(page.len() <= limit, "{} on a page of {limit}", page.len());
            let Some(last) = page.last() else { break };
            after = Some(last.name.clone());
            shown.extend(page.iter().map(|seen| seen.name.to_string()));
            let held = page.iter().all(|seen| seen.holders.len() == 1);
            require!(held, "held names are shown without their one holder: {page:?}");
            require!(shown.len() <= expected.len(), "listing never ends: {shown:?}");
        }
        require!(shown == expected, "pages of {limit} show {shown:?}, held are {expected:?}");
    }
    for guard in guards {
        guard.release().await?;
    }
    let left = operator.list(&prefix, None, 100).await?;
    require!(left.is_empty(), "released names are listed: {left:?}");
    Ok(())
}

async fn revoked(cx: Context) -> Verdict {
    let operator = cx.operator()?;
    let guard = cx.lock("revoked").await?.acquire().await?;
    let waiter = tokio::spawn(cx.lock("revoked").await?.acquire());
    cx.sleep(cx.arrival()).await;
    let (name, token) = (guard.name().clone(), guard.token());
    for wrong in [token.as_u64() - 1, token.as_u64() + 1] {
        let Ok(wrong) = FencingToken::new(wrong) else { continue };
        match operator.revoke(&name, wrong).await {
            Ok(ended) => require!(!ended, "revoking token {wrong} ended a grant"),
            Err(Error::Rejected { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    require_held(&guard, "revoking another token ended this grant")?;
    match operator.revoke(&name, token).await {
        Err(Error::Rejected { .. }) => {
            let claim = "C16: this store can end another's grant";
            return Err(Stop::Final(Outcome::NotClaimed(claim.into())));
        }
        ended => require!(ended?, "revoking token {token}, which holds, ended nothing"),
    }
    // By the store's signal, or at the next renewal.
    let bound = cx.ttl() / 2 + cx.slack();
    cx.by(bound, "a holder that was revoked is told", guard.lost()).await?;
    require!(!guard.is_held(), "held after its revocation");
    let next = cx.by(bound + cx.wake_up(), "the next waiter is granted", waiter).await???;
    require!(next.token() > token, "token {} came after {token}", next.token());
    let again = operator.revoke(&name, token).await?;
    require!(!again, "revoking an ended grant ended one");
    drop(guard);
    let third = cx.lock("revoked").await?.try_acquire().await?;
    let why = "a revocation ended the next holder's grant too";
    require!(third.is_none(), "{why}");
    require_held(&next, why)?;
    next.release().await?;
    cx.no_residue("revoked").await
}

async fn revocation_heard(cx: Context) -> Verdict {
    let (operator, client) = (cx.operator()?, cx.connect().await?);
    let bound = cx.wake_up();
    // With no other name of its client, and beside one.
    for tail in ["alone", "beside"] {
        // No renewal comes meanwhile.
        let grant = cx.granted(&*client, &cx.request_with_ttl(tail, cx.long_ttl())?).await?;
        let (name, token) = (cx.lock_name(tail)?, grant.token);
        let early = grant.lease.lost().now_or_never();
        require!(early.is_none(), "told of a loss before the revocation: {early:?}");
        let revoke = async {
            cx.sleep(cx.arrival()).await;
            operator.revoke(&name, token).await.map(|ended| (ended, cx.clock.now()))
        };
        let told = async {
            let told = tokio::time::timeout(cx.arrival() + 2 * bound, grant.lease.lost()).await;
            told.ok().map(|reason| (reason, cx.clock.now()))
        };
        let (told, revoked) = tokio::join!(told, revoke);
        let (ended, at) = match revoked {
            Err(Error::Rejected { .. }) => {
                let claim = "C16: this store can end another's grant";
                return Err(Stop::Final(Outcome::NotClaimed(claim.into())));
            }
            revoked => revoked?,
        };
        require!(ended, "revoking token {token}, which holds, ended nothing");
        let Some((reason, heard)) = told else {
            let is_told = cx.guarantees.wake_up == WakeUp::Push;
            require_in_time!(!is_told, "C16: a holder did not hear of its revocation by itself");
            let claim = "C16: a holder hears of its revocation before its next renewal";
            return Err(Stop::Final(Outcome::NotClaimed(claim.into())));
        };
        let took = heard.saturating_since(at);
        require_in_time!(took <= bound, "C16: a holder heard of its revocation after {took:?}");
        let renewed = grant.lease.renew().await;
        let is_lost = matches!(renewed, Err(Error::Lost { .. }));
        require!(is_lost, "told that it is lost ({reason}), and renewed: {renewed:?}");
        // The second is beside this one.
        cx.granted(&*client, &cx.request(&format!("{tail}-too"))?).await?;
    }
    cx.is_free("alone").await?;
    Ok(())
}

async fn forgotten(cx: Context) -> Verdict {
    let (operator, prefix) = (cx.operator()?, cx.name("forgotten-"));
    let locks = cx.locks_of(cx.connect().await?);
    let lock = |tail: &str| locks.lock(format!("{prefix}{tail}"));
    let mut before = Vec::new();
    for tail in ["a", "b", "c"] {
        let guard = lock(tail).acquire().await?;
        before.push((tail, guard.token()));
        guard.release().await?;
    }
    let held = lock("held").acquire().await?;
    let mut queue = Queue::default();
    queue.add(&cx, &cx.provider, "forgotten-held").await?;
    let used = operator.forget(&prefix, Duration::from_secs(3600)).await?;
    require!(used == 0, "{used} names were forgotten that were used within the hour");
    let names = operator.forget(&prefix, Duration::ZERO).await?;
    require!(names <= 3, "{names} names were forgotten, and three of them are free");
    held.renew().await?;
    let seen = operator.inspect(held.name()).await?;
    let shown = seen.holders.iter().any(|holder| holder.token == Some(held.token()));
    require!(shown, "a name that is held was forgotten: {seen:?}");
    let waiters = seen.waiters.unwrap_or(1);
    require!(
        waiters == 1,
        "one waits for a name after others were forgotten, and {waiters} are shown"
    );
    for (tail, token) in before {
        let guard = lock(tail).acquire().await?;
        let again = guard.token();
        require!(again > token, "token {again} after {token}, of a name that was forgotten");
        guard.release().await?;
    }
    require_held(&held, "lost as other names were forgotten")?;
    held.release().await?;
    queue.granted(&cx).await?.1.lease.release().await?;
    cx.no_residue("forgotten-held").await
}
