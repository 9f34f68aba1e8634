//! Safety: floors for tokens, and grants that are raised, as a quorum asks it of its members.

use std::sync::Arc;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::stop::{Verdict, require};
use crate::{Error, FencingToken, Grant, LockProvider, MinimumHold};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C4-08",
        Safety,
        "C4",
        "a token is the request's floor, where that is greater than every earlier token, and else the next one",
        |cx| Box::pin(floors(cx)),
    )
    .needs(&[Need::Raises]),
    Case::new(
        "C4-09",
        Safety,
        "C4",
        "a raised grant carries the token that it was raised to, and every later grant has a greater one",
        |cx| Box::pin(raised(cx)),
    )
    .needs(&[Need::Raises]),
    Case::new(
        "C4-10",
        Safety,
        "C4",
        "a grant whose token is greater already is not raised, and no token goes back",
        |cx| Box::pin(above(cx)),
    )
    .needs(&[Need::Raises]),
    Case::new(
        "C6-12",
        Safety,
        "C6",
        "raising a grant that has ended or rests raises nothing, and leaves the next grant as it is",
        |cx| Box::pin(ended(cx)),
    )
    .needs(&[Need::Raises]),
];

/// So far apart are the tokens of these cases: a store may refuse floors that lie days ahead.
const STEP: u64 = 1000;

fn by(token: FencingToken, more: u64) -> Verdict<FencingToken> {
    Ok(FencingToken::new(token.as_u64() + more).map_err(Error::from)?)
}

/// A grant of a fresh request with this floor.
async fn with_floor(
    cx: &Context,
    client: &dyn LockProvider,
    floor: FencingToken,
) -> Verdict<Grant> {
    let request = cx.request("tokens")?.with_token_floor(floor);
    cx.granted(client, &request).await
}

async fn floors(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let first = cx.granted(&*client, &cx.request("tokens")?).await?;
    first.lease.release().await?;
    let floor = by(first.token, STEP)?;
    let ahead = with_floor(&cx, &*client, floor).await?;
    require!(ahead.token == floor, "token {} was granted for the floor {floor}", ahead.token);
    ahead.lease.release().await?;
    // The same on another client: a floor that lies behind changes nothing.
    let other = cx.connect().await?;
    for behind in [floor, first.token] {
        let next = with_floor(&cx, &*other, behind).await?;
        require!(next.token > floor, "token {} came after {floor}", next.token);
        next.lease.release().await?;
    }
    let far = by(floor, 2 * STEP)?;
    // A waiter's floor counts as well.
    let held = cx.granted(&*client, &cx.request("tokens")?).await?;
    let request = cx.request("tokens")?.with_token_floor(far);
    let waits = {
        let (other, request) = (Arc::clone(&other), request.clone());
        tokio::spawn(async move { other.acquire(&request).await })
    };
    cx.queued(&request).await?;
    held.lease.release().await?;
    let granted = cx.by(cx.wake_up(), "a waiter's grant", waits).await???;
    require!(granted.token == far, "a waiter of the floor {far} was granted {}", granted.token);
    Ok(granted.lease.release().await?)
}

async fn raised(cx: Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let request = cx.request("tokens")?;
    let grant = cx.granted(&*client, &request).await?;
    let mut to = grant.token;
    for _ in 0..3 {
        to = by(to, STEP)?;
        // Twice: a raise may be repeated.
        for _ in 0..2 {
            require!(grant.lease.raise(to).await?, "{} was not raised to {to}", grant.token);
        }
        grant.lease.renew().await?;
        if let Some(operator) = cx.provider.operator() {
            let seen = operator.inspect(request.name()).await?;
            let carried = seen.holders.first().and_then(|holder| holder.token);
            require!(carried == Some(to), "the store shows {carried:?} for a grant raised to {to}");
        }
    }
    let replayed = cx.granted(&*client, &request).await?;
    require!(replayed.token == to, "a replay has {} of a grant raised to {to}", replayed.token);
    grant.lease.release().await?;
    drop(replayed);
    let next = cx.granted(&*other, &cx.request("tokens")?).await?;
    require!(next.token > to, "token {} came after a grant raised to {to}", next.token);
    next.lease.release().await?;
    let Some(operator) = cx.provider.operator() else { return Ok(()) };
    // An operator revokes the token that it sees.
    let last = cx.granted(&*client, &cx.request("tokens")?).await?;
    let to = by(last.token, STEP)?;
    require!(last.lease.raise(to).await?, "{} was not raised to {to}", last.token);
    require!(operator.revoke(request.name(), to).await?, "no grant was found that carries {to}");
    cx.has_ended(&last, "a revoked grant").await
}

