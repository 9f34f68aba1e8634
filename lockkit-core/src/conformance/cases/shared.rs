//! Shared locks: they hold together, exclude exclusive ones, and stand in one queue with them.

use crate::conformance::case::Challenge::{Atomicity, Fairness, Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Error, Grant, Kind, LockProvider, Request};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C1-04",
        Atomicity,
        "C1",
        "shared grants hold together, and an exclusive request waits for the last of them",
        |cx| Box::pin(together(cx)),
    )
    .needs(&[Need::Shared]),
    Case::new(
        "C1-05",
        Atomicity,
        "C1",
        "shared requests wait for an exclusive holder, and then all hold at once",
        |cx| Box::pin(all_at_once(cx)),
    )
    .needs(&[Need::Shared]),
    Case::new(
        "C2-03",
        Safety,
        "C2",
        "a replay of a shared request yields its own grant, while others hold too",
        |cx| Box::pin(replayed(cx)),
    )
    .needs(&[Need::Shared]),
    Case::new(
        "C4-07",
        Safety,
        "C4",
        "a token is greater than those of all earlier grants that its own grant excludes",
        |cx| Box::pin(tokens(cx)),
    )
    .needs(&[Need::Shared]),
    Case::new(
        "C6-06",
        Safety,
        "C6",
        "the end of one shared grant, by release or withdrawal, is not the end of another",
        |cx| Box::pin(own_end_only(cx)),
    )
    .needs(&[Need::Shared]),
    Case::new(
        "C9-07",
        Liveness,
        "C9",
        "an exclusive request that leaves the queue lets in the shared ones behind it",
        |cx| Box::pin(leaves(cx)),
    )
    .needs(&[Need::Shared]),
    Case::new(
        "C10-04",
        Fairness,
        "C10",
        "a shared request does not pass an exclusive one that waits, nor the other way round",
        |cx| Box::pin(one_queue(cx)),
    )
    .needs(&[Need::Shared, Need::Fifo]),
    Case::new(
        "C11-07",
        Liveness,
        "C11",
        "a shared holder that is no longer heard of loses its own grant, and no other's",
        |cx| Box::pin(one_expires(cx)),
    )
    .needs(&[Need::Shared, Need::LeaseTtl]),
    Case::new(
        "C16-13",
        Safety,
        "C16",
        "operators see each of those who share a name, and end the one that they mean",
        |cx| Box::pin(seen(cx)),
    )
    .needs(&[Need::Shared, Need::Operator]),
];

/// A fresh request of this kind, whose ttl outlasts the case.
fn request(cx: &Context, kind: Kind) -> Verdict<Request> {
    Ok(cx.request_with_ttl("both", cx.long_ttl())?.with_kind(kind))
}

/// A grant of this kind, which must be free to take.
async fn granted(cx: &Context, client: &dyn LockProvider, kind: Kind) -> Verdict<Grant> {
    cx.granted(client, &request(cx, kind)?).await
}

/// That an attempt of this kind is refused now.
async fn refused(cx: &Context, kind: Kind, why: &str) -> Verdict {
    let attempt = cx.provider.try_acquire(&request(cx, kind)?).await?;
    require!(attempt.is_none(), "a {kind} request was granted, while {why}");
    Ok(())
}

async fn together(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    let mut held = Vec::new();
    // Two of one client, and one of another.
    for client in [&clients[0], &clients[1], &clients[0]] {
        held.push(granted(&cx, &**client, Kind::Shared).await?);
    }
    let mut waiting = Queue::default();
    waiting.add_request(&cx, &clients[1], request(&cx, Kind::Exclusive)?).await?;
    for left in (1..=3).rev() {
        refused(&cx, Kind::Exclusive, &format!("{left} share the name")).await?;
        require!(
            !waiting.someone_ended(&cx).await,
            "a waiter was granted beside {left} that share"
        );
        let Some(grant) = held.pop() else { break };
        grant.lease.release().await?;
    }
    let (_, grant) = waiting.granted(&cx).await?;
    refused(&cx, Kind::Shared, "another holds alone").await?;
    grant.lease.release().await?;
    cx.is_free("both").await?;
    Ok(())
}

