//! Mistakes of a client while it waits, and when it is told to stop waiting.

use std::future::{pending, poll_fn};
use std::time::Duration;

use lockkit_core::{
    Applied, Error, Fairness, FencingToken, Grant, Guarantees, LockProvider, Operator, Request,
    Result, StoreSays, WakeUp, async_trait,
};
use tokio::sync::watch;

use super::client::{Client, worth_asking};
use super::entry::{Ask, Granted};
use super::flaw::Flaw;
use super::rule_flaws::{FOR_EVER, LAST_IN_FIRST_OUT};
use super::rules::Rules;
use super::store::Answer;
use super::twist::Twist;

pub(crate) fn wait_flaws() -> Vec<Flaw> {
    [flaws_while_it_waits(), flaws_when_it_stops()].concat()
}

fn flaws_while_it_waits() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "polls-each-second",
            "waits by asking each second, though push and a fair queue are declared",
            &["LV-14"],
            Polls,
        ),
        Flaw::twist(
            "polls-first",
            "pauses before it asks, also for a name that is free",
            &["PF-01"],
            PollsFirst,
        ),
        Flaw::twist(
            "listens-late",
            "subscribes after it was told to wait: a wake-up between the two is lost",
            &["LV-14"],
            Listens::Late,
        ),
        Flaw::twist(
            "listens-only",
            "waits for a wake-up without a timer: nobody tells it of a holder that died",
            &["SF-01", "LV-17"],
            Listens::Only,
        )
        .with_rules(Rules { place_lasts: |_| FOR_EVER, ..Rules::CORRECT }),
        Flaw::twist(
            "polls-too-slowly",
            "asks again less often than it declares",
            &["LV-14"],
            PollsTooSlowly,
        ),
        Flaw::twist(
            "starves-waiters",
            "the newest waiter is granted first: declared as no order, it starves the oldest",
            &["C10-02"],
            DeclaresEventual,
        )
        .with_rules(LAST_IN_FIRST_OUT),
        Flaw::twist(
            "gives-up-waiting",
            "a waiter gives up after one ttl",
            &["LV-07"],
            GivesUpWaiting,
        ),
        Flaw::twist(
            "waits-in-silence",
            "a waiter says that the store is out of reach while it waits behind a holder",
            &["C8-01"],
            WaitsInSilence,
        ),
        Flaw::twist(
            "gone-waiter-granted",
            "who waits for those before it to go, and finds its own place gone, takes it for its turn",
            &["LV-17", "LV-12"],
            GoneWaiterGranted,
        ),
    ]
}

fn flaws_when_it_stops() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "withdrawn-goes-on",
            "a withdrawn attempt queues again, and is granted to nobody: a ghost in the queue",
            &["LV-12"],
            WithdrawnGoesOn,
        )
        .with_rules(Rules { remembers: |_| false, ..Rules::CORRECT }),
        Flaw::twist(
            "withdrawn-never-ends",
            "a withdrawn attempt waits on for ever",
            &["LV-12"],
            WithdrawnNeverEnds,
        ),
        Flaw::twist(
            "dropped-waiter-kept",
            "the client keeps a waiter's place alive until it is withdrawn, also where its call ended \
             without a word: it blocks the name for as long as the client lives",
            &["AT-18"],
            DroppedWaiterKept,
        ),
        Flaw::twist(
            "withdrawal-never-answers",
            "a withdrawal gets no answer",
            &["AT-09"],
            WithdrawalNeverAnswers,
        ),
        Flaw::twist(
            "withdrawal-only-once",
            "a withdrawal of nothing is an error: it cannot be repeated",
            &["AT-09"],
            WithdrawalOnlyOnce,
        ),
    ]
}

#[derive(Debug)]
struct Polls;

#[async_trait]
impl Twist for Polls {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        loop {
            if let Some(grant) = client.try_acquire(request).await? {
                return Ok(grant);
            }
            request.report(StoreSays::Held(None));
            request.clock().sleep(Duration::from_secs(1)).await;
        }
    }
}

#[derive(Debug)]
struct PollsFirst;

#[async_trait]
impl Twist for PollsFirst {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        request.clock().sleep(Duration::from_millis(100)).await;
        client.acquire(request).await
    }
}

/// How a waiter listens for its wake-up.
#[derive(Debug)]
enum Listens {
    Late,
    Only,
}

#[async_trait]
impl Twist for Listens {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let mut ask = Ask::Queue;
        loop {
            let sent = request.clock().now();
            let mut waiting = match client.ask(request, ask) {
                Answer::Granted(granted) => return Ok(client.grant(request, sent, granted)),
                Answer::Held(waiting) => waiting,
                Answer::Gone => return Err(Error::unavailable(Applied::No, "withdrawn")),
            };
            request.report(StoreSays::Held(waiting.holder.clone()));
            match (self, &mut waiting.wake) {
                (Self::Only, Some(wake)) => drop(wake.changed().await),
                (_, wake) => {
                    tokio::task::yield_now().await;
                    wake.iter_mut().for_each(watch::Receiver::mark_unchanged);
                    worth_asking(request, sent, waiting).await;
                }
            }
            ask = Ask::Again;
        }
    }
}