async fn above(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let first = cx.granted(&*client, &cx.request("tokens")?).await?;
    first.lease.release().await?;
    let grant = with_floor(&cx, &*client, by(first.token, 2 * STEP)?).await?;
    for lower in [by(first.token, STEP)?, first.token] {
        let raised = grant.lease.raise(lower).await?;
        require!(!raised, "a grant of {} is said to carry {lower}", grant.token);
    }
    require!(grant.lease.raise(grant.token).await?, "it carries its own token {}", grant.token);
    if let Some(operator) = cx.provider.operator() {
        let seen = operator.inspect(&cx.lock_name("tokens")?).await?;
        let carried = seen.holders.first().and_then(|holder| holder.token);
        require!(carried == Some(grant.token), "{} was lowered to {carried:?}", grant.token);
    }
    grant.lease.release().await?;
    let next = cx.granted(&*client, &cx.request("tokens")?).await?;
    require!(next.token > grant.token, "token {} came after {}", next.token, grant.token);
    Ok(next.lease.release().await?)
}

async fn ended(cx: Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let request = cx.request("tokens")?;
    let grant = cx.granted(&*client, &request).await?;
    client.withdraw(&request).await?;
    let far = by(grant.token, 1_000 * STEP)?;
    let free = grant.lease.raise(far).await;
    require!(matches!(free, Err(Error::Lost { .. })), "an ended grant: {free:?}");
    let next = cx.granted(&*other, &cx.request("tokens")?).await?;
    require!(next.token < far, "the raise of an ended grant moved the next to {}", next.token);
    let held = grant.lease.raise(far).await;
    require!(matches!(held, Err(Error::Lost { .. })), "beside a later grant: {held:?}");
    next.lease.renew().await?;
    if let Some(operator) = cx.provider.operator() {
        let seen = operator.inspect(request.name()).await?;
        let carried = seen.holders.first().and_then(|holder| holder.token);
        require!(carried == Some(next.token), "another's grant shows {carried:?}");
    }
    next.lease.release().await?;
    let last = cx.granted(&*other, &cx.request("tokens")?).await?;
    require!(last.token < far, "the raise of an ended grant moved the last to {}", last.token);
    last.lease.release().await?;
    if cx.guarantees.minimum_hold == MinimumHold::ByStore { resting(&cx).await } else { Ok(()) }
}

/// A grant that rests is over for its holder: what it was raised to stays, and it is raised no further.
async fn resting(cx: &Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let request = cx.request_with_ttl("resting", cx.long_ttl())?;
    let grant = cx.granted(&*client, &request).await?;
    let to = by(grant.token, STEP)?;
    require!(grant.lease.raise(to).await?, "{} was not raised to {to}", grant.token);
    let (far, rest) = (by(to, 1_000 * STEP)?, cx.slack());
    require!(grant.lease.release_after(rest).await?, "the store kept no minimum hold");
    let raised = grant.lease.raise(far).await;
    require!(matches!(raised, Err(Error::Lost { .. })), "a grant that rests: {raised:?}");
    let request = cx.request_with_ttl("resting", cx.long_ttl())?;
    let bound = rest + cx.expiry_slack();
    let next = cx.by(bound, "the grant after a rest", other.acquire(&request)).await??;
    require!(next.token > to, "token {} came after a grant raised to {to}", next.token);
    require!(next.token < far, "the raise of a grant that rests moved the next to {}", next.token);
    Ok(next.lease.release().await?)
}
