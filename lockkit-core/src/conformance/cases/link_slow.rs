//! At a slow link: from when terms count, and whom a slow waiter is overtaken by.

use std::sync::Arc;
use std::time::Duration;

use crate::conformance::case::Challenge::{Fairness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::cases::link_late::warm;
use crate::conformance::context::Context;
use crate::conformance::faults::{Linked, Way};
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::{Error, Expiry, Grant, Instant, LockProvider, Request, Term};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C5-03",
        Safety,
        "C5",
        "on a slow link each term counts from its request: of an attempt, a wait, a hand-off, a renewal",
        |cx| Box::pin(terms(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Ttl])
    .operations(6)
    .faults(2),
    Case::new(
        "C5-04",
        Safety,
        "C5",
        "a renewal that arrives after a later one lowers no deadline that the later one was told",
        |cx| Box::pin(overtaken_renewal(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::LeaseTtl])
    .operations(3)
    .faults(1),
    Case::new(
        "C5-05",
        Safety,
        "C5",
        "the term of a grant that comes while the link is dark counts from before that",
        |cx| Box::pin(granted_in_the_dark(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Ttl])
    .operations(4)
    .faults(1),
    Case::new(
        "C5-07",
        Safety,
        "C5",
        "the store keeps a grant as long as its holder believes, whichever reply to its client was late",
        |cx| Box::pin(late_replies(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Ttl])
    .operations(3)
    .faults(2),
    Case::new(
        "FR-10",
        Fairness,
        "C10",
        "a waiter on a slow link is overtaken neither by attempts nor by other waiters on a fast one",
        |cx| Box::pin(slow_head(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Fifo])
    .operations(3)
    .faults(3),
];

/// How long each message takes.
const WAY: Duration = Duration::from_millis(100);

async fn terms(cx: Context) -> Verdict {
    let Linked { client, link } = cx.linked().await?;
    // Its call limit leaves room for a few round trips.
    let ttl = 2 * cx.ttl();
    warm(&cx, &*client, "terms").await?;
    link.delay(WAY).await?;
    let request = cx.request_with_ttl("terms", ttl)?;
    let tried = cx.granted(&*client, &request).await?;
    counts(&cx, "an attempt", tried.term)?;
    let renewed = tried.lease.renew().await?;
    counts(&cx, "a renewal", renewed)?;
    tried.lease.release().await?;
    let found = client.acquire(&cx.request_with_ttl("terms", ttl)?).await?;
    counts(&cx, "a wait for a free name", found.term)?;
    found.lease.release().await?;
    link.pass().await?;

    let holder = cx.granted(&*cx.provider, &cx.request_with_ttl("terms", cx.long_ttl())?).await?;
    let request = cx.request_with_ttl("terms", ttl)?;
    let waiting = tokio::spawn(waited(Arc::clone(&client), request.clone()));
    cx.queued(&request).await?;
    link.delay(WAY).await?;
    // Longer than its ttl, so that a term from when it came would be over.
    cx.sleep(ttl * 3 / 2).await;
    holder.lease.release().await?;
    let (grant, at) = cx.by(cx.healed(), "a slow waiter is granted", waiting).await???;
    counts_at("a hand-off", grant.term, at)?;
    let over = grant.term.ttl.is_some_and(|ttl| grant.term.sent.saturating_add(ttl) <= at);
    require!(!over, "the term of a hand-off was over when it came: it counts from the queueing");
    grant.lease.release().await?;
    link.pass().await?;
    cx.no_residue("terms").await
}

async fn granted_in_the_dark(cx: Context) -> Verdict {
    let Linked { client, link } = cx.linked().await?;
    let holder = cx.granted(&*client, &cx.request_with_ttl("dark", cx.long_ttl())?).await?;
    let request = cx.request_with_ttl("dark", cx.long_ttl())?;
    let waiting = tokio::spawn(waited(Arc::clone(&client), request.clone()));
    cx.queued(&request).await?;
    // What the waiter's client does besides, such as to subscribe, is over by then.
    cx.sleep(cx.moment()).await;
    link.blackhole().await?;
    let dark = cx.clock.now();
    cx.sleep(cx.arrival()).await;
    // The store hears nothing of it. A client may hand the name on to its own waiter all the same.
    let released = holder.lease.release();
    drop(cx.by(cx.call_limit(), "a release has a limit", released).await?);
    let granted = if waiting.is_finished() {
        match waiting.await? {
            Err(Error::Unavailable { .. }) => None,
            granted => Some(granted?.0),
        }
    } else {
        waiting.abort();
        None
    };
    link.pass().await?;
    let last = if let Some(grant) = granted {
        let since = grant.term.sent.saturating_since(dark);
        let counts = "the term of a grant that the store did not hear of counts from";
        require!(grant.term.sent <= dark, "{counts} {since:?} after the link went dark");
        grant
    } else {
        cx.answered("a withdrawal is answered", || client.withdraw(&request)).await?;
        holder
    };
    let released = || async {
        match last.lease.release().await {
            Err(Error::Lost { .. }) => Ok(()),
            ended => ended,
        }
    };
    cx.answered("a release is answered", released).await?;
    cx.no_residue("dark").await
}

async fn late_replies(cx: Context) -> Verdict {
    let Linked { client, link } = cx.linked().await?;
    // Of another ttl: a session for this one is opened by the attempt.
    warm(&cx, &*client, "late").await?;
    let request = cx.request_with_ttl("late", 3 * cx.ttl())?;
    link.hold(Way::Replies).await?;
    let (asker, asked) = (Arc::clone(&client), request.clone());
    let attempt = tokio::spawn(async move { asker.try_acquire(&asked).await });
    cx.sleep(request.ttl() / 6).await;
    link.deliver().await?;
    let granted = match cx.by(cx.call_limit(), "an attempt has a limit", attempt).await?? {
        Err(Error::Unavailable { .. }) => None,
        granted => granted?,
    };
    // From here on nothing makes the store keep it for longer.
    link.blackhole().await?;
    if let Some(Grant { term, .. }) = &granted {
        let end = term.sent.saturating_add(term.ttl.unwrap_or_default());
        while cx.clock.now() < end {
            let barged = cx.provider.try_acquire(&cx.request("late")?).await?;
            let left = end.saturating_since(cx.clock.now());
            require!(
                barged.is_none() || left.is_zero(),
                "granted {left:?} before its holder's end"
            );
            cx.sleep(WAY / 10).await;
        }
    }
    link.pass().await?;
    cx.answered("a withdrawal is answered", || client.withdraw(&request)).await?;
    Ok(())
}

/// A grant, and when it came.
async fn waited(
    client: Arc<dyn LockProvider>,
    request: Request,
) -> crate::Result<(Grant, Instant)> {
    let grant = client.acquire(&request).await?;
    Ok((grant, request.clock().now()))
}

fn counts(cx: &Context, what: &str, term: Term) -> Verdict {
    counts_at(what, term, cx.clock.now())
}

/// What an answer acknowledges was sent before the answer set out, which took this long.
fn counts_at(what: &str, term: Term, came: Instant) -> Verdict {
    let before = came.saturating_since(term.sent);
    require!(before >= WAY * 9 / 10, "the term of {what} counts from {before:?} before its answer");
    Ok(())
}

async fn overtaken_renewal(cx: Context) -> Verdict {
    let Linked { client, link } = cx.linked().await?;
    let ttl = 3 * cx.ttl();
    let grant = cx.granted(&*client, &cx.request_with_ttl("overtaken", ttl)?).await?;
    cx.sleep(cx.slack()).await;
    link.hold_old(Way::Requests).await?;
    let first = cx.clock.now();
    let late = cx.by(cx.call_limit(), "a renewal has a limit", grant.lease.renew()).await?;
    require!(late.is_err(), "a renewal that was held up was acknowledged: {late:?}");
    // Over a new connection.
    let term = cx.answered("the later renewal is answered", || grant.lease.renew()).await?;
    link.deliver().await?;
    let end = term.sent.saturating_add(ttl);
    // When the first one would have had it end, and a moment more.
    let between = end.saturating_since(first.saturating_add(ttl)) / 2;
    let at = end.saturating_sub(between);
    cx.sleep(at.saturating_since(cx.clock.now())).await;
    let barged = cx.provider.try_acquire(&cx.request("overtaken")?).await?;
    let within = cx.clock.now() < end;
    require!(barged.is_none() || !within, "a late renewal ended a term that a later one was told");
    grant.lease.release().await?;
    cx.no_residue("overtaken").await
}

async fn slow_head(cx: Context) -> Verdict {
    let Linked { client, link } = cx.linked().await?;
    let fast = cx.connect().await?;
    let can_expire = matches!(cx.guarantees.expiry, Expiry::Ttl(_));
    for expires in [false, can_expire, false] {
        let ttl = cx.long_ttl();
        let held_for = if expires { cx.patient_ttl() } else { ttl };
        let holder = cx.granted(&*cx.provider, &cx.request_with_ttl("slow", held_for)?).await?;
        let request = cx.request_with_ttl("slow", ttl)?;
        let slow = tokio::spawn(waited(Arc::clone(&client), request.clone()));
        cx.queued(&request).await?;
        let behind = cx.request_with_ttl("slow", ttl)?;
        tokio::select! {
            early = fast.acquire(&behind) => {
                return Err(Stop::failed(format!("a waiter behind a holder ended: {early:?}")));
            }
            queued = cx.queued(&behind) => queued?,
        }
        link.delay(WAY).await?;
        if expires {
            // The newcomer comes before the end: from there on only the waiter asks again.
            let end = holder.term.sent.saturating_add(held_for);
            cx.sleep(end.saturating_sub(WAY / 2).saturating_since(cx.clock.now())).await;
        } else {
            holder.lease.release().await?;
            cx.sleep(WAY / 2).await;
        }
        let newcomer = cx.request_with_ttl("slow", ttl)?;
        let newcomer = tokio::spawn(waited(Arc::clone(&fast), newcomer));
        let end = cx.clock.now().saturating_add(cx.healed());
        while !slow.is_finished() {
            if !expires {
                let barged = cx.provider.try_acquire(&cx.request("slow")?).await?;
                require!(barged.is_none(), "an attempt was granted past a waiter on a slow link");
            }
            require_in_time!(cx.clock.now() < end, "a waiter on a slow link was not granted");
            // It came later, and asks again and again.
            let overtakes = tokio::select! {
                granted = fast.acquire(&behind) => granted.map(|_| true)?,
                () = cx.sleep(WAY / 10) => false,
            };
            require!(!overtakes, "a waiter was granted past the one before it, on a slow link");
        }
        fast.withdraw(&behind).await?;
        let (first, _) = slow.await??;
        let early = "a newcomer was granted past a waiter on a slow link";
        require!(!newcomer.is_finished(), "{early}");
        first.lease.release().await?;
        let (second, _) = cx.by(cx.healed(), "the newcomer is granted", newcomer).await???;
        if second.token < first.token {
            return Err(Stop::failed(early));
        }
        second.lease.release().await?;
        link.pass().await?;
    }
    cx.no_residue("slow").await
}
