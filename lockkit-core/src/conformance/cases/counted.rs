//! Semaphores: so many counted grants hold together, each in a slot, in one queue.

use crate::conformance::case::Challenge::{Atomicity, Fairness, Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::{Error, Grant, LockName, LockProvider, Permits, Request, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "SE-01",
        Atomicity,
        "C1",
        "as many permits as the limit are held together, each in the smallest free slot, and no more",
        |cx| Box::pin(together(cx)),
    )
    .needs(&[Need::Counted]),
    Case::new(
        "SE-02",
        Safety,
        "C1",
        "the limit that the first request noted applies to all, and refuses those that take no other",
        |cx| Box::pin(first_limit(cx)),
    )
    .needs(&[Need::Counted]),
    Case::new(
        "SE-03",
        Safety,
        "C3",
        "a lock and a semaphore of one text never meet",
        |cx| Box::pin(families(cx)),
    )
    .needs(&[Need::Counted]),
    Case::new(
        "SE-04",
        Safety,
        "C2",
        "a replay of a counted request yields its own grant, slot and token, and no second permit",
        |cx| Box::pin(replayed(cx)),
    )
    .needs(&[Need::Counted]),
    Case::new(
        "SE-05",
        Safety,
        "C4",
        "each counted grant has a token greater than all earlier ones, whatever its slot",
        |cx| Box::pin(tokens(cx)),
    )
    .needs(&[Need::Counted]),
    Case::new(
        "SE-06",
        Safety,
        "C6",
        "the end of one counted grant, by release or withdrawal, frees one permit, once",
        |cx| Box::pin(own_end_only(cx)),
    )
    .needs(&[Need::Counted]),
    Case::new(
        "SE-07",
        Liveness,
        "C9",
        "requests that are refused or leave the queue take no permit with them",
        |cx| Box::pin(leaves(cx)),
    )
    .needs(&[Need::Counted]),
    Case::new(
        "SE-08",
        Fairness,
        "C10",
        "waiters of a semaphore are granted in their order, and a newcomer passes none",
        |cx| Box::pin(in_order(cx)),
    )
    .needs(&[Need::Counted, Need::Fifo]),
    Case::new(
        "SE-09",
        Liveness,
        "C11",
        "a counted holder that is no longer heard of loses its own permit, and no other's",
        |cx| Box::pin(one_expires(cx)),
    )
    .needs(&[Need::Counted, Need::LeaseTtl]),
    Case::new(
        "SE-10",
        Safety,
        "C16",
        "operators see the limit and each holder's slot, and end the grant that they mean",
        |cx| Box::pin(seen(cx)),
    )
    .needs(&[Need::Counted, Need::Operator]),
    Case::new(
        "SE-11",
        Liveness,
        "C16",
        "a greater limit grants waiters at once, and a smaller one takes no grant away",
        |cx| Box::pin(resized(cx)),
    )
    .needs(&[Need::Counted, Need::Operator]),
];

const TAIL: &str = "pool";

fn name(cx: &Context) -> Verdict<LockName> {
    Ok(LockName::semaphore(cx.name(TAIL))?)
}

/// A fresh request for a permit, of a caller that says this limit; its ttl outlasts the case.
fn request(cx: &Context, limit: u32) -> Verdict<Request> {
    Ok(cx.request_with_ttl(TAIL, cx.long_ttl())?.counted(Permits::new(limit)?))
}

/// A grant, where a permit must be free, in this slot.
async fn granted(cx: &Context, client: &dyn LockProvider, limit: u32, slot: u32) -> Verdict<Grant> {
    let grant = cx.granted(client, &request(cx, limit)?).await?;
    let is_in = grant.slot;
    require!(is_in == Some(slot), "slot {slot} is the smallest free one, and {is_in:?} was given");
    Ok(grant)
}

/// That a request is refused now.
async fn refused(cx: &Context, limit: u32, why: &str) -> Verdict {
    let attempt = cx.provider.try_acquire(&request(cx, limit)?).await?;
    require!(attempt.is_none(), "a permit was granted, while {why}");
    Ok(())
}

/// That all permits are free, and nothing is left once they are given back.
async fn all_free(cx: &Context, limit: u32) -> Verdict {
    all_free_to(cx, limit, limit).await
}

