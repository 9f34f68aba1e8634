//! Elections on the store's leases: all see who leads, and the work of one leader ends before the next one's begins.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crate::conformance::case::Challenge::{Liveness, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::stop::{Stop, Verdict, require};
use crate::conformance::tap::Tap;
use crate::{FencingToken, Leadership};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "EL-01",
        Liveness,
        "C16",
        "an observer of an election sees each leader once, by its candidate's text, in the order of tokens",
        |cx| Box::pin(seen_in_order(cx)),
    )
    .needs(&[Need::Operator]),
    Case::new(
        "EL-02",
        Safety,
        "C5",
        "the work of a leader that is not heard of any more ends before another leads",
        |cx| Box::pin(stopped_before_the_next(cx)),
    )
    .needs(&[Need::LeaseTtl]),
];

async fn seen_in_order(cx: Context) -> Verdict {
    const TERMS: usize = 6;
    let name = cx.name("office");
    let delay = Duration::from_millis(100) + 16 * cx.call;
    let mut leaders = cx.locks().await?.election(&name).seen_within(delay).observe();
    let mut candidates = Vec::new();
    for number in 0..3 {
        let text = format!("candidate {number}");
        candidates.push((cx.locks().await?.election(&name).candidate(text.clone()), text));
    }
    let lead = async {
        let mut led = Vec::new();
        for term in 0..TERMS {
            let (election, text) = &candidates[term % candidates.len()];
            let leadership = election.campaign().await?;
            let leader = election.leader().await?;
            let is_seen = leader.is_some_and(|leader| leader.token == Some(leadership.token()));
            require!(is_seen, "the leader does not see itself lead");
            led.push((text.clone(), Some(leadership.token())));
            cx.sleep(2 * delay + cx.moment()).await;
            leadership.resign().await?;
        }
        require!(candidates[0].0.leader().await?.is_none(), "one leads that has resigned");
        Ok::<_, Stop>(led)
    };
    let mut seen: Vec<(String, Option<FencingToken>)> = Vec::new();
    let led = {
        let mut lead = Box::pin(lead);
        loop {
            tokio::select! {
                biased;
                led = &mut lead => break led?,
                leader = leaders.next() => match leader {
                    Some(leader) => {
                        let leader = leader?;
                        seen.push((leader.label, leader.token));
                    }
                    None => return Err(Stop::failed("an observer's stream ended")),
                },
            }
        }
    };
    let grows = seen.windows(2).all(|pair| pair[0].1 < pair[1].1);
    require!(grows, "leaders were seen out of order, or twice: {seen:?}");
    let foreign = seen.iter().find(|leader| !led.contains(leader));
    require!(foreign.is_none(), "{foreign:?} was seen to lead, and did not: {led:?}");
    if seen.len() < led.len() {
        return Err(Stop::late(format!("of the leaders {led:?} only {seen:?} were seen")));
    }
    cx.no_residue("office").await
}

/// Says that one leads, until dropped.
struct Term(Arc<AtomicUsize>);

impl Drop for Term {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn stopped_before_the_next(cx: Context) -> Verdict {
    let (leading, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let tap = Tap::on(cx.connect().await?, &cx.clock);
    let work = |lasting: Duration| {
        let (leading, most, clock) = (Arc::clone(&leading), Arc::clone(&most), cx.clock.clone());
        async move |_: &Leadership| {
            let now = leading.fetch_add(1, Ordering::SeqCst) + 1;
            most.fetch_max(now, Ordering::SeqCst);
            let _term = Term(Arc::clone(&leading));
            clock.sleep(lasting).await;
            ControlFlow::Break(())
        }
    };
    let silent = cx.locks_of(tap.clone()).election(cx.name("office"));
    let mut silent = Box::pin(silent.run(work(cx.limit())));
    let arrival = tokio::time::timeout(cx.moment(), &mut silent).await;
    require!(arrival.is_err(), "work that goes on for ever ended");
    tap.cut();
    let next = cx.locks().await?.election(cx.name("office"));
    let next = next.run(work(cx.moment()));
    let bound = cx.ttl() + cx.expiry_slack();
    let led = async {
        tokio::select! {
            biased;
            ended = &mut silent => Err(Stop::failed(format!("work that goes on for ever gave {ended:?}"))),
            led = cx.by(bound, "the next leader's term", next) => Ok(led?),
        }
    };
    led.await??;
    let most = most.load(Ordering::SeqCst);
    require!(most == 1, "{most} leaders worked at once");
    drop(silent);
    tap.mend();
    cx.no_residue("office").await
}