async fn all_at_once(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    let alone = granted(&cx, &*cx.provider, Kind::Exclusive).await?;
    refused(&cx, Kind::Shared, "another holds alone").await?;
    let mut waiting = Queue::default();
    for number in 0..5 {
        let client = &clients[number % clients.len()];
        waiting.add_request(&cx, client, request(&cx, Kind::Shared)?).await?;
    }
    require!(!waiting.someone_ended(&cx).await, "a shared waiter was granted beside another");
    alone.lease.release().await?;
    let mut held = Vec::new();
    while waiting.len() > 0 {
        // All that were granted before it hold on meanwhile.
        held.push(waiting.granted(&cx).await?.1);
    }
    refused(&cx, Kind::Exclusive, "five share the name").await?;
    for grant in held {
        grant.lease.release().await?;
    }
    cx.no_residue("both").await
}

async fn replayed(cx: Context) -> Verdict {
    let first = request(&cx, Kind::Shared)?;
    let grant = cx.granted(&*cx.provider, &first).await?;
    let other = granted(&cx, &*cx.provider, Kind::Shared).await?;
    let again = cx.granted(&*cx.provider, &first).await?;
    require!(again.token == grant.token, "token {}, then {}", grant.token, again.token);
    cx.provider.withdraw(&first).await?;
    cx.has_ended(&again, "a withdrawn request was renewed by its replay's lease").await?;
    other.lease.renew().await?;
    other.lease.release().await?;
    drop((grant, again));
    cx.is_free("both").await?;
    Ok(())
}

async fn tokens(cx: Context) -> Verdict {
    let mut excluded = None;
    for round in 0..5 {
        let alone = granted(&cx, &*cx.provider, Kind::Exclusive).await?;
        require!(
            Some(alone.token) > excluded,
            "round {round}: the exclusive token {} after the shared {excluded:?}",
            alone.token
        );
        let before = alone.token;
        alone.lease.release().await?;
        let mut held = Vec::new();
        for _ in 0..3 {
            let grant = granted(&cx, &*cx.provider, Kind::Shared).await?;
            require!(
                grant.token > before,
                "round {round}: the shared token {} after the exclusive {before}",
                grant.token
            );
            held.push(grant);
        }
        excluded = held.iter().map(|grant| grant.token).max();
        for grant in held {
            grant.lease.release().await?;
        }
    }
    Ok(())
}

async fn own_end_only(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    let kept = granted(&cx, &*clients[0], Kind::Shared).await?;
    let other = granted(&cx, &*clients[1], Kind::Shared).await?;
    let withdrawn = request(&cx, Kind::Shared)?;
    let third = cx.granted(&*clients[0], &withdrawn).await?;
    other.lease.release().await?;
    clients[0].withdraw(&withdrawn).await?;
    drop(third);
    kept.lease.renew().await?;
    refused(&cx, Kind::Exclusive, "one still shares the name").await?;
    // One that comes later shares with it.
    granted(&cx, &*clients[1], Kind::Shared).await?.lease.release().await?;
    kept.lease.renew().await?;
    kept.lease.release().await?;
    cx.is_free("both").await?;
    Ok(())
}

async fn leaves(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    let held = granted(&cx, &*cx.provider, Kind::Shared).await?;
    let (mut alone, mut behind) = (Queue::default(), Queue::default());
    alone.add_request(&cx, &clients[0], request(&cx, Kind::Exclusive)?).await?;
    for client in [&clients[1], &clients[0]] {
        let request = request(&cx, Kind::Shared)?;
        behind.ask(client, request.clone());
        // Where no order is declared, it may pass.
        if cx.guarantees.fairness == crate::Fairness::Fifo {
            cx.queued(&request).await?;
        }
    }
    alone.withdraw(0).await?;
    let beside = [behind.granted(&cx).await?.1, behind.granted(&cx).await?.1];
    held.lease.renew().await?;
    for grant in beside.into_iter().chain([held]) {
        grant.lease.release().await?;
    }
    cx.no_residue("both").await
}

