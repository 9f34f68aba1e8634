//! What long times change: nothing. Hours of idleness, of holding and of waiting.

use std::time::Duration;

use crate::Fairness as Claim;
use crate::conformance::case::Challenge::{Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::outcome::Outcome;
use crate::conformance::queue::Queue;
use crate::conformance::stop::{Stop, Verdict, require, require_held};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
/// What these cases may take, of virtual time.
const DAYS: u64 = 7 * 24 * 3600;

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C4-04",
        Safety,
        "C4",
        "a token is greater than the last one after a minute, an hour and a day without any request",
        |cx| Box::pin(idle(cx)),
    )
    .needs(&[Need::VirtualTime])
    .within(DAYS),
    Case::new(
        "C4-05",
        Safety,
        "C4",
        "a token is greater than the last one after more grants than sixteen bits can count",
        |cx| Box::pin(many_grants(cx)),
    )
    .needs(&[Need::VirtualTime])
    .within(DAYS),
    Case::new(
        "C8-03",
        Liveness,
        "C8",
        "a name is held for an hour, and who waited for that hour is granted in turn, for a whole ttl",
        |cx| Box::pin(an_hour(cx)),
    )
    .needs(&[Need::Ttl, Need::VirtualTime])
    .within(DAYS),
];

async fn idle(cx: Context) -> Verdict {
    let mut last = cx.is_free("idle").await?;
    for idle in [2 * MINUTE, 2 * HOUR, 48 * HOUR] {
        cx.sleep(idle).await;
        let token = cx.is_free("idle").await?;
        require!(token > last, "token {token} came after {last}, {idle:?} later");
        last = token;
    }
    Ok(())
}

async fn many_grants(cx: Context) -> Verdict {
    let began = cx.clock.now();
    let mut last = cx.is_free("busy").await?;
    if cx.clock.now() > began {
        let why = "its calls take time, and so many of them too much";
        return Err(Stop::Final(Outcome::NotReached(why.into())));
    }
    for _ in 0..u32::from(u16::MAX) + 2 {
        let grant = cx.granted(&*cx.provider, &cx.request("busy")?).await?;
        require!(grant.token > last, "token {} came after {last}", grant.token);
        last = grant.token;
        grant.lease.release().await?;
    }
    Ok(())
}

async fn an_hour(cx: Context) -> Verdict {
    let (client, other) = (cx.connect().await?, cx.connect().await?);
    let holder = cx.lock("hours").await?.acquire().await?;
    let mut queue = Queue::default();
    queue.add(&cx, &client, "hours").await?;
    // It comes while the first one has been there for half of the time.
    cx.sleep(HOUR / 2).await;
    queue.add(&cx, &other, "hours").await?;
    for passed in 1..=6 {
        cx.sleep(HOUR / 10).await;
        require_held(&holder, format_args!("a renewed holder, 30 + {passed} * 6 minutes later"))?;
        let barged = cx.provider.try_acquire(&cx.request("hours")?).await?;
        require!(barged.is_none(), "granted beside a holder of many minutes");
        require!(!queue.someone_ended(&cx).await, "a wait ended behind a holder of many minutes");
    }
    holder.release().await?;
    for expected in 0..2 {
        let (number, grant) = queue.granted(&cx).await?;
        let in_turn = cx.guarantees.fairness != Claim::Fifo || number == expected;
        require!(in_turn, "waiter {number} was granted instead of waiter {expected}");
        // The case does not renew it: its waiter has it before more than a third of the ttl is over.
        let end = grant.term.ttl.map(|ttl| grant.term.sent.saturating_add(ttl / 2));
        let whole = end.is_none_or(|end| end > cx.clock.now());
        require!(whole, "half of a waiter's term was gone when it was granted");
        cx.sleep(cx.ttl() / 3).await;
        let early = cx.provider.try_acquire(&cx.request("hours")?).await?;
        require!(early.is_none(), "granted within the term of one that had waited for an hour");
        grant.lease.release().await?;
    }
    cx.no_residue("hours").await
}