/// The same for a caller that says another limit.
async fn all_free_to(cx: &Context, limit: u32, says: u32) -> Verdict {
    let client = cx.connect().await?;
    let mut held = Vec::new();
    for slot in 0..limit {
        let request = request(cx, says)?;
        let grant = client.acquire(&request);
        let grant = cx.by(cx.wake_up(), "a permit must be free, and is granted", grant).await??;
        require!(grant.slot == Some(slot), "slot {slot} must be free: {:?} was given", grant.slot);
        held.push(grant);
    }
    refused(cx, says, "all are held").await?;
    for grant in held {
        grant.lease.release().await?;
    }
    cx.no_residue_of(&name(cx)?).await
}

async fn together(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    let mut held = Vec::new();
    // Two of one client, and one of another.
    for (slot, client) in [(0, &clients[0]), (1, &clients[1]), (2, &clients[0])] {
        held.push(granted(&cx, &**client, 3, slot).await?);
    }
    refused(&cx, 3, "three of three permits are held").await?;
    let mut waiting = Queue::default();
    waiting.add_request(&cx, &clients[1], request(&cx, 3)?).await?;
    require!(!waiting.someone_ended(&cx).await, "a waiter was granted a fourth permit of three");
    held.remove(1).lease.release().await?;
    let (_, grant) = waiting.granted(&cx).await?;
    require!(grant.slot == Some(1), "slot 1 is free, and {:?} was given", grant.slot);
    refused(&cx, 3, "three of three permits are held again").await?;
    for grant in held.into_iter().chain([grant]) {
        grant.lease.release().await?;
    }
    all_free(&cx, 3).await
}

async fn first_limit(cx: Context) -> Verdict {
    let first = granted(&cx, &*cx.provider, 2, 0).await?;
    let client = cx.connect().await?;
    // That one says another limit changes nothing.
    let second = granted(&cx, &*client, 5, 1).await?;
    refused(&cx, 5, "two of two permits are held, whatever a caller says").await?;
    for wished in [1, 5] {
        let exact = cx.request_with_ttl(TAIL, cx.long_ttl())?;
        let exact = exact.counted(Permits::new(wished)?.exactly());
        for (way, answer) in [
            ("try_acquire", client.try_acquire(&exact).await.map(|grant| grant.is_some())),
            (
                "acquire",
                cx.by(cx.wake_up(), "a refusal", client.acquire(&exact)).await?.map(|_| true),
            ),
        ] {
            require!(
                matches!(answer, Err(Error::Rejected { .. })),
                "{way} of a caller that takes exactly {wished} permits, where there are 2: {answer:?}"
            );
        }
        client.withdraw(&exact).await?;
    }
    second.lease.release().await?;
    let exact = request(&cx, 2)?.counted(Permits::new(2)?.exactly());
    cx.granted(&*client, &exact).await?.lease.release().await?;
    first.lease.release().await?;
    // It is noted still when all are free.
    all_free_to(&cx, 2, 5).await
}

async fn families(cx: Context) -> Verdict {
    let lock = cx.request_with_ttl(TAIL, cx.long_ttl())?;
    let alone = cx.granted(&*cx.provider, &lock).await?;
    let permit = granted(&cx, &*cx.provider, 1, 0).await?;
    refused(&cx, 1, "the one permit is held").await?;
    alone.lease.release().await?;
    refused(&cx, 1, "the one permit is held, and the lock of its text was released").await?;
    let again = cx.granted(&*cx.provider, &cx.request_with_ttl(TAIL, cx.long_ttl())?).await?;
    permit.lease.release().await?;
    let other = cx.request_with_ttl(TAIL, cx.long_ttl())?;
    let refused = cx.provider.try_acquire(&other).await?;
    require!(refused.is_none(), "the end of a permit freed the lock of the same text");
    again.lease.renew().await?;
    again.lease.release().await?;
    cx.no_residue(TAIL).await?;
    all_free(&cx, 1).await
}

async fn replayed(cx: Context) -> Verdict {
    let first = request(&cx, 2)?;
    let grant = cx.granted(&*cx.provider, &first).await?;
    let again = cx.granted(&*cx.provider, &first).await?;
    require!(
        (again.token, again.slot) == (grant.token, grant.slot),
        "token {} in slot {:?}, then {} in {:?}",
        grant.token,
        grant.slot,
        again.token,
        again.slot
    );
    let other = granted(&cx, &*cx.provider, 2, 1).await?;
    refused(&cx, 2, "two of two permits are held").await?;
    cx.provider.withdraw(&first).await?;
    cx.has_ended(&again, "a withdrawn request was renewed by its replay's lease").await?;
    other.lease.renew().await?;
    other.lease.release().await?;
    drop((grant, again));
    all_free(&cx, 2).await
}

