//! At the link: what comes late, and what is lost on its way.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Challenge::{Atomicity, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::faults::{Linked, Way};
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_held};
use crate::conformance::under_faults::RoundTrips;
use crate::{Error, Guard, Lease, LockProvider};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "AT-06-link",
        Atomicity,
        "C15",
        "a grant whose reply the network lost is withdrawn, or found again by a replay",
        |cx| Box::pin(lost_replies(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(16)
    .faults(3),
    Case::new(
        "AT-07-link",
        Atomicity,
        "C9",
        "a request that is delivered after its caller gave up leaves no lock held and no waiter",
        |cx| Box::pin(late_requests(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(28)
    .faults(7),
    Case::new(
        "AT-07-waiting",
        Atomicity,
        "C9",
        "a waiter that would ask again while its withdrawal is on its way does not come back",
        |cx| Box::pin(withdrawn_while_waiting(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(2)
    .faults(1),
    Case::new(
        "C1-03",
        Atomicity,
        "C1",
        "an attempt on a freed name is not refused by an answer to another that is still on its way",
        |cx| Box::pin(answers_of_their_own(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(9)
    .faults(3),
    Case::new(
        "SF-02",
        Safety,
        "C6",
        "a release or a renewal delivered after the next grant neither ends nor extends it",
        |cx| Box::pin(late_calls(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::LeaseTtl])
    .operations(4)
    .faults(2),
    Case::new(
        "SF-02-release",
        Safety,
        "C6",
        "a release that overtook an older one and a renewal leaves them without effect",
        |cx| Box::pin(overtaken_calls(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::LeaseTtl])
    .operations(3)
    .faults(1),
    Case::new(
        "SF-05-link",
        Safety,
        "C7",
        "a renewal's reply that comes after the deadline takes no loss back",
        |cx| Box::pin(late_replies(cx)),
    )
    .needs(&[Need::Hook(Hook::Link), Need::Ttl])
    .operations(4)
    .faults(1),
];

async fn lost_replies(cx: Context) -> Verdict {
    let round_trips = cx.round_trips().await?;
    let Linked { client, link, .. } = cx.linked().await?;
    let locks = cx.locks_of(client);
    // So long that no ttl mends anything here.
    let lock = locks.lock(cx.name("ambiguous")).ttl(cx.long_ttl());
    let probe = cx.lock("ambiguous").await?;
    link.lose(Way::Replies).await?;
    let tried = cx.by(cx.call_limit(), "an attempt has a limit", lock.try_acquire()).await?;
    require!(
        round_trips.unanswered(&tried),
        "C15: the reply to an attempt in {round_trips:?} round trips was lost; it must be Unavailable, and \
         say Maybe of what the store may have done; it answered {tried:?}"
    );
    link.pass().await?;
    let free = probe.acquire_within(cx.healed()).await;
    let free = free.map_err(|error| Stop::error(&error, "an ambiguous grant stays"))?;
    free.release().await?;
    cx.no_residue("ambiguous").await?;

    link.lose(Way::Replies).await?;
    let waiting = tokio::spawn(lock.acquire());
    cx.sleep(cx.slack()).await;
    require!(!waiting.is_finished(), "granted without a reply: {:?}", waiting.await);
    link.pass().await?;
    let guard = cx.by(cx.healed(), "a replay finds the grant", waiting).await???;
    let entries = cx.entries("ambiguous").await?.unwrap_or(1);
    require!(guard.is_held() && entries == 1, "{entries} entries beside {guard:?}");
    guard.release().await?;
    cx.is_free_for(&probe).await?;
    cx.no_residue("ambiguous").await
}

/// How a caller that gives up had asked.
#[derive(Clone, Copy, Debug)]
enum Asked {
    Once,
    Waiting,
    WaitingBehindAHolder,
}

async fn late_requests(cx: Context) -> Verdict {
    let cx = Arc::new(cx);
    let round_trips = cx.round_trips().await?;
    let mut tasks = JoinSet::new();
    for asked in [Asked::Once, Asked::Waiting, Asked::WaitingBehindAHolder] {
        tasks.spawn(late_request(Arc::clone(&cx), asked));
        tasks.spawn(overtaken_request(Arc::clone(&cx), asked, round_trips));
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}

/// The request arrives after its caller has left, with the withdrawal behind it.
async fn late_request(cx: Arc<Context>, asked: Asked) -> Verdict {
    let tail = format!("{asked:?}-late");
    let Linked { client, link, .. } = cx.linked().await?;
    warm(&cx, &*client, &tail).await?;
    let lock = cx.locks_of(client).lock(cx.name(&tail)).ttl(cx.long_ttl());
    let holder = holder(&cx, asked, &tail).await?;
    link.hold(Way::Requests).await?;
    let limit = Duration::from_millis(50);
    let given_up = match asked {
        Asked::Once => {
            tokio::time::timeout(limit, lock.try_acquire()).await.unwrap_or(Err(Error::Closed))
        }
        _ => lock.acquire_within(limit).await.map(Some),
    };
    require!(given_up.is_err(), "granted before the request was delivered: {given_up:?}");
    cx.sleep(cx.slack()).await;
    link.deliver().await?;
    // It may hold for a moment, until its withdrawal is done.
    nothing_stays(&cx, holder, &tail, cx.healed()).await
}

/// The request arrives after its withdrawal, which went over a new connection.
async fn overtaken_request(cx: Arc<Context>, asked: Asked, round_trips: RoundTrips) -> Verdict {
    let tail = format!("{asked:?}-overtaken");
    let Linked { client, link, .. } = cx.linked().await?;
    warm(&cx, &*client, &tail).await?;
    let holder = holder(&cx, asked, &tail).await?;
    let request = cx.request_with_ttl(&tail, cx.long_ttl())?;
    link.hold_old(Way::Requests).await?;
    let given_up = async {
        match asked {
            Asked::Once => client.try_acquire(&request).await,
            _ => client.acquire(&request).await.map(Some),
        }
    };
    let given_up = cx.by(cx.call_limit(), "a request that is held up ends", given_up).await?;
    require!(
        round_trips.unanswered(&given_up),
        "C15: a request in {round_trips:?} round trips was held up on its way; it must be Unavailable, and \
         say Maybe of what may still come; it answered {given_up:?}"
    );
    cx.answered("the withdrawal is answered", || client.withdraw(&request)).await?;
    link.deliver().await?;
    nothing_stays(&cx, holder, &tail, cx.wake_up()).await
}

/// Lets a client open what its requests of this ttl share, so that the request itself is late.
pub(super) async fn warm(cx: &Context, client: &dyn LockProvider, tail: &str) -> Verdict {
    let request = cx.request_with_ttl(&format!("{tail}-before"), cx.long_ttl())?;
    client.acquire(&request).await?.lease.release().await?;
    Ok(())
}

async fn holder(cx: &Context, asked: Asked, tail: &str) -> Verdict<Option<Guard>> {
    Ok(match asked {
        Asked::WaitingBehindAHolder => Some(cx.lock(tail).await?.acquire().await?),
        Asked::Once | Asked::Waiting => None,
    })
}

/// Once all is delivered, nobody but this holder is there; a ghost would stay for long.
pub(super) async fn nothing_stays(
    cx: &Context,
    holder: Option<Guard>,
    tail: &str,
    bound: Duration,
) -> Verdict {
    cx.sleep(cx.moment()).await;
    if let Some(holder) = holder {
        cx.have_come(tail, 1).await?;
        require_held(&holder, "a request that was given up ended a holder")?;
        holder.release().await?;
    }
    cx.lock(tail).await?.acquire_within(bound).await?.release().await?;
    cx.no_residue(tail).await
}

async fn withdrawn_while_waiting(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let request = cx.request_with_ttl("waiting", 6 * cx.ttl())?;
    let first = cx.request_with_ttl("waiting", cx.long_ttl())?;
    let holder = cx.granted(&*cx.provider, &first).await?;
    let waiting = {
        let (client, request) = (Arc::clone(&client), request.clone());
        tokio::spawn(async move { client.acquire(&request).await })
    };
    cx.queued(&request).await?;
    // Nothing of its beginning is under way any more.
    cx.sleep(cx.slack() / 2).await;
    link.hold(Way::Requests).await?;
    let withdrawn = {
        let (client, request) = (Arc::clone(&client), request.clone());
        tokio::spawn(async move { client.withdraw(&request).await })
    };
    // A waiter that keeps its place by asking again does so meanwhile, behind the withdrawal, which
    // has a limit of its own.
    cx.sleep(cx.ttl().min(Duration::from_millis(1500))).await;
    link.deliver().await?;
    cx.by(cx.call_limit(), "the withdrawal is answered", withdrawn).await???;
    let ended = cx.by(cx.wake_up(), "a wait ends with its withdrawal", waiting).await??;
    require!(ended.is_err(), "granted beside a holder: {ended:?}");
    cx.have_come("waiting", 1).await?;
    holder.lease.release().await?;
    cx.granted(&*cx.provider, &cx.request("waiting")?).await?.lease.release().await?;
    cx.no_residue("waiting").await
}

async fn answers_of_their_own(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    warm(&cx, &*client, "freed").await?;
    let lock = cx.locks_of(client).lock(cx.name("freed")).ttl(cx.long_ttl());
    for _ in 0..3 {
        let holder = cx.lock("freed").await?.ttl(cx.long_ttl()).acquire().await?;
        link.hold(Way::Replies).await?;
        let before = tokio::spawn(lock.try_acquire());
        // The store has answered by then.
        cx.sleep(cx.moment()).await;
        holder.release().await?;
        let after = tokio::spawn(lock.try_acquire());
        cx.sleep(cx.moment()).await;
        link.deliver().await?;
        let mut granted = Vec::new();
        for tried in [before, after] {
            granted.extend(cx.by(cx.call_limit(), "an attempt is answered", tried).await???);
        }
        let count = granted.len();
        require!(count == 1, "a name was freed before one of two attempts, and granted to {count}");
        for guard in granted {
            guard.release().await?;
        }
    }
    cx.no_residue("freed").await
}

async fn late_calls(cx: Context) -> Verdict {
    for releases in [true, false] {
        let Linked { client, link, .. } = cx.linked().await?;
        let request = cx.request("late")?;
        let expired: Arc<dyn Lease> = cx.granted(&*client, &request).await?.lease.into();
        link.hold(Way::Requests).await?;
        let called = tokio::spawn(async move {
            if releases { expired.release().await } else { expired.renew().await.map(drop) }
        });
        let ttl = 3 * cx.ttl();
        let taken = cx.request_with_ttl("late", ttl)?;
        let bound = cx.recovery();
        let next = cx.by(bound, "an expired name is granted", cx.provider.acquire(&taken));
        let next = next.await??;
        link.deliver().await?;
        let ended = cx.by(cx.call_limit(), "a late call ends", called).await??;
        require!(ended.is_err(), "a call delivered after the next grant was acknowledged");
        cx.sleep(cx.moment()).await;
        let other = cx.connect().await?;
        let third = other.try_acquire(&cx.request("late")?).await?;
        require!(third.is_none(), "a late call ended the next holder's grant");
        // The case does not renew it, and nothing has changed its end.
        let after = cx.request("late")?;
        let bound = ttl + cx.expiry_slack();
        let after = cx.by(bound, "the next grant ends in time", other.acquire(&after)).await??;
        let lasted = cx.clock.now().saturating_since(next.term.sent);
        require!(lasted > ttl * 9 / 10, "a late call ended the next grant after {lasted:?}");
        require!(after.token > next.token, "token {} came after {}", after.token, next.token);
        after.lease.release().await?;
        cx.answered("the withdrawal is answered", || client.withdraw(&request)).await?;
        cx.no_residue("late").await?;
    }
    Ok(())
}

async fn overtaken_calls(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let request = cx.request_with_ttl("overtaken", cx.long_ttl())?;
    let lease: Arc<dyn Lease> = cx.granted(&*client, &request).await?.lease.into();
    link.hold_old(Way::Requests).await?;
    let mut late = JoinSet::new();
    for releases in [true, false] {
        let lease = Arc::clone(&lease);
        late.spawn(async move {
            if releases { lease.release().await } else { lease.renew().await.map(drop) }
        });
    }
    while let Some(ended) = cx.by(cx.call_limit(), "a call has a limit", late.join_next()).await? {
        let ended = ended?;
        let known = matches!(ended, Ok(()) | Err(Error::Unavailable { .. } | Error::Lost { .. }));
        require!(known, "a call that was held up answered {ended:?}");
    }
    // Over a new connection.
    let released = cx.answered("the release is answered", || lease.release()).await;
    require!(released.is_ok(), "a repeated release failed");
    let ttl = 2 * cx.ttl();
    let next = cx.granted(&*cx.provider, &cx.request_with_ttl("overtaken", ttl)?).await?;
    link.deliver().await?;
    cx.sleep(cx.moment()).await;
    let (other, after) = (cx.connect().await?, cx.request("overtaken")?);
    let third = other.try_acquire(&cx.request("overtaken")?).await?;
    require!(third.is_none(), "a call that was overtaken ended the next holder's grant");
    // The case does not renew it, and nothing has extended it.
    let bound = ttl + cx.expiry_slack();
    let after = cx.by(bound, "the next grant ends in time", other.acquire(&after)).await??;
    require!(after.token > next.token, "token {} came after {}", after.token, next.token);
    after.lease.release().await?;
    cx.no_residue("overtaken").await
}

async fn late_replies(cx: Context) -> Verdict {
    let Linked { client, link, .. } = cx.linked().await?;
    let locks = cx.locks_of(client);
    let guard = locks.lock(cx.name("held")).acquire().await?;
    cx.sleep(cx.ttl() / 2).await;
    require_held(&guard, "lost although it was renewed")?;
    link.hold(Way::Replies).await?;
    let bound = cx.ttl() + cx.slack();
    let reason = cx.by(bound, "a holder without replies is lost", guard.lost()).await?;
    link.deliver().await?;
    cx.sleep(cx.slack() / 2).await;
    let left = guard.remaining().unwrap_or_default();
    require!(!guard.is_held() && left.is_zero(), "{left:?} are left after the loss");
    let again = cx.by(cx.slack(), "a loss is told again", guard.lost()).await?;
    require!(again == reason, "lost because {reason}, and later because {again}");
    let released = guard.release().await;
    require!(matches!(released, Err(Error::Lost { .. })), "a late release answered {released:?}");
    let next = cx.lock("held").await?.acquire_within(cx.healed()).await?;
    next.release().await?;
    cx.no_residue("held").await
}
