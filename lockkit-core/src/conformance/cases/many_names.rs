//! Several names taken together: all or nothing, with no two clients that wait for each other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::future::join_all;

use crate::conformance::case::Challenge::{Atomicity, Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::outcome::Outcome;
use crate::conformance::poll::{for_turns, polled};
use crate::conformance::stop::{Stop, Verdict, all, require, require_in_time};
use crate::conformance::tap::Tap;
use crate::{Error, FencingToken, Lock, LossReason, MultiGuard, MultiLock};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "MN-01",
        Liveness,
        "C8",
        "clients that take the same names together, each in an order of its own, all get them in turn",
        |cx| Box::pin(in_any_order(cx)),
    ),
    Case::new(
        "MN-02",
        Atomicity,
        "C9",
        "who gives up taking names together, at any point, leaves none of them taken",
        |cx| Box::pin(all_or_nothing(cx)),
    ),
    Case::new(
        "MN-03",
        Safety,
        "C5",
        "names that are held while their holder waits for one more stay held for longer than a ttl",
        |cx| Box::pin(held_while_waiting(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "MN-04",
        Safety,
        "C7",
        "of names taken together, a holder hears of the one that was revoked, also while it waits for others",
        |cx| Box::pin(one_is_revoked(cx)),
    )
    .needs(&[Need::Operator]),
];

const NAMES: [&str; 3] = ["one", "three", "two"];

impl Context {
    /// The locks with these tails together, at one more client.
    async fn together(&self, tails: &[&str]) -> Verdict<MultiLock> {
        Ok(self.locks().await?.all(tails.iter().map(|tail| self.name(tail))))
    }
}

/// Releases all, each of which must have been held to the end.
async fn release(guard: MultiGuard) -> Verdict {
    for (name, released) in guard.release().await {
        released
            .map_err(|error| Stop::error(&error, format_args!("{name} was held with others")))?;
    }
    Ok(())
}

async fn in_any_order(cx: Context) -> Verdict {
    const ORDERS: [&[&str]; 4] =
        [&["one", "two", "three"], &["three", "one"], &["two", "one"], &["three", "two", "one"]];
    const ROUNDS: u32 = 12;
    const LEAST: u32 = 2;
    let newest: Arc<[AtomicU64; 3]> = Arc::default();
    let budget = cx.budget();
    let (cx, newest) = (&cx, &newest);
    let taken = ORDERS.map(|order| {
        let budget = budget.clone();
        async move {
            let lock = cx.together(order).await?;
            for round in 0..ROUNDS {
                if round >= LEAST && budget.is_spent() {
                    break;
                }
                let guard = lock.acquire().await?;
                for (tail, newest) in NAMES.iter().zip(newest.iter()) {
                    let Some(guard) = guard.get(cx.name(tail)) else { continue };
                    let token = guard.token().as_u64();
                    let before = newest.swap(token, Ordering::SeqCst);
                    require!(before < token, "{tail:?}: token {token} came after {before}");
                }
                tokio::task::yield_now().await;
                release(guard).await?;
            }
            Ok(())
        }
    });
    all(join_all(taken).await)?;
    for tail in NAMES {
        cx.no_residue(tail).await?;
    }
    Ok(())
}

async fn all_or_nothing(cx: Context) -> Verdict {
    let holder = cx.lock("two").await?.ttl(cx.long_ttl()).acquire().await?;
    // In the order of their bytes, "two" comes last.
    let together = cx.together(&NAMES).await?.ttl(cx.long_ttl());
    let probes = [cx.lock("one").await?, cx.lock("three").await?];
    require!(together.try_acquire().await?.is_none(), "taken with a name that another holds");
    are_free(&cx, &probes).await?;
    let late = together.acquire_within(cx.moment()).await;
    let is_late = matches!(late, Err(Error::TimedOut { .. } | Error::Unavailable { .. }));
    require!(is_late, "a wait behind a holder ended in {late:?}");
    are_free(&cx, &probes).await?;
    for turns in [0, 1, 2, 3, 5, 8, 13, 21] {
        // Before it waits, and while it does.
        let early = for_turns(together.acquire(), turns).await;
        let waits = tokio::time::timeout(cx.moment() * turns / 8, together.acquire()).await;
        let is_taken = early.is_some() || waits.is_ok();
        require!(!is_taken, "a wait behind a holder ended: {early:?}, {waits:?}");
        are_free(&cx, &probes).await?;
    }
    holder.release().await?;
    let budget = cx.budget();
    for polls in 1..64 {
        if polls > 8 && budget.is_spent() {
            break;
        }
        // Granted or not, it is dropped.
        let ended = polled(together.acquire(), polls).await.transpose()?.is_some();
        are_free(&cx, &probes).await?;
        if ended {
            break;
        }
    }
    release(together.acquire().await?).await?;
    for tail in NAMES {
        cx.no_residue(tail).await?;
    }
    Ok(())
}

async fn are_free(cx: &Context, probes: &[Lock]) -> Verdict {
    for probe in probes {
        cx.is_free_for(probe).await?;
    }
    Ok(())
}

async fn held_while_waiting(cx: Context) -> Verdict {
    let holder = cx.lock("two").await?.acquire().await?;
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let together = cx.locks_of(tap.clone()).all([cx.name("two"), cx.name("one")]);
    let (probe, ttl) = (cx.lock("one").await?, cx.ttl());
    let mut waiting = Box::pin(together.acquire());
    let end = cx.clock.now().saturating_add(ttl + cx.expiry_slack());
    while cx.clock.now() < end {
        tokio::select! {
            biased;
            early = &mut waiting => {
                return Err(Stop::failed(format!("granted beside a holder: {early:?}")));
            }
            () = cx.sleep(ttl / 4) => {}
        }
        if end.saturating_since(cx.clock.now()) < ttl / 2 {
            let taken = probe.try_acquire().await?;
            require!(taken.is_none(), "a name is free while its holder waits for another");
        }
    }
    holder.release().await?;
    let guard = cx.by(cx.wake_up(), "the waiter's grant", waiting).await??;
    guard.ensure(Duration::ZERO)?;
    // A client that lost the first name would have asked for it again.
    let asked = tap.attempts();
    require_in_time!(asked == 2, "two names were asked for {asked} times: one was not kept");
    release(guard).await?;
    cx.no_residue("one").await?;
    cx.no_residue("two").await
}

async fn one_is_revoked(cx: Context) -> Verdict {
    let holder = cx.lock("two").await?.acquire().await?;
    let together = cx.together(&["one", "two"]).await?;
    let (one, two) = (cx.lock("one").await?, cx.lock("two").await?);
    let mut waiting = Box::pin(together.acquire());
    tokio::select! {
        biased;
        early = &mut waiting => return Err(Stop::failed(format!("granted beside a holder: {early:?}"))),
        () = cx.sleep(2 * cx.moment()) => {}
    }
    let operator = cx.operator()?;
    let seen = operator.inspect(&cx.lock_name("one")?).await?;
    let Some(first) = seen.holders.first().and_then(|holder| holder.token) else {
        return Err(Stop::late("the waiter does not hold its first name yet"));
    };
    let release_late = async {
        revoke(&one, first).await?;
        // Long enough to hear of it by a renewal.
        cx.sleep(cx.ttl() / 2 + cx.moment()).await;
        holder.release().await?;
        Ok::<_, Stop>(())
    };
    let (released, guard) = tokio::join!(release_late, &mut waiting);
    released?;
    let guard = guard?;
    let again = guard.token(cx.name("one"))?;
    require!(again > first, "granted with token {again}, which was revoked: {first}");

    let lost = guard.lost();
    let token = guard.token(cx.name("two"))?;
    revoke(&two, token).await?;
    let (name, reason) = cx.by(cx.ttl() + cx.wake_up(), "a revoked name's loss", lost).await?;
    require!(name.as_str() == cx.name("two"), "{name} was lost, and two was revoked");
    require!(reason != LossReason::Released, "a revoked name was lost as {reason:?}");
    require!(!guard.is_held(), "held, though one name is lost");
    for (name, released) in guard.release().await {
        let is_lost = matches!(released, Err(Error::Lost { .. }));
        let is_revoked = name.as_str() == cx.name("two");
        require!(is_lost == is_revoked, "{name} was released as {released:?}");
    }
    cx.no_residue("one").await?;
    cx.no_residue("two").await
}

/// Ends the grant with this token, which holds.
async fn revoke(lock: &Lock, token: FencingToken) -> Verdict {
    match lock.revoke(token).await {
        Err(Error::Rejected { .. }) => {
            let claim = "C16: this store can end another's grant";
            Err(Stop::Final(Outcome::NotClaimed(claim.into())))
        }
        revoked => {
            require!(revoked?, "a revocation of a token that holds ended nothing");
            Ok(())
        }
    }
}