async fn tokens(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let (mut newest, mut held) = (None, Vec::new());
    for round in 0..8_usize {
        let grant = cx.granted(&*client, &request(&cx, 3)?).await?;
        let token = grant.token;
        require!(
            Some(token) > newest,
            "round {round}: token {token} in slot {:?} after {newest:?}",
            grant.slot
        );
        newest = Some(token);
        held.push(grant);
        if held.len() == 3 {
            // The slots are freed out of their order.
            held.remove(round % 3).lease.release().await?;
        }
    }
    for grant in held {
        grant.lease.release().await?;
    }
    all_free(&cx, 3).await
}

async fn own_end_only(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    let kept = granted(&cx, &*clients[0], 3, 0).await?;
    let other = granted(&cx, &*clients[1], 3, 1).await?;
    let withdrawn = request(&cx, 3)?;
    let third = cx.granted(&*clients[0], &withdrawn).await?;
    other.lease.release().await?;
    clients[0].withdraw(&withdrawn).await?;
    drop(third);
    kept.lease.renew().await?;
    let next = granted(&cx, &*clients[1], 3, 1).await?;
    // Delivered late, they are for grants that have ended, and the slot has another holder.
    drop::<Result<()>>(other.lease.release().await);
    clients[0].withdraw(&withdrawn).await?;
    next.lease.renew().await?;
    let last = granted(&cx, &*clients[0], 3, 2).await?;
    refused(&cx, 3, "three of three permits are held").await?;
    for grant in [kept, next, last] {
        grant.lease.release().await?;
    }
    all_free(&cx, 3).await
}

async fn leaves(cx: Context) -> Verdict {
    let clients = cx.clients(2).await?;
    let held = [granted(&cx, &*clients[0], 2, 0).await?, granted(&cx, &*clients[1], 2, 1).await?];
    for _ in 0..4 {
        refused(&cx, 2, "two of two permits are held").await?;
    }
    let mut waiting = Queue::default();
    for number in 0..3 {
        waiting.add_request(&cx, &clients[number % 2], request(&cx, 2)?).await?;
    }
    waiting.withdraw(0).await?;
    waiting.withdraw(1).await?;
    for _ in 0..2 {
        let (number, ended) = waiting.ended(&cx).await?;
        require!(ended.is_err(), "waiter {number}, which left, was granted");
    }
    let [first, second] = held;
    first.lease.release().await?;
    let (_, grant) = waiting.granted(&cx).await?;
    require!(grant.slot == Some(0), "slot 0 is free, and {:?} was given", grant.slot);
    grant.lease.release().await?;
    second.lease.release().await?;
    all_free(&cx, 2).await
}

async fn in_order(cx: Context) -> Verdict {
    let clients = cx.clients(3).await?;
    let mut held = Vec::new();
    for slot in 0..2 {
        held.push(granted(&cx, &*clients[0], 2, slot).await?);
    }
    let mut waiting = Queue::default();
    for number in 0..6 {
        waiting.add_request(&cx, &clients[number % 3], request(&cx, 2)?).await?;
    }
    for expected in 0..6 {
        held.remove(0).lease.release().await?;
        // It comes while a permit changes hands, and others wait.
        if expected < 5 {
            refused(&cx, 2, "others wait").await?;
        }
        let (number, grant) = waiting.granted(&cx).await?;
        require!(number == expected, "waiter {number} was granted before waiter {expected}");
        held.push(grant);
    }
    for grant in held {
        grant.lease.release().await?;
    }
    all_free(&cx, 2).await
}

async fn one_expires(cx: Context) -> Verdict {
    let silent = cx.request(TAIL)?.counted(Permits::new(2)?);
    let lost = cx.granted(&*cx.provider, &silent).await?;
    let client = cx.connect().await?;
    let kept = granted(&cx, &*client, 2, 1).await?;
    let mut waiting = Queue::default();
    waiting.add_request(&cx, &client, request(&cx, 2)?).await?;
    cx.sleep(cx.ttl() / 2).await;
    kept.lease.renew().await?;
    cx.sleep(cx.ttl() / 2 + cx.wake_up()).await;
    let (_, grant) = waiting.granted(&cx).await?;
    require!(grant.slot == Some(0), "slot 0 is free, and {:?} was given", grant.slot);
    cx.has_ended(&lost, "a counted grant was renewed after its ttl had passed").await?;
    kept.lease.renew().await?;
    refused(&cx, 2, "two of two permits are held").await?;
    for grant in [kept, grant] {
        grant.lease.release().await?;
    }
    drop(lost);
    all_free(&cx, 2).await
}

