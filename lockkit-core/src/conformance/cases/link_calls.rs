//! At the link: each operation with its replies lost, late or slow, its requests lost, or both sent
//! twice.
//!
//! A network gives bytes twice to nobody: what reaches a store twice is a request that is asked
//! again over another connection, with the first one delivered after all.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;

use crate::conformance::case::Challenge::{Atomicity, Performance, Safety};
use crate::conformance::case::{Case, Need};
use crate::conformance::context::Context;
use crate::conformance::faults::{Link, Linked, Way};
use crate::conformance::hook::Hook;
use crate::conformance::stop::{Stop, Verdict, require, require_in_time};
use crate::conformance::under_faults::RoundTrips;
use crate::{Applied, Error, Grant, LockProvider, Request, Result};

pub(super) const CASES: &[Case] = &[
    Case::new(
        "C15-01",
        Atomicity,
        "C15",
        "each call whose request or reply is lost says so in time, and did what the store was told",
        |cx| Box::pin(each(cx, &[Fault::LostRequest, Fault::LostReply])),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .operations(36)
    .faults(9),
    Case::new(
        "C15-02",
        Safety,
        "C15",
        "each call whose reply is held up is answered when it comes, or says so in time",
        |cx| Box::pin(each(cx, &[Fault::LateReply, Fault::TooLateReply])),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .operations(36)
    .faults(9),
    Case::new(
        "C6-02",
        Safety,
        "C6",
        "each call that was reset on its way and asked again is done once",
        |cx| Box::pin(each(cx, &[Fault::Reset])),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .operations(28)
    .faults(9),
    Case::new(
        "AT-08-link",
        Atomicity,
        "C2",
        "an attempt that reaches the store twice is granted once, and does not come back",
        |cx| Box::pin(twice(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .within(60)
    .operations(20)
    .faults(3),
    Case::new(
        "PF-10-link",
        Performance,
        "C12",
        "on a slow link each call takes a few round trips, and a term counts from before it was sent",
        |cx| Box::pin(slow(cx)),
    )
    .needs(&[Need::Hook(Hook::Link)])
    .operations(10)
    .faults(1),
];

/// How long a reply is held up: less than any call waits for it.
const HELD_UP: Duration = Duration::from_millis(250);

/// What is asked of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Attempt,
    Renewal,
    Release,
    Withdrawal,
}

/// What becomes of it on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    LostRequest,
    LostReply,
    /// Later than usual, but within the time that a call waits.
    LateReply,
    /// After the call has given up.
    TooLateReply,
    /// The connection is reset before the reply comes.
    Reset,
}

const CALLS: [Call; 4] = [Call::Attempt, Call::Renewal, Call::Release, Call::Withdrawal];

/// Every call under each of these faults, side by side.
async fn each(cx: Context, faults: &[Fault]) -> Verdict {
    let cx = Arc::new(cx);
    let round_trips = cx.round_trips().await?;
    let mut trials = JoinSet::new();
    for (call, fault) in
        CALLS.iter().flat_map(|call| faults.iter().map(move |fault| (*call, *fault)))
    {
        let cx = Arc::clone(&cx);
        trials.spawn(async move {
            let tail = format!("{call:?}-{fault:?}");
            let trial = Trial::start(&cx, &tail, call, round_trips).await?;
            trial.under(fault).await.map_err(|stop| stop.of(format_args!("{call:?}, {fault:?}")))
        });
    }
    while let Some(ended) = trials.join_next().await {
        ended??;
    }
    Ok(())
}

/// One call of one client, before it is made.
struct Trial<'a> {
    cx: &'a Context,
    tail: &'a str,
    call: Call,
    /// How many an attempt takes.
    round_trips: RoundTrips,
    client: Arc<dyn LockProvider>,
    link: Arc<dyn Link>,
    request: Request,
    /// What the call is about, unless it is an attempt.
    grant: Option<Grant>,
}

impl Fault {
    /// What a call must answer that meets it.
    const fn expected(self) -> &'static str {
        match self {
            Self::LostRequest => "its request was lost, so it must be Unavailable",
            Self::LostReply => "its reply was lost, so it must be Unavailable, and say Maybe",
            Self::TooLateReply => {
                "its reply came after its limit, so it must be Unavailable, Maybe"
            }
            Self::LateReply => "its reply came late, but within its limit, so it must be done",
            Self::Reset => "it was reset after it had arrived, so it must be done, or say Maybe",
        }
    }
}

impl<'a> Trial<'a> {
    async fn start(
        cx: &'a Context,
        tail: &'a str,
        call: Call,
        round_trips: RoundTrips,
    ) -> Verdict<Self> {
        let Linked { client, link } = cx.linked().await?;
        // The client has its connections before anything is disturbed.
        cx.granted(&*client, &cx.request(tail)?).await?.lease.release().await?;
        // So long that no ttl mends anything here.
        let request = cx.request_with_ttl(tail, cx.long_ttl())?;
        let grant = match call {
            Call::Attempt => None,
            _ => Some(cx.granted(&*client, &request).await?),
        };
        Ok(Self { cx, tail, call, round_trips, client, link, request, grant })
    }

    /// Makes the call; `Some`: a grant that it gave.
    async fn ask(&self) -> Result<Option<Grant>> {
        match (self.call, &self.grant) {
            (Call::Renewal, Some(grant)) => grant.lease.renew().await.map(|_| None),
            (Call::Release, Some(grant)) => grant.lease.release().await.map(|()| None),
            (Call::Withdrawal, _) => self.client.withdraw(&self.request).await.map(|()| None),
            _ => self.client.try_acquire(&self.request).await,
        }
    }

    async fn under(self, fault: Fault) -> Verdict {
        let (cx, link) = (self.cx, &self.link);
        match fault {
            Fault::LostRequest => link.lose(Way::Requests).await?,
            Fault::LostReply => link.lose(Way::Replies).await?,
            Fault::LateReply | Fault::TooLateReply | Fault::Reset => {
                link.hold(Way::Replies).await?;
            }
        }
        let started = cx.clock.now();
        let meanwhile = async {
            cx.sleep(HELD_UP).await;
            match fault {
                Fault::LateReply => link.deliver().await?,
                Fault::Reset => {
                    link.reset().await?;
                    link.pass().await?;
                }
                Fault::LostRequest | Fault::LostReply | Fault::TooLateReply => {}
            }
            Verdict::Ok(())
        };
        let (answer, meanwhile) =
            tokio::join!(cx.by(cx.call_limit(), "the call ends", self.ask()), meanwhile);
        meanwhile?;
        let (answer, took) = (answer?, cx.clock.now().saturating_since(started));
        let done = self.is_done(&answer);
        let unknown = matches!(&answer, Err(Error::Unavailable { .. }));
        let maybe = match self.call {
            Call::Attempt => self.round_trips.unanswered(&answer),
            _ => matches!(&answer, Err(Error::Unavailable { applied: Applied::Maybe, .. })),
        };
        if fault == Fault::LateReply && unknown {
            return Err(Stop::late(format!("after {took:?} it answered {answer:?}")));
        }
        let right = match fault {
            Fault::LostRequest => unknown,
            // What was done is not called undone.
            Fault::LostReply | Fault::TooLateReply => maybe,
            Fault::LateReply => done && answer.is_ok() && took >= HELD_UP,
            // A client may ask again by itself.
            Fault::Reset => done || maybe,
        };
        require!(right, "C15: after {took:?} it answered {answer:?}; {}", fault.expected());
        // A client that hears nothing may end its session, and what was asked for on it.
        let unheard = self.call == Call::Attempt && fault != Fault::LostRequest;
        if !(cx.has_sessions() && unheard || cx.ends_with_connection() && fault == Fault::Reset) {
            self.look(self.reached(fault, &answer)).await?;
        }
        match fault {
            // The reply comes to a caller that has long had another answer.
            Fault::TooLateReply => link.deliver().await?,
            _ => link.pass().await?,
        }
        self.once_more().await
    }

    /// Whether the answer says that the call is done; a repeated release may find it done.
    fn is_done(&self, answer: &Result<Option<Grant>>) -> bool {
        match answer {
            Ok(granted) => granted.is_some() == (self.call == Call::Attempt),
            Err(Error::Lost { .. }) => self.may_be_lost(),
            Err(_) => false,
        }
    }

    /// What of the call has reached the store; `None`: that depends on which of its round trips it was
    /// in.
    fn reached(&self, fault: Fault, answer: &Result<Option<Grant>>) -> Option<bool> {
        match (fault, answer) {
            (Fault::LostRequest, _) => Some(false),
            // A client that says that nothing was done has to be right.
            (_, Err(Error::Unavailable { applied: Applied::No, .. })) => Some(false),
            (_, Err(Error::Unavailable { .. })) if self.is_in_several_round_trips() => None,
            _ => Some(true),
        }
    }

    fn is_in_several_round_trips(&self) -> bool {
        self.call == Call::Attempt && self.round_trips == RoundTrips::Several
    }

    fn may_be_lost(&self) -> bool {
        self.call == Call::Release || (self.call == Call::Renewal && self.cx.ends_with_connection())
    }

    /// The store has done what reached it, and nothing else.
    async fn look(&self, reached: Option<bool>) -> Verdict {
        let cx = self.cx;
        let other = cx.provider.try_acquire(&cx.request(self.tail)?).await?;
        let is_held = match (self.call, reached) {
            (Call::Attempt, Some(reached)) => reached,
            (Call::Renewal, _) => true,
            (Call::Release | Call::Withdrawal, Some(reached)) => !reached,
            (_, None) => other.is_none(),
        };
        require!(
            other.is_none() == is_held,
            "C15: the store must have done what reached it, so that the name is held is {is_held}; another \
             client asked for it and got {other:?}"
        );
        if let Some(other) = other {
            other.lease.release().await?;
        }
        let expected = usize::from(is_held);
        let entries = cx.entries(self.tail).await?.unwrap_or(expected);
        require!(entries == expected, "{entries} entries are in the store, not {expected}");
        Ok(())
    }

    /// The same again is answered, and after its end nothing is left.
    async fn once_more(self) -> Verdict {
        let (cx, tail, request) = (self.cx, self.tail, &self.request);
        let answer = cx.answered("the call is answered after the fault", || async {
            // An end that was reached before is an answer too.
            match self.ask().await {
                Err(Error::Lost { .. }) if self.may_be_lost() => Ok(None),
                answer => answer,
            }
        });
        let answer = Ok(answer.await?);
        require!(self.is_done(&answer), "asked again, it answered {answer:?}");
        if self.call == Call::Attempt {
            self.look(Some(true)).await?;
        }
        cx.answered("the withdrawal is answered", || self.client.withdraw(request)).await?;
        cx.granted(&*cx.provider, &cx.request(tail)?).await?.lease.release().await?;
        cx.no_residue(tail).await
    }
}

async fn twice(cx: Context) -> Verdict {
    let round_trips = cx.round_trips().await?;
    for released in [false, true] {
        let tail = if released { "released" } else { "held" };
        let trial = Trial::start(&cx, tail, Call::Attempt, round_trips).await?;
        let Trial { client, link, request, .. } = &trial;
        link.hold_old(Way::Requests).await?;
        let first = cx.by(cx.call_limit(), "a call has a limit", client.try_acquire(request));
        let first = first.await?;
        let grant = match first {
            // Asked again by the client itself, over a new connection.
            Ok(Some(grant)) => grant,
            unanswered if round_trips.unanswered(&unanswered) => {
                let again = cx.answered("a replay", || client.try_acquire(request)).await?;
                again.ok_or_else(|| Stop::failed("a free name was refused"))?
            }
            other => return Err(Stop::failed(format!("held up, it answered {other:?}"))),
        };
        if released {
            cx.answered("the release is answered", || grant.lease.release()).await?;
        }
        // Here the first one arrives.
        link.deliver().await?;
        cx.sleep(cx.moment()).await;
        let other = cx.provider.try_acquire(&cx.request(tail)?).await?;
        require!(other.is_some() == released, "released is {released}, another got {other:?}");
        if let Some(other) = other {
            require!(other.token > grant.token, "token {} came again", other.token);
            other.lease.release().await?;
        } else {
            let entries = cx.entries(tail).await?.unwrap_or(1);
            require!(entries == 1, "one request has {entries} entries in the store");
            let again = cx.answered("a replay", || client.try_acquire(request)).await?;
            let token = again.map(|again| again.token);
            require!(token == Some(grant.token), "{token:?} instead of {}", grant.token);
            cx.answered("the release is answered", || grant.lease.release()).await?;
            cx.granted(&*cx.provider, &cx.request(tail)?).await?.lease.release().await?;
        }
        cx.answered("the withdrawal is answered", || client.withdraw(request)).await?;
        cx.no_residue(tail).await?;
    }
    Ok(())
}

async fn slow(cx: Context) -> Verdict {
    const DELAY: Duration = Duration::from_millis(50);
    /// What a call may take: one round trip is the aim, but not the contract.
    const ROUND_TRIPS: u32 = 4;
    let trial = Trial::start(&cx, "slow", Call::Attempt, RoundTrips::One).await?;
    trial.link.delay(DELAY).await?;
    let (least, most) = (2 * DELAY, ROUND_TRIPS * 2 * DELAY + cx.slack());
    let mut times = [const { Vec::new() }; CALLS.len() - 1];
    for _ in 0..5 {
        let request = cx.request_with_ttl("slow", cx.long_ttl())?;
        let begun = cx.clock.now();
        let grant = cx.granted(&*trial.client, &request).await?;
        let acquired = cx.clock.now();
        let term = grant.lease.renew().await?;
        let renewed = cx.clock.now();
        grant.lease.release().await?;
        let ended = cx.clock.now();
        let spans = [(begun, acquired), (acquired, renewed), (renewed, ended)];
        for ((from, to), (call, times)) in spans.iter().zip(CALLS.iter().zip(&mut times)) {
            let took = to.saturating_since(*from);
            require_in_time!(took <= most, "{call:?} took {took:?} on a round trip of {least:?}");
            times.push(took);
        }
        // Nothing that was sent a moment ago is acknowledged yet.
        for (what, sent, answered) in
            [("grant", grant.term.sent, acquired), ("renewal", term.sent, renewed)]
        {
            let age = answered.saturating_since(sent);
            require!(age >= least, "a {what} was sent {age:?} before its answer came");
        }
        cx.is_free("slow").await?;
    }
    cx.notes.time("round trip", least);
    for (call, times) in CALLS.iter().zip(times) {
        cx.notes.times(&format!("{call:?}"), times);
    }
    cx.no_residue("slow").await
}
