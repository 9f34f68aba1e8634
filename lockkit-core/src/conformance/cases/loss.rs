//! Safety: a loss is seen by every way of asking, and never taken back.

use std::time::Duration;

use futures_util::FutureExt;

use crate::conformance::case::Challenge::Safety;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::hook::Hook;
use crate::conformance::outcome::Outcome;
use crate::conformance::stop::{Stop, Verdict, require, require_held, require_in_time};
use crate::conformance::tap::Tap;
use crate::{Error, Guard, GuardWatch};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "SF-34",
        Safety,
        "C7",
        "a loss is seen at once by lost, at_risk, is_held, ensure, remaining and every watch",
        |cx| Box::pin(seen_everywhere(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "C7-01",
        Safety,
        "C7",
        "a guard at risk says so before it is lost, and recovers when renewals get through",
        |cx| Box::pin(at_risk(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "C7-02",
        Safety,
        "C7",
        "run stops its work when the lock is lost, and says Lost",
        |cx| Box::pin(run_stops(cx)),
    )
    .needs(&[Need::Ttl]),
    Case::new(
        "SF-19",
        Safety,
        "C7",
        "a holder whose entry was removed behind its back is told, and the next is granted",
        |cx| Box::pin(removed(cx)),
    )
    .needs(&[Need::Hook(Hook::Remove)]),
    Case::new(
        "C7-03",
        Safety,
        "C7",
        "the store's own signal of a loss is sticky and may be asked for again",
        |cx| Box::pin(sticky_signal(cx)),
    )
    .needs(&[Need::Hook(Hook::Remove)]),
];

async fn seen_everywhere(cx: Context) -> Verdict {
    let ttl = cx.short_ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("lost")).ttl(ttl).acquire().await?;
    let watch = guard.watch();
    let told = {
        let (by_guard, by_watch) = (guard.lost(), watch.lost());
        let (risk, watched_risk) = (guard.at_risk(), watch.at_risk());
        tokio::spawn(async move { tokio::join!(by_guard, by_watch, risk, watched_risk) })
    };
    tap.cut();
    let bound = ttl + cx.slack();
    let reason = cx.by(bound, "a holder that is cut off is told", guard.lost()).await?;
    agree(&guard, &watch)?;
    let (by_guard, by_watch, (), ()) =
        cx.by(cx.slack(), "everybody who waits for the loss is told", told).await??;
    let same = by_guard == reason && by_watch == reason;
    require!(same, "told {reason}, {by_guard} and {by_watch}");
    // Lost is lost, whatever gets through from now on.
    tap.mend();
    for _ in 0..10 {
        agree(&guard, &watch)?;
        let renewed = guard.renew().await;
        require!(matches!(renewed, Err(Error::Lost { .. })), "renewed after its loss: {renewed:?}");
        cx.sleep(ttl / 5).await;
    }
    let again = guard.lost().now_or_never();
    require!(again == Some(reason), "asked again, it was lost because {again:?}, not {reason}");
    let released = guard.release().await;
    require!(matches!(released, Err(Error::Lost { .. })), "released after its loss: {released:?}");
    Ok(())
}

fn agree(guard: &Guard, watch: &GuardWatch) -> Verdict {
    require!(!guard.is_held() && !watch.is_held(), "held after its loss");
    for ensured in [guard.ensure(Duration::ZERO), watch.ensure(Duration::ZERO)] {
        require!(matches!(ensured, Err(Error::Lost { .. })), "ensured after its loss: {ensured:?}");
    }
    for left in [guard.remaining(), watch.remaining()] {
        require!(left == Some(Duration::ZERO), "{left:?} left after its loss");
    }
    Ok(())
}

async fn at_risk(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let guard = cx.locks_of(tap.clone()).lock(cx.name("risky")).acquire().await?;
    require_in_time!(guard.at_risk().now_or_never().is_none(), "at risk right after its grant");
    tap.cut();
    let bound = ttl + cx.slack();
    cx.by(bound, "a guard without renewals is at risk", guard.at_risk()).await?;
    require_held(&guard, "at risk only once it was lost")?;
    tap.mend();
    cx.sleep(ttl).await;
    require_held(&guard, "lost although renewals got through")?;
    require_in_time!(guard.at_risk().now_or_never().is_none(), "at risk although it was renewed");
    Ok(guard.release().await?)
}

async fn run_stops(cx: Context) -> Verdict {
    let ttl = cx.short_ttl();
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let lock = cx.locks_of(tap.clone()).lock(cx.name("worked")).ttl(ttl);
    let guard = lock.acquire().await?;
    tap.cut();
    let work = guard.run(async |_| std::future::pending::<()>().await);
    let ran = cx.by(ttl + cx.slack(), "run() ends with its lock", Box::pin(work)).await?;
    require!(matches!(ran, Err(Error::Lost { .. })), "run() answered {ran:?} after the loss");
    Ok(())
}

async fn removed(cx: Context) -> Verdict {
    let ttl = cx.ttl();
    let guard = cx.lock("removed").await?.acquire().await?;
    cx.fixture.remove(guard.name()).await?;
    // At the next renewal at the latest, where the store sends no signal.
    let bound = ttl / 2 + cx.slack();
    cx.by(bound, "a holder whose entry was removed is told", guard.lost()).await?;
    let next = cx.lock("removed").await?.ttl(cx.long_ttl());
    let next = next.acquire_within(ttl + cx.expiry_slack()).await?;
    let released = guard.release().await;
    require!(matches!(released, Err(Error::Lost { .. })), "released a removed one: {released:?}");
    let third = cx.lock("removed").await?.try_acquire().await?;
    require!(third.is_none(), "the release of a removed lease freed the next holder's name");
    Ok(next.release().await?)
}

async fn sticky_signal(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let name = cx.lock_name("removed")?;
    let grant = cx.granted(&*client, &cx.request("removed")?).await?;
    let remove = async {
        cx.sleep(Duration::from_millis(5)).await;
        cx.fixture.remove(&name).await
    };
    // C7 names no time for a signal: long enough for a store that gives one, whatever the machine does meanwhile.
    let bound = 3 * cx.wake_up();
    let asked = tokio::time::timeout(bound, grant.lease.lost());
    let (told, removed) = tokio::join!(asked, remove);
    removed?;
    let Ok(reason) = told else {
        return Err(Stop::Final(Outcome::NotClaimed("C7: the store itself signals a loss".into())));
    };
    for _ in 0..3 {
        let again = cx.by(bound, "a signal that was given is there", grant.lease.lost()).await?;
        require!(again == reason, "lost because {again}, then because {reason}");
    }
    let renewed = grant.lease.renew().await;
    require!(matches!(renewed, Err(Error::Lost { .. })), "renewed after its signal: {renewed:?}");
    // Asked for the first time after it happened.
    let grant = cx.granted(&*client, &cx.request("removed")?).await?;
    cx.fixture.remove(&name).await?;
    cx.sleep(cx.arrival()).await;
    cx.by(bound, "a loss from before it was asked for is told", grant.lease.lost()).await?;
    // Asked, and dropped before it happened.
    let grant = cx.granted(&*client, &cx.request("removed")?).await?;
    let early = grant.lease.lost().now_or_never();
    require!(early.is_none(), "lost before anything happened");
    cx.fixture.remove(&name).await?;
    cx.by(bound, "a loss is told to who asks again", grant.lease.lost()).await?;
    Ok(())
}
