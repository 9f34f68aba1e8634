//! Mistakes in what an operator sees and does.

use std::collections::HashMap;
use std::future::pending;
use std::sync::{Mutex, PoisonError};

use lockkit_core::{FencingToken, Inspection, LockName, Operator, Result, async_trait};

use super::client::Client;
use super::flaw::Flaw;
use super::twist::Twist;

pub(crate) fn operator_flaws() -> Vec<Flaw> {
    [inspection_flaws(), list_flaws(), revocation_flaws()].concat()
}

fn inspection_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "inspection-wrong-token",
            "an inspection shows another token than the holder's",
            &["C16-01"],
            Shows(|seen| {
                for holder in &mut seen.holders {
                    let token = holder.token.map_or(1, FencingToken::as_u64);
                    holder.token = FencingToken::new(token + 1).ok();
                }
            }),
        ),
        Flaw::twist(
            "inspection-no-holder",
            "an inspection does not show who holds",
            &["C16-01"],
            Shows(|seen| seen.holders.clear()),
        ),
        Flaw::twist(
            "inspection-no-label",
            "an inspection shows nobody's label",
            &["C16-01"],
            Shows(|seen| {
                for holder in &mut seen.holders {
                    holder.label.clear();
                }
            }),
        ),
        Flaw::twist(
            "inspection-no-waiters",
            "an inspection says that nobody waits",
            &["C16-01"],
            Shows(|seen| seen.waiters = Some(0)),
        ),
        Flaw::twist(
            "inspection-outdated",
            "an inspection shows what the first one showed",
            &["C16-01"],
            InspectionOutdated::default(),
        ),
        Flaw::twist(
            "inspection-never-answers",
            "an inspection gets no answer",
            &["C16-01"],
            InspectionNeverAnswers,
        ),
    ]
}

fn list_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "list-ignores-prefix",
            "a list shows every name, whatever it starts with",
            &["C16-02"],
            ListIgnoresPrefix,
        ),
        Flaw::twist(
            "list-repeats-itself",
            "a list starts over at every page",
            &["C16-02"],
            ListRepeatsItself,
        ),
        Flaw::twist(
            "list-has-no-limit",
            "a list is longer than its limit",
            &["C16-02"],
            ListHasNoLimit,
        ),
        Flaw::twist(
            "list-in-no-order",
            "a list is not in the order of the names' bytes",
            &["C16-02"],
            ListInNoOrder,
        ),
        Flaw::twist(
            "list-shows-free-names",
            "a list shows names that nobody holds or waits for",
            &["C16-02"],
            ListShowsFreeNames,
        ),
    ]
}

fn revocation_flaws() -> Vec<Flaw> {
    vec![
        Flaw::twist(
            "revocation-lies",
            "a revocation does nothing and says that it did",
            &["C16-03", "MN-04"],
            RevocationLies,
        ),
        Flaw::twist(
            "revocation-always-true",
            "a revocation of a token that nobody has says that it ended a grant",
            &["C16-03"],
            RevocationAlwaysTrue,
        ),
    ]
}

/// Shows what there is, changed like this.
#[derive(Debug)]
struct Shows(fn(&mut Inspection));

#[async_trait]
impl Twist for Shows {
    async fn inspect(&self, client: &Client, name: &LockName) -> Result<Inspection> {
        let mut seen = client.inspect(name).await?;
        self.0(&mut seen);
        Ok(seen)
    }
}

/// What was shown first.
#[derive(Debug, Default)]
struct InspectionOutdated(Mutex<HashMap<LockName, Inspection>>);

#[async_trait]
impl Twist for InspectionOutdated {
    async fn inspect(&self, client: &Client, name: &LockName) -> Result<Inspection> {
        let seen = client.inspect(name).await?;
        let mut shown = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(shown.entry(name.clone()).or_insert(seen).clone())
    }
}

#[derive(Debug)]
struct InspectionNeverAnswers;

#[async_trait]
impl Twist for InspectionNeverAnswers {
    async fn inspect(&self, _: &Client, _: &LockName) -> Result<Inspection> {
        pending().await
    }
}

#[derive(Debug)]
struct ListIgnoresPrefix;

#[async_trait]
impl Twist for ListIgnoresPrefix {
    async fn list(
        &self,
        client: &Client,
        _: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        client.list("", after, limit).await
    }
}

#[derive(Debug)]
struct ListRepeatsItself;

#[async_trait]
impl Twist for ListRepeatsItself {
    async fn list(
        &self,
        client: &Client,
        prefix: &str,
        _: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        client.list(prefix, None, limit).await
    }
}

#[derive(Debug)]
struct ListHasNoLimit;

#[async_trait]
impl Twist for ListHasNoLimit {
    async fn list(
        &self,
        client: &Client,
        prefix: &str,
        after: Option<&LockName>,
        _: usize,
    ) -> Result<Vec<Inspection>> {
        client.list(prefix, after, usize::MAX).await
    }
}

#[derive(Debug)]
struct ListInNoOrder;

#[async_trait]
impl Twist for ListInNoOrder {
    async fn list(
        &self,
        client: &Client,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let mut seen = client.list(prefix, after, limit).await?;
        seen.reverse();
        Ok(seen)
    }
}

#[derive(Debug)]
struct ListShowsFreeNames;

#[async_trait]
impl Twist for ListShowsFreeNames {
    async fn list(
        &self,
        client: &Client,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Result<Vec<Inspection>> {
        let mut seen = client.list(prefix, after, limit).await?;
        let free = LockName::new(format!("{prefix}~"))?;
        if seen.len() < limit && after.is_none_or(|after| free > *after) {
            seen.push(Inspection::new(free, Vec::new(), Some(0)));
        }
        Ok(seen)
    }
}

#[derive(Debug)]
struct RevocationLies;

#[async_trait]
impl Twist for RevocationLies {
    async fn revoke(&self, client: &Client, name: &LockName, token: FencingToken) -> Result<bool> {
        let seen = client.inspect(name).await?;
        Ok(seen.holders.iter().any(|holder| holder.token == Some(token)))
    }
}

#[derive(Debug)]
struct RevocationAlwaysTrue;

#[async_trait]
impl Twist for RevocationAlwaysTrue {
    async fn revoke(&self, client: &Client, name: &LockName, token: FencingToken) -> Result<bool> {
        client.revoke(name, token).await.map(|_| true)
    }
}