async fn seen(cx: Context) -> Verdict {
    let (operator, name) = (cx.operator()?, name(&cx)?);
    let mut held = Vec::new();
    for (slot, label) in ["the first", "the second", "the third"].into_iter().enumerate() {
        let request = request(&cx, 3)?.with_label(label);
        let grant = cx.granted(&*cx.provider, &request).await?;
        held.push((label, u32::try_from(slot).ok(), grant));
    }
    let seen = operator.inspect(&name).await?;
    require!(seen.permits == Some(3), "a limit of 3 is noted, and {:?} is shown", seen.permits);
    let mut shown: Vec<_> =
        seen.holders.iter().map(|holder| (&*holder.label, holder.slot, holder.token)).collect();
    shown.sort_unstable();
    let mut expected: Vec<_> =
        held.iter().map(|(label, slot, grant)| (*label, *slot, Some(grant.token))).collect();
    expected.sort_unstable();
    require!(shown == expected, "{expected:?} hold, and {shown:?} are shown");
    let text = cx.name(TAIL);
    let lock = cx.granted(&*cx.provider, &cx.request_with_ttl(TAIL, cx.long_ttl())?).await?;
    let names: Vec<_> =
        operator.list(&text, None, 9).await?.into_iter().map(|seen| seen.name).collect();
    let both = [cx.lock_name(TAIL)?, name.clone()];
    require!(names == both, "{both:?} are held, and {names:?} are listed");
    lock.lease.release().await?;
    let (_, _, revoked) = held.remove(1);
    require!(operator.revoke(&name, revoked.token).await?, "the token of a live grant is unknown");
    let is_refused = cx.until_it_has_ended(&revoked);
    cx.by(cx.wake_up(), "a holder that was revoked is refused a renewal", is_refused).await?;
    for (label, _, grant) in held {
        let renewed = grant.lease.renew().await;
        renewed.map_err(|error| Stop::failed(format!("{label} was revoked too: {error}")))?;
        grant.lease.release().await?;
    }
    all_free(&cx, 3).await
}

async fn resized(cx: Context) -> Verdict {
    let (operator, name, clients) = (cx.operator()?, name(&cx)?, cx.clients(2).await?);
    let mut held = vec![granted(&cx, &*clients[0], 1, 0).await?];
    let mut waiting = Queue::default();
    for number in 0..4 {
        waiting.add_request(&cx, &clients[number % 2], request(&cx, 1)?).await?;
    }
    let before = operator.resize(&name, Permits::new(3)?).await?;
    require!(before == 1, "the limit was 1, and {before} is told");
    // Granted at once, they may be heard of in any order.
    let mut granted = [waiting.granted(&cx).await?, waiting.granted(&cx).await?];
    granted.sort_unstable_by_key(|(_, grant)| grant.token);
    let in_order = cx.guarantees.fairness == crate::Fairness::Fifo;
    for (turn, (number, grant)) in granted.into_iter().enumerate() {
        require!(
            grant.slot == u32::try_from(turn + 1).ok(),
            "the grant with token {} has slot {:?}, where the smallest free one was {}",
            grant.token,
            grant.slot,
            turn + 1
        );
        require!(!in_order || number == turn, "waiter {number} was granted before waiter {turn}");
        held.push(grant);
    }
    require!(!waiting.someone_ended(&cx).await, "a fourth permit of three was granted");
    let before = operator.resize(&name, Permits::new(2)?).await?;
    require!(before == 3, "the limit was 3, and {before} is told");
    for (slot, grant) in held.iter().enumerate() {
        let renewed = grant.lease.renew().await;
        let why = |error| Stop::failed(format!("a smaller limit ended slot {slot}: {error}"));
        renewed.map_err(why)?;
    }
    held.remove(0).lease.release().await?;
    require!(!waiting.someone_ended(&cx).await, "a third permit of two was granted");
    held.remove(0).lease.release().await?;
    let (number, grant) = waiting.granted(&cx).await?;
    require!(!in_order || number == 2, "waiter {number} was granted before waiter 2");
    require!(grant.slot == Some(0), "slot 0 is free, and {:?} was given", grant.slot);
    held.push(grant);
    held.remove(0).lease.release().await?;
    held.push(waiting.granted(&cx).await?.1);
    for grant in held {
        grant.lease.release().await?;
    }
    let seen = operator.inspect(&name).await?;
    require!(seen.permits == Some(2), "the limit is 2, and {:?} is shown", seen.permits);
    all_free(&cx, 2).await
}
