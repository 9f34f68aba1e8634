//! Mistakes of a client in its calls: acquire, withdraw, close, and what it declares.

use std::future::{pending, poll_fn};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockkit_core::{
    Applied, Error, Expiry, Fairness, Grant, Guarantees, LockProvider, Operator, Request, Result,
    StoreSays, WakeUp, async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::rules::Rules;
use super::twist::Twist;

pub(crate) fn call_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "check-then-set",
            "looks whether the name is free, and sets it in a second request: GET; SET",
            &["AT-01"],
            CheckThenSet,
        )
        .with_rules(Rules { free: |_| true, ..Rules::CORRECT }),
        Flaw::twist(
            "replay-starts-anew",
            "a replay of one id is a new grant with a second token",
            &["AT-08"],
            ReplayStartsAnew,
        ),
        Flaw::twist(
            "ids-of-its-own",
            "draws a new id for each call: what the store holds is nobody's to withdraw",
            &["AT-08"],
            IdsOfItsOwn,
        ),
        Flaw::twist(
            "held-is-an-error",
            "a name that is held is reported as an error",
            &["AT-01"],
            HeldIsAnError,
        ),
        Flaw::twist(
            "attempt-waits",
            "an attempt that must not wait does wait",
            &["PF-09"],
            AttemptWaits,
        ),
        Flaw::twist(
            "attempt-never-answers",
            "an attempt on a held name gets no answer",
            &["PF-09"],
            AttemptNeverAnswers,
        ),
        Flaw::twist(
            "polls-each-second",
            "waits by asking each second, though push and a fair queue are declared",
            &["PF-02"],
            Polls,
        ),
        Flaw::twist(
            "gives-up-waiting",
            "a waiter gives up after one ttl",
            &["LV-07"],
            GivesUpWaiting,
        ),
        Flaw::twist(
            "waits-in-silence",
            "a waiter says that the store is out of reach while it waits behind a holder",
            &["LV-10"],
            WaitsInSilence,
        ),
        Flaw::twist(
            "withdrawn-goes-on",
            "a withdrawn attempt queues again, and is granted to nobody: a ghost in the queue",
            &["AT-10"],
            WithdrawnGoesOn,
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
        Flaw::twist(
            "one-call-at-a-time",
            "one mutex around the client: who waits blocks every other call",
            &["PF-10"],
            OneCallAtATime::default(),
        ),
        Flaw::twist(
            "close-frees-others",
            "closing one client ends what other clients hold",
            &["LV-22"],
            CloseFreesOthers,
        ),
        Flaw::twist("close-never-answers", "closing never ends", &["LV-22"], CloseNeverAnswers),
        Flaw::twist(
            "declares-what-changes",
            "what it declares is different at the second look",
            &["GU-01"],
            DeclaresWhatChanges::default(),
        ),
        Flaw::twist(
            "declares-durable-tokens",
            "declares that tokens outlive the loss of the name's data, which they do not",
            &["SF-17"],
            DeclaresDurableTokens,
        ),
        Flaw::twist(
            "declares-no-expiry",
            "declares that leases end with their holder only, while they end by a ttl",
            &["LV-07"],
            DeclaresNoExpiry,
        ),
        Flaw::twist(
            "declares-no-kinds",
            "declares no kind of lock at all",
            &["GU-01"],
            DeclaresNoKinds,
        ),
    ]
}

#[derive(Debug)]
struct CheckThenSet;

#[async_trait]
impl Twist for CheckThenSet {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let seen = client.inspect(request.name()).await?;
        tokio::task::yield_now().await;
        match seen.holders.is_empty() {
            true => client.try_acquire(request).await,
            false => Ok(None),
        }
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        loop {
            if let Some(grant) = self.try_acquire(client, request).await? {
                return Ok(grant);
            }
            request.report(StoreSays::Held(None));
            request.clock().sleep(Duration::from_millis(10)).await;
        }
    }
}

#[derive(Debug)]
struct ReplayStartsAnew;

#[async_trait]
impl Twist for ReplayStartsAnew {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        client.withdraw(request).await?;
        client.try_acquire(request).await
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        client.withdraw(request).await?;
        client.acquire(request).await
    }
}

#[derive(Debug)]
struct IdsOfItsOwn;

fn renamed(request: &Request) -> Result<Request> {
    let renamed = Request::new(request.name().clone(), request.ttl(), request.clock().clone())?;
    Ok(renamed.with_label(request.label().to_string()))
}

#[async_trait]
impl Twist for IdsOfItsOwn {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        client.try_acquire(&renamed(request)?).await
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let renamed = renamed(request)?;
        request.report(StoreSays::Held(None));
        client.acquire(&renamed).await
    }
}

#[derive(Debug)]
struct HeldIsAnError;

#[async_trait]
impl Twist for HeldIsAnError {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let grant = client.try_acquire(request).await?;
        grant.map(Some).ok_or_else(|| Error::unavailable(Applied::No, "the name is locked"))
    }
}

#[derive(Debug)]
struct AttemptWaits;

#[async_trait]
impl Twist for AttemptWaits {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        client.acquire(request).await.map(Some)
    }
}

#[derive(Debug)]
struct AttemptNeverAnswers;

#[async_trait]
impl Twist for AttemptNeverAnswers {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        match client.try_acquire(request).await? {
            Some(grant) => Ok(Some(grant)),
            None => pending().await,
        }
    }
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

#[derive(Debug, Default)]
struct OneCallAtATime(tokio::sync::Mutex<()>);

#[async_trait]
impl Twist for OneCallAtATime {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let _turn = self.0.lock().await;
        client.try_acquire(request).await
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let _turn = self.0.lock().await;
        client.acquire(request).await
    }
}

#[derive(Debug)]
struct CloseFreesOthers;

#[async_trait]
impl Twist for CloseFreesOthers {
    async fn close(&self, client: &Client) -> Result<()> {
        for seen in client.list("", None, usize::MAX).await? {
            for token in seen.holders.iter().filter_map(|holder| holder.token) {
                client.revoke(&seen.name, token).await?;
            }
        }
        client.close().await
    }
}

#[derive(Debug)]
struct CloseNeverAnswers;

#[async_trait]
impl Twist for CloseNeverAnswers {
    async fn close(&self, _: &Client) -> Result<()> {
        pending().await
    }
}

#[derive(Debug, Default)]
struct DeclaresWhatChanges(AtomicBool);

impl Twist for DeclaresWhatChanges {
    fn guarantees(&self, client: &Client) -> Guarantees {
        let mut guarantees = client.guarantees();
        if self.0.fetch_xor(true, Ordering::SeqCst) {
            guarantees.fairness = Fairness::Eventual;
            guarantees.wake_up = WakeUp::Poll(Duration::from_secs(1));
        }
        guarantees
    }
}

#[derive(Debug)]
struct DeclaresDurableTokens;

impl Twist for DeclaresDurableTokens {
    fn guarantees(&self, client: &Client) -> Guarantees {
        let mut guarantees = client.guarantees();
        guarantees.token_survives.data_loss = true;
        guarantees
    }
}

#[derive(Debug)]
struct DeclaresNoExpiry;

impl Twist for DeclaresNoExpiry {
    fn guarantees(&self, client: &Client) -> Guarantees {
        let mut guarantees = client.guarantees();
        guarantees.expiry = Expiry::HolderDeath;
        guarantees
    }
}

#[derive(Debug)]
struct DeclaresNoKinds;

impl Twist for DeclaresNoKinds {
    fn guarantees(&self, client: &Client) -> Guarantees {
        let mut guarantees = client.guarantees();
        guarantees.kinds = &[];
        guarantees
    }
}
