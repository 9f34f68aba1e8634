//! Safety: a holder stops believing before the store grants to the next.

use std::time::Duration;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::outcome::Outcome;
use crate::conformance::stop::{Stop, Verdict, require, require_held};
use crate::conformance::tap::Tap;
use crate::{Error, Expiry, Guard, Instant, LossReason, Request, Term};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "SF-05",
        Safety,
        "C7",
        "a guard lost while its renewals were slow stays lost when they are acknowledged",
        |cx| Box::pin(late_renewals(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "SF-06",
        Safety,
        "C5",
        "a grant whose deadline has passed on arrival is no grant, and is given back",
        |cx| Box::pin(late_grant(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "SF-07",
        Safety,
        "C5",
        "an acknowledgement that comes after a later one's lowers no deadline",
        |cx| Box::pin(overtaken_renewal(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "SF-10",
        Safety,
        "C5",
        "over many expiries each holder is lost to itself before the next grant",
        |cx| Box::pin(many_expiries(cx)),
    )
    .needs(&[Need::LeaseTtl])
    .within(60),
    Case::new(
        "SF-12",
        Safety,
        "C5",
        "the deadline counts from before the request was sent, however late the reply",
        |cx| Box::pin(slow_replies(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "SF-13",
        Safety,
        "C5",
        "what is left follows the ttl that was granted, not the one that was wished",
        |cx| Box::pin(granted_ttl(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "C5-01",
        Safety,
        "C5",
        "a term was sent after its call began, and not later than its answer came",
        |cx| Box::pin(honest_terms(cx)),
    ),
];

async fn late_renewals(cx: Context) -> Verdict {
    let ttl = cx.short_ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("slow")).ttl(ttl).acquire().await?;
    tap.delay_replies(2 * ttl);
    let reason = cx.by(ttl + cx.slack(), "a guard without renewals is lost", guard.lost()).await?;
    require!(reason == LossReason::Expired, "lost because {reason}");
    let end = cx.clock.now().saturating_add(3 * ttl);
    while cx.clock.now() < end {
        require!(!guard.is_held(), "held again after its loss");
        cx.sleep(ttl / 10).await;
    }
    Ok(())
}

async fn late_grant(cx: Context) -> Verdict {
    let ttl = cx.short_ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let lock = cx.locks_of(tap.clone()).lock(cx.name("late")).ttl(ttl);
    tap.delay_replies(ttl * 3 / 2);
    let late = lock.acquire_within(2 * ttl).await;
    require!(late.is_err(), "a grant was believed that came a ttl and a half late: {late:?}");
    tap.delay_replies(Duration::ZERO);
    let bound = 2 * ttl + cx.expiry_slack();
    let guard = cx.lock("late").await?.acquire_within(bound).await?;
    guard.release().await?;
    cx.no_residue("late").await
}

async fn overtaken_renewal(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("overtaken")).renew_manually().acquire();
    let guard = guard.await?;
    tap.delay_replies(ttl * 2 / 5);
    let overtaken = guard.renew();
    let later = async {
        cx.sleep(ttl / 10).await;
        tap.delay_replies(Duration::ZERO);
        guard.renew().await?;
        Verdict::Ok(end_of(&cx, &guard))
    };
    let (overtaken, later) = tokio::join!(overtaken, later);
    overtaken?;
    let later = later?;
    // Here the reply to the first one comes.
    cx.sleep(ttl / 2).await;
    require_held(&guard, "lost, although it was renewed")?;
    let lowered = later.saturating_since(end_of(&cx, &guard));
    // Less than the tenth of a ttl that lies between the two.
    require!(lowered < ttl / 15, "a late acknowledgement took {lowered:?} from the deadline");
    Ok(guard.release().await?)
}

async fn many_expiries(cx: Context) -> Verdict {
    let ttl = cx.short_ttl();
    // In real time as many as fit into ten seconds or so.
    let most = if cx.is_virtual() { 1000 } else { (10_000 / ttl.as_millis()).clamp(5, 100) };
    let (mut rounds, mut least, budget) = (0, Duration::MAX, cx.budget());
    while rounds < most && (rounds < 5 || !budget.is_spent()) {
        let round = rounds;
        rounds += 1;
        let tap = Tap::on(cx.connect().await?, &cx.clock);
        let lock = cx.locks_of(tap.clone()).lock(cx.name("expiring")).ttl(ttl).renew_manually();
        let guard = lock.acquire().await?;
        // Half of them are renewed, unless a busy machine has let them run out by now.
        if round % 2 == 1 {
            drop(guard.renew().await);
        }
        tap.cut();
        let margin = next_after(&cx, &guard, "expiring").await?;
        require!(margin > Duration::ZERO, "no margin at expiry {round}");
        least = least.min(margin);
    }
    cx.notes.count("expiries", u64::try_from(rounds).unwrap_or(u64::MAX));
    cx.notes.time("margin, smallest", least);
    Ok(())
}

/// Has another client wait for the name; how long after the guard's own end it was granted.
async fn next_after(cx: &Context, guard: &Guard, tail: &str) -> Verdict<Duration> {
    let end = end_of(cx, guard);
    let waiter = cx.lock(tail).await?;
    let next = waiter.acquire().await?;
    let granted = cx.clock.now();
    require!(!guard.is_held(), "two guards held, the older one with {:?} left", guard.remaining());
    require!(granted > end, "granted before the end of the last holder's belief");
    next.release().await?;
    Ok(granted.saturating_since(end))
}

/// When the guard stops believing, or a moment later.
fn end_of(cx: &Context, guard: &Guard) -> Instant {
    const MOMENT: Duration = Duration::from_millis(1);
    loop {
        let before = cx.clock.now();
        let left = guard.remaining().unwrap_or_default();
        let now = cx.clock.now();
        // Where the machine stood still between the two readings, they do not belong together.
        if now.saturating_since(before) < MOMENT {
            return now.saturating_add(left);
        }
    }
}

async fn slow_replies(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let delay = ttl / 2;
    for _ in 0..3 {
        let tap = Tap::on(cx.connect().await?, &cx.clock);
        tap.delay_replies(delay);
        let lock = cx.locks_of(tap.clone()).lock(cx.name("slow")).renew_manually();
        let guard = lock.acquire().await?;
        tap.cut();
        let left = guard.remaining();
        let most = ttl.saturating_sub(delay);
        require!(left <= Some(most), "{left:?} left of {ttl:?} after a reply {delay:?} late");
        next_after(&cx, &guard, "slow").await?;
    }
    Ok(())
}

async fn granted_ttl(cx: Context) -> Verdict {
    let Some(range) = cx.guarantees.expiry.range() else {
        return Err(Stop::Final(Outcome::NotClaimed("C11: leases end by a ttl".into())));
    };
    let nanosecond = Duration::from_nanos(1);
    // What is wished for cannot be over when the grant comes.
    let least = cx.least_ttl();
    let wishes = [least, range.min.max(least), range.min.max(least) + nanosecond, range.max];
    for wish in wishes {
        let lock = cx.lock("granted").await?.ttl(wish);
        let guard = lock.acquire().await?;
        let (granted, left) = (guard.ttl(), guard.remaining());
        require!(granted >= Some(wish), "{granted:?} was granted for a ttl of {wish:?}");
        require!(granted <= Some(range.max), "{granted:?} is more than {:?}", range.max);
        let margin = granted.zip(left).map(|(granted, left)| granted.saturating_sub(left));
        require!(margin >= Some(wish / 100), "{left:?} left of {granted:?}: less than 1 % less");
        if let Some(operator) = cx.provider.operator() {
            let seen = operator.inspect(guard.name()).await?;
            let expiry = seen.holders.first().and_then(|holder| holder.expires_in);
            require!(expiry <= granted, "it expires in {expiry:?}, {granted:?} was granted");
        }
        // With the least ttl, a busy machine may let it run out.
        drop(guard.release().await);
    }
    let too_long = range.max.saturating_add(range.granularity);
    let refused = cx.lock("granted").await?.ttl(too_long).renew_manually().try_acquire().await;
    let invalid = matches!(refused, Err(Error::Invalid { .. }));
    require!(invalid, "a ttl above the maximum, renewed manually: {refused:?}");
    Ok(())
}

async fn honest_terms(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    for _ in 0..10 {
        let request = cx.request("terms")?;
        let before = cx.clock.now();
        let grant = cx.granted(&*client, &request).await?;
        let after = cx.clock.now();
        let sent = grant.term.sent;
        // A session's term may count from a proof of life that it gave before.
        let before = match cx.guarantees.expiry {
            Expiry::Session(_) | Expiry::Connection(_) => {
                before.saturating_sub(grant.term.ttl.unwrap_or_default())
            }
            _ => before,
        };
        require!(
            (before..=after).contains(&sent),
            "sent at {sent:?}, not in {before:?}..{after:?}"
        );
        cx.sleep(Duration::from_millis(5)).await;
        let before = cx.clock.now();
        let term = grant.lease.renew().await?;
        let after = cx.clock.now();
        let (sent, ttl) = (term.sent, grant.term.ttl);
        require!(sent <= after, "a renewal was sent at {sent:?}, and answered at {after:?}");
        // A coalesced renewal may have been sent before this call, but not before the grant.
        require!(sent >= grant.term.sent, "a renewal from {before:?} was sent before the grant");
        require!(term.ttl.is_some() == ttl.is_some(), "{ttl:?} was renewed as {:?}", term.ttl);
        no_longer_than_the_store(&cx, &request, term).await?;
        grant.lease.release().await?;
    }
    Ok(())
}

/// The end of the term is no later than the end that the store itself shows, if it shows one.
async fn no_longer_than_the_store(cx: &Context, request: &Request, term: Term) -> Verdict {
    // What a store rounds.
    const ROUNDED: Duration = Duration::from_millis(2);
    let Some((operator, ttl)) = cx.provider.operator().zip(term.ttl) else { return Ok(()) };
    let seen = operator.inspect(request.name()).await?;
    let Some(left) = seen.holders.first().and_then(|holder| holder.expires_in) else {
        return Ok(());
    };
    let latest = cx.clock.now().saturating_add(left).saturating_add(ROUNDED);
    let over = term.sent.saturating_add(ttl).saturating_since(latest);
    require!(over.is_zero(), "a term of {ttl:?} ends {over:?} after the store has ended it");
    Ok(())
}
