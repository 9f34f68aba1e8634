//! Mistakes of a client in how it asks for a name.

use std::collections::HashMap;
use std::future::pending;
use std::sync::Mutex;
use std::time::Duration;

use lockkit_core::{
    Applied, Error, Grant, Instant, LockName, LockProvider, Operator, Request, Result, StoreSays,
    async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::rule_flaws::{FOR_EVER, overwrite};
use super::rules::Rules;
use super::twist::Twist;

pub(crate) fn attempt_flaws() -> Vec<Flaw> {
    [flaws_in_what_it_asks(), flaws_in_what_it_answers()].concat()
}

fn flaws_in_what_it_asks() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "check-then-set",
            "looks whether the name is free, and sets it in a second request: GET; SET",
            &["AT-01"],
            CheckThenSet,
        )
        .with_rules(Rules { free: |_, _| true, at_grant: overwrite, ..Rules::CORRECT }),
        Flaw::twist(
            "set-then-expire",
            "sets the entry, and its ttl in a second request: SETNX; EXPIRE",
            &["C11-04"],
            SetThenExpire,
        )
        .with_rules(Rules {
            granted_until: |_, begins| begins.for_ttl(FOR_EVER),
            ..Rules::CORRECT
        }),
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
    ]
}

fn flaws_in_what_it_answers() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "refuses-names",
            "refuses names that are not plain ASCII",
            &["SF-25"],
            Refuses(|request| !request.name().as_str().bytes().all(|byte| byte.is_ascii_graphic())),
        ),
        Flaw::twist(
            "refuses-long-ttls",
            "refuses ttls within the range that it declares",
            &["SF-27"],
            Refuses(|request| request.ttl() > Duration::from_secs(3600)),
        ),
        Flaw::twist(
            "held-is-an-error",
            "a name that is held is reported as an error",
            &["C9-03"],
            HeldIsAnError,
        ),
        Flaw::twist(
            "refusal-remembered",
            "for some milliseconds after a refusal the client does not ask the store again",
            &["C1-02"],
            RefusalRemembered::default(),
        ),
        Flaw::twist(
            "attempt-waits",
            "an attempt that must not wait does wait",
            &["C9-03"],
            AttemptWaits,
        ),
        Flaw::twist(
            "attempt-never-answers",
            "an attempt on a held name gets no answer",
            &["C9-03"],
            AttemptNeverAnswers,
        ),
        Flaw::twist(
            "one-call-at-a-time",
            "one mutex around the client: who waits blocks every other call",
            &["PF-10"],
            OneCallAtATime::default(),
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
struct SetThenExpire;

#[async_trait]
impl Twist for SetThenExpire {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let grant = client.try_acquire(request).await?;
        if let Some(grant) = &grant {
            tokio::task::yield_now().await;
            grant.lease.renew().await?;
        }
        Ok(grant)
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let grant = client.acquire(request).await?;
        tokio::task::yield_now().await;
        grant.lease.renew().await?;
        Ok(grant)
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

/// Refuses such requests.
#[derive(Debug)]
struct Refuses(fn(&Request) -> bool);

impl Refuses {
    fn check(&self, request: &Request) -> Result<()> {
        match self.0(request) {
            true => Err(Error::invalid("this request", "ask for something simpler")),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl Twist for Refuses {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        self.check(request)?;
        client.try_acquire(request).await
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        self.check(request)?;
        client.acquire(request).await
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

#[derive(Debug, Default)]
struct RefusalRemembered(Mutex<HashMap<LockName, Instant>>);

#[async_trait]
impl Twist for RefusalRemembered {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let refused = self.0.lock().expect("not poisoned").get(request.name()).copied();
        let now = request.clock().now();
        if refused.is_some_and(|at| now.saturating_since(at) < Duration::from_millis(5)) {
            return Ok(None);
        }
        let grant = client.try_acquire(request).await?;
        if grant.is_none() {
            self.0.lock().expect("not poisoned").insert(request.name().clone(), now);
        }
        Ok(grant)
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