#[derive(Debug)]
struct PollsTooSlowly;

#[async_trait]
impl Twist for PollsTooSlowly {
    fn guarantees(&self, client: &Client) -> Guarantees {
        let mut guarantees = DeclaresEventual.guarantees(client);
        guarantees.wake_up = WakeUp::Poll(Duration::from_millis(50));
        guarantees
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        Polls.acquire(client, request).await
    }
}

#[derive(Debug)]
struct DeclaresEventual;

impl Twist for DeclaresEventual {
    fn guarantees(&self, client: &Client) -> Guarantees {
        let mut guarantees = client.guarantees();
        guarantees.fairness = Fairness::Eventual;
        guarantees
    }
}

#[derive(Debug)]
struct GivesUpWaiting;

#[async_trait]
impl Twist for GivesUpWaiting {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        tokio::select! {
            grant = client.acquire(request) => grant,
            () = request.clock().sleep(request.ttl()) => {
                client.withdraw(request).await?;
                Err(Error::rejected("a wait of more than one ttl", "try again later"))
            }
        }
    }
}

#[derive(Debug)]
struct WaitsInSilence;

#[async_trait]
impl Twist for WaitsInSilence {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let mut acquire = client.acquire(request);
        poll_fn(|cx| {
            let polled = acquire.as_mut().poll(cx);
            request.report(StoreSays::Unreachable);
            polled
        })
        .await
    }
}

/// As etcd's own `Lock()` did until 3.4: it waits for the keys before its own, not for its own.
#[derive(Debug)]
struct GoneWaiterGranted;

#[async_trait]
impl Twist for GoneWaiterGranted {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let (mut ask, mut newest) = (Ask::Queue, FencingToken::MIN);
        loop {
            let sent = request.clock().now();
            let waiting = match client.ask(request, ask) {
                Answer::Granted(granted) => return Ok(client.grant(request, sent, granted)),
                Answer::Held(waiting) => waiting,
                Answer::Gone => {
                    let ended = watch::Sender::new(None).subscribe();
                    let token = FencingToken::new(newest.as_u64() + 1)?;
                    let granted = Granted { token, carries: token, slot: None, ended };
                    return Ok(client.grant(request, sent, granted));
                }
            };
            let holder = waiting.holder.clone();
            newest = holder.as_ref().and_then(|holder| holder.token).unwrap_or(newest);
            request.report(StoreSays::Held(holder));
            worth_asking(request, sent, waiting).await;
            ask = Ask::Again;
        }
    }
}

#[derive(Debug)]
struct WithdrawnGoesOn;

#[async_trait]
impl Twist for WithdrawnGoesOn {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        loop {
            match client.acquire(request).await {
                Err(Error::Unavailable { .. }) => {}
                answer => return answer,
            }
        }
    }
}

#[derive(Debug)]
struct WithdrawnNeverEnds;

#[async_trait]
impl Twist for WithdrawnNeverEnds {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        match client.acquire(request).await {
            Err(Error::Unavailable { .. }) => pending().await,
            answer => answer,
        }
    }
}

#[derive(Debug)]
struct DroppedWaiterKept;

#[async_trait]
impl Twist for DroppedWaiterKept {
    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let (keeper, kept) = (client.clone(), request.clone());
        // Dropped with this call, its handle does not end it.
        let keeping = tokio::spawn(async move {
            loop {
                kept.clock().sleep(kept.ttl() / 3).await;
                if matches!(keeper.ask(&kept, Ask::Again), Answer::Gone) {
                    return;
                }
            }
        });
        let granted = client.acquire(request).await;
        keeping.abort();
        granted
    }
}

#[derive(Debug)]
struct WithdrawalNeverAnswers;

#[async_trait]
impl Twist for WithdrawalNeverAnswers {
    async fn withdraw(&self, client: &Client, request: &Request) -> Result<()> {
        client.withdraw(request).await?;
        pending().await
    }
}

#[derive(Debug)]
struct WithdrawalOnlyOnce;

#[async_trait]
impl Twist for WithdrawalOnlyOnce {
    async fn withdraw(&self, client: &Client, request: &Request) -> Result<()> {
        let before = client.inspect(request.name()).await?;
        client.withdraw(request).await?;
        if client.inspect(request.name()).await? == before {
            return Err(Error::rejected("a withdrawal of nothing", "withdraw only once"));
        }
        Ok(())
    }
}
