//! Safety and liveness: the store's own side of a ttl.

use std::pin::pin;
use std::time::Duration;

use crate::conformance::case::Challenge::{Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::poll::polled;
use crate::conformance::stop::{Verdict, require};
use crate::{Guard, Instant};

/// More polls than any provider needs for one call.
const POLLS: u32 = 64;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C11-04",
        Liveness,
        "C11",
        "an attempt that stalls after any poll takes the name for a ttl at most",
        |cx| Box::pin(stalled_attempt(cx)),
    )
    .needs(&[Need::LeaseTtl]),
    Case::new(
        "C5-02",
        Safety,
        "C5",
        "the store keeps a grant for the ttl that it granted, and its holder believes no longer",
        |cx| Box::pin(kept_as_granted(cx)),
    )
    .needs(&[Need::LeaseTtl, Need::Operator]),
    Case::new(
        "C13-02",
        Safety,
        "C13",
        "a ttl is granted as its declared range has it, whatever else its client was asked for",
        |cx| Box::pin(granted_as_declared(cx)),
    ),
];

async fn stalled_attempt(cx: Context) -> Verdict {
    let (client, ttl) = (cx.connect().await?, cx.short_ttl());
    let next = cx.lock("stalled").await?;
    for waits in [false, true] {
        for polls in 1..POLLS {
            let request = cx.request_with_ttl("stalled", ttl)?;
            // Kept to the end: neither dropped nor polled on, as in a process that was stopped.
            let mut attempt = pin!(async {
                if waits {
                    client.acquire(&request).await.map(Some)
                } else {
                    client.try_acquire(&request).await
                }
            });
            let granted = polled(attempt.as_mut(), polls).await.transpose()?;
            let bound = ttl + cx.expiry_slack();
            let what = format!("a name behind an attempt that stalled after {polls} polls");
            cx.by(bound, &what, next.acquire()).await??.release().await?;
            client.withdraw(&request).await?;
            cx.no_residue("stalled").await?;
            if granted.is_some() {
                break;
            }
        }
    }
    Ok(())
}

async fn kept_as_granted(cx: Context) -> Verdict {
    let seconds = Duration::from_secs;
    let most = cx.guarantees.expiry.range().map_or(cx.ttl(), |range| range.max);
    for wish in [cx.ttl(), seconds(90), seconds(3600), most] {
        let lock = cx.lock("kept").await?.ttl(wish.min(most)).renew_manually();
        let asked = cx.clock.now();
        let guard = lock.acquire().await?;
        shown_as_granted(&cx, &guard, asked).await?;
        let asked = cx.clock.now();
        guard.renew().await?;
        shown_as_granted(&cx, &guard, asked).await?;
        guard.release().await?;
    }
    Ok(())
}

/// Compares the ttl that was granted since `asked` with what the store shows of it, if it does.
async fn shown_as_granted(cx: &Context, guard: &Guard, asked: Instant) -> Verdict {
    let Some(operator) = cx.provider.operator() else { return Ok(()) };
    let seen = operator.inspect(guard.name()).await?;
    let shown = seen.holders.first().and_then(|holder| holder.expires_in);
    let (Some(shown), Some(granted)) = (shown, guard.ttl()) else { return Ok(()) };
    let step = cx.guarantees.expiry.range().map_or(Duration::ZERO, |range| range.granularity);
    let gone = cx.clock.now().saturating_since(asked) + step;
    require!(shown + gone >= granted, "{granted:?} was granted, and the store keeps it {shown:?}");
    let left = guard.remaining();
    require!(left <= Some(shown + step), "the holder believes {left:?} are left, not {shown:?}");
    Ok(())
}

async fn granted_as_declared(cx: Context) -> Verdict {
    let client = cx.connect().await?;
    let ttls = [cx.ttl(), cx.long_ttl(), cx.odd_ttl(), 3 * cx.ttl(), cx.ttl()];
    let mut grants = Vec::new();
    for (number, wished) in ttls.into_iter().enumerate() {
        let request = cx.request_with_ttl(&format!("ttl-{number}"), wished)?;
        let grant = cx.granted(&*client, &request).await?;
        let expected = cx.guarantees.expiry.range().map(|_| cx.fit(wished));
        let ttl = grant.term.ttl;
        require!(ttl == expected, "{wished:?} was granted as {ttl:?}, {expected:?} is declared");
        grants.push(grant);
    }
    for grant in grants {
        grant.lease.release().await?;
    }
    Ok(())
}
