//! Safety: tokens only grow.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Verdict, require};
use crate::conformance::tap::Tap;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "SF-14",
        Safety,
        "C4",
        "the tokens of many grants to eight clients grow in the order of the grants",
        |cx| Box::pin(tokens_in_order(cx)),
    ),
    Case::new(
        "SF-15",
        Safety,
        "C4",
        "a token is greater than the last one after a release and after many expiries",
        |cx| Box::pin(tokens_over_expiries(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C4-01",
        Safety,
        "C4",
        "a token is greater than the last one after a release, by a new client too",
        |cx| Box::pin(tokens_over_releases(cx)),
    ),
    Case::new(
        "C4-06",
        Safety,
        "C4",
        "a name that was left alone for a while is granted at once, and its token is greater",
        |cx| Box::pin(tokens_over_pauses(cx)),
    ),
    Case::new("C4-03", Safety, "C4", "a token stays the same across renewals", |cx| {
        Box::pin(token_across_renewals(cx))
    }),
    Case::new(
        "SF-17",
        Safety,
        "C4",
        "a token is greater than the last one after the store has lost what it kept of the name",
        |cx| Box::pin(tokens_over_data_loss(cx)),
    )
    .needs(&[Need::DataLoss, Need::Hook(Hook::Forget)]),
];

async fn tokens_in_order(cx: Context) -> Verdict {
    const CLIENTS: usize = 8;
    const EACH: usize = 100;
    /// A store that takes its time grants each client so many at the least.
    const LEAST: usize = 3;
    let budget = cx.budget();
    let tokens = Arc::new(Mutex::new(Vec::new()));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (lock, tokens) = (cx.lock("tokens").await?, Arc::clone(&tokens));
        let budget = budget.clone();
        clients.spawn(async move {
            let mut grants = 0;
            while grants < EACH && (grants < LEAST || !budget.is_spent()) {
                grants += 1;
                let guard = lock.acquire().await?;
                tokens.lock().unwrap_or_else(PoisonError::into_inner).push(guard.token());
                guard.release().await?;
            }
            Ok::<_, crate::Error>(grants)
        });
    }
    let mut grants = 0;
    while let Some(ended) = clients.join_next().await {
        grants += ended??;
    }
    let tokens = tokens.lock().unwrap_or_else(PoisonError::into_inner);
    require!(tokens.len() == grants, "{} tokens of {grants} grants", tokens.len());
    for pair in tokens.windows(2) {
        require!(pair[0] < pair[1], "token {} came after {}", pair[1], pair[0]);
    }
    Ok(())
}

async fn tokens_over_expiries(cx: Context) -> Verdict {
    let most = if cx.is_virtual() { 100 } else { 20 };
    let budget = cx.budget();
    let lock = cx.lock("tokens").await?;
    let mut last = None;
    for _ in 0..10 {
        let guard = lock.acquire().await?;
        let token = Some(guard.token());
        require!(token > last, "{token:?} came after {last:?}, which was released");
        last = token;
        guard.release().await?;
    }
    for expiry in 0..most {
        if expiry >= 5 && budget.is_spent() {
            break;
        }
        // Each holder is cut off, so that only the store's own expiry ends its lease.
        let tap = Tap::on(cx.connect().await?, &cx.clock);
        let lock = cx.locks_of(tap.clone()).lock(cx.name("tokens")).ttl(cx.short_ttl());
        let guard = lock.acquire().await?;
        let token = Some(guard.token());
        require!(token > last, "{token:?} came after {last:?}, which had expired or was released");
        last = token;
        tap.cut();
        guard.lost().await;
    }
    // Once with nobody waiting while it expires.
    cx.sleep(cx.short_ttl() + cx.expiry_slack()).await;
    let token = Some(lock.acquire().await?.token());
    require!(token > last, "{token:?} came after {last:?}, which had expired long before");
    Ok(())
}

async fn tokens_over_releases(cx: Context) -> Verdict {
    let mut last = None;
    for _ in 0..20 {
        let locks = cx.locks().await?;
        let guard = locks.lock(cx.name("tokens")).acquire().await?;
        let token = Some(guard.token());
        require!(token > last, "{token:?} came after {last:?}, which was released");
        last = token;
        guard.release().await?;
        locks.close(cx.wake_up()).await?;
    }
    Ok(())
}

async fn tokens_over_pauses(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let mut last = None;
    for pause in [0, 100, 500, 1_000] {
        // What is empty may be cleared away meanwhile, and a counter with it; what is idle may sleep.
        cx.sleep(Duration::from_millis(pause)).await;
        let grant = cx.granted(&*client, &cx.request("tokens")?).await?;
        let token = Some(grant.token);
        require!(token > last, "{token:?} came {pause} ms after {last:?} was released");
        last = token;
        grant.lease.release().await?;
    }
    Ok(())
}

async fn token_across_renewals(cx: Context) -> Verdict {
    let guard = cx.lock("tokens").await?.acquire().await?;
    let token = guard.token();
    for _ in 0..5 {
        guard.renew().await?;
        require!(guard.token() == token, "a renewal made token {} of {token}", guard.token());
        if let Some(operator) = cx.provider.operator() {
            let seen = operator.inspect(guard.name()).await?;
            let known = seen.holders.first().and_then(|holder| holder.token);
            require!(known == Some(token), "the store knows token {known:?} instead of {token}");
        }
    }
    Ok(guard.release().await?)
}

async fn tokens_over_data_loss(cx: Context) -> Verdict {
    let name = cx.lock_name("tokens")?;
    let mut last = None;
    for _ in 0..5 {
        // A new client each time: nothing that it remembers may help.
        let guard = cx.lock("tokens").await?.acquire().await?;
        let token = Some(guard.token());
        require!(token > last, "{token:?} came after {last:?} and a data loss");
        last = token;
        guard.release().await?;
        cx.fixture.forget(&name).await?;
    }
    Ok(())
}