async fn one_queue(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    for (held, waits, kind) in [
        // What holds, what waits first, and what comes behind it.
        (Kind::Shared, Kind::Exclusive, Kind::Shared),
        (Kind::Exclusive, Kind::Shared, Kind::Exclusive),
    ] {
        let holder = granted(&cx, &*cx.provider, held).await?;
        let (mut first, mut behind) = (Queue::default(), Queue::default());
        first.add_request(&cx, &clients[0], request(&cx, waits)?).await?;
        refused(&cx, kind, &format!("a request waits ({waits})")).await?;
        behind.add_request(&cx, &clients[1], request(&cx, kind)?).await?;
        let passed = behind.someone_ended(&cx).await;
        require!(!passed, "a {kind} request passed one that waits ({waits})");
        holder.lease.release().await?;
        let (_, grant) = first.granted(&cx).await?;
        let passed = behind.someone_ended(&cx).await;
        require!(!passed, "a {kind} request was granted beside one that it excludes ({waits})");
        grant.lease.release().await?;
        behind.granted(&cx).await?.1.lease.release().await?;
    }
    cx.no_residue("both").await
}

async fn one_expires(cx: Context) -> Verdict {
    let silent = cx.request("both")?.with_kind(Kind::Shared);
    let lost = cx.granted(&*cx.provider, &silent).await?;
    let client = cx.connect().await?;
    let kept = granted(&cx, &*client, Kind::Shared).await?;
    let mut waiting = Queue::default();
    waiting.add_request(&cx, &client, request(&cx, Kind::Exclusive)?).await?;
    cx.sleep(cx.ttl() / 2).await;
    kept.lease.renew().await?;
    cx.sleep(cx.ttl() / 2 + cx.wake_up()).await;
    cx.has_ended(&lost, "a shared grant was renewed after its ttl had passed").await?;
    kept.lease.renew().await?;
    require!(!waiting.someone_ended(&cx).await, "an exclusive waiter was granted beside a sharer");
    kept.lease.release().await?;
    waiting.granted(&cx).await?.1.lease.release().await?;
    drop(lost);
    cx.no_residue("both").await
}

async fn seen(cx: Context) -> Verdict {
    let operator = cx.operator()?;
    let name = cx.lock_name("both")?;
    let mut held = Vec::new();
    for label in ["the first", "the second", "the third"] {
        let request = request(&cx, Kind::Shared)?.with_label(label);
        held.push((label, cx.granted(&*cx.provider, &request).await?));
    }
    let seen = operator.inspect(&name).await?;
    let mut shown: Vec<_> =
        seen.holders.iter().map(|holder| (&*holder.label, holder.kind)).collect();
    shown.sort_unstable_by_key(|(label, _)| *label);
    let expected: Vec<_> = held.iter().map(|(label, _)| (*label, Kind::Shared)).collect();
    require!(shown == expected, "{expected:?} hold, and {shown:?} are shown");
    let (_, revoked) = held.remove(1);
    let by_token = operator.revoke(&name, revoked.token).await;
    // Where those who share have one token, it names no one grant.
    let is_one_token = held.iter().any(|(_, grant)| grant.token == revoked.token);
    if !is_one_token {
        require!(by_token?, "the token of a live grant was not found");
        // By the store's signal, or at a renewal.
        let told = async {
            tokio::select! {
                _ = revoked.lease.lost() => {}
                () = cx.until_it_has_ended(&revoked) => {}
            }
        };
        cx.by(cx.wake_up(), "a holder that was revoked is told", told).await?;
        for (label, grant) in &held {
            let renewed = grant.lease.renew().await;
            renewed.map_err(|error| Stop::failed(format!("{label} was revoked too: {error}")))?;
        }
    }
    for (_, grant) in held {
        grant.lease.release().await.or_else(|error| match error {
            Error::Lost { .. } if is_one_token => Ok(()),
            error => Err(error),
        })?;
    }
    cx.no_residue("both").await
}
