//! Split brain: two sides that each believe they hold, and a resource that knows better.

use std::sync::Mutex;
use std::sync::PoisonError;

use crate::conformance::case::Challenge::SplitBrain;
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::stop::{Verdict, require};
use crate::conformance::tap::Tap;
use crate::{Fenced, FencingToken};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "SF-20",
        SplitBrain,
        "C14",
        "a fence accepts tokens in their order, the same one again, and no older one",
        |cx| Box::pin(fence(cx)),
    ),
    Case::new(
        "SF-22",
        SplitBrain,
        "C14",
        "a new holder that reads raises the fence first; one that does not loses an update",
        |cx| Box::pin(read_raises(cx)),
    ),
    Case::new(
        "SB-04",
        SplitBrain,
        "C14",
        "a holder cut off from the store but not from the resource is refused there; without a \
         fence its write wins",
        |cx| Box::pin(cut_off_holder(cx)),
    )
    .needs(&[Need::LeaseTtl]),
];

/// Two tokens of one name, the older one first: its holder does not know that it has ended.
async fn two_holders(cx: &Context, tail: &str) -> Verdict<(FencingToken, FencingToken)> {
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let grant = cx.granted(&*cx.provider, &cx.request(tail)?).await?;
        tokens.push(grant.token);
        grant.lease.release().await?;
    }
    require!(tokens[0] < tokens[1], "token {} came after {}", tokens[1], tokens[0]);
    Ok((tokens[0], tokens[1]))
}

async fn fence(cx: Context) -> Verdict {
    let (older, newer) = two_holders(&cx, "fenced").await?;
    let resource = Fenced::new(Vec::new());
    let mut write = |token| resource.access(token, |writes| writes.push(token)).is_ok();
    let accepted = [older, older, newer, older, newer].map(&mut write);
    require!(accepted == [true, true, true, false, true], "the fence answered {accepted:?}");
    require!(resource.newest() == Some(newer), "the newest is {:?}", resource.newest());
    let kept = resource.into_inner();
    require!(kept == [older, older, newer, newer], "a refused write took effect: {kept:?}");
    Ok(())
}

async fn read_raises(cx: Context) -> Verdict {
    let (stale, newest) = two_holders(&cx, "counter").await?;
    // The stale holder read 0 while it held; then the new one reads, and the stale one writes.
    let fenced = Fenced::new(0);
    let seen_by_stale = fenced.access(stale, |value| *value).unwrap_or_default();
    let seen_by_newest = fenced.access(newest, |value| *value).unwrap_or_default();
    let late = fenced.access(stale, |value| *value = seen_by_stale + 1);
    require!(late.is_err(), "a stale write was accepted after the new holder had read");
    let written = fenced.access(newest, |value| *value = seen_by_newest + 1);
    require!(written.is_ok(), "the newest holder was refused");

    // The control: the same order, the fence raised by writes only. Both are accepted, one is lost.
    let naive = Fenced::new(0);
    let (seen_by_stale, seen_by_newest) = (0, 0);
    let late = naive.access(stale, |value| *value = seen_by_stale + 1);
    let written = naive.access(newest, |value| *value = seen_by_newest + 1);
    let lost = late.is_ok() && written.is_ok() && naive.into_inner() == 1;
    require!(lost, "the control without a raised fence lost no update: this case proves nothing");
    Ok(())
}

async fn cut_off_holder(cx: Context) -> Verdict {
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let stale = cx.locks_of(tap.clone()).lock(cx.name("written")).ttl(cx.short_ttl());
    let stale = stale.acquire().await?;
    let (fenced, unfenced) = (Fenced::new(Vec::new()), Mutex::new(Vec::new()));
    let write = |token: FencingToken, by: &'static str| {
        unfenced.lock().unwrap_or_else(PoisonError::into_inner).push(by);
        fenced.access(token, |writes| writes.push(by))
    };
    require!(write(stale.token(), "first").is_ok(), "the only holder was refused");
    tap.cut();
    let next = cx.lock("written").await?.acquire().await?;
    require!(write(next.token(), "next").is_ok(), "the next holder was refused");
    // The stale side has not looked at its guard: that is what fences are for.
    let late = write(stale.token(), "stale");
    require!(late.is_err(), "a stale write was accepted after the next holder's");
    require!(!stale.is_held(), "the stale side believes that it holds beside the next one");
    require!(fenced.into_inner() == ["first", "next"], "the fenced resource took a stale write");
    let control = unfenced.into_inner().unwrap_or_else(PoisonError::into_inner);
    let overwritten = control.last() == Some(&"stale");
    require!(overwritten, "the control without a fence refused the stale write: {control:?}");
    Ok(next.release().await?)
}
