//! Mistakes that show where one client holds several names together, or where many stand for one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use lockkit_core::{Grant, LockProvider, Request, Result, async_trait};

use super::client::Client;
use super::entry::{Done, Ended, Entry, What};
use super::flaw::Flaw;
use super::rules::Rules;
use super::twist::{Twist, TwistedLease};

pub(crate) fn together_flaws() -> Vec<Flaw> {
    vec![
        Flaw::rule(
            "one-name-for-each-client",
            "a grant ends the grants that its client has of other names: one lock for each session",
            &["MN-01"],
            Rules {
                elsewhere: Some(|entry, done| end_with(entry, done, What::Granted)),
                ..CORRECT
            },
        ),
        Flaw::rule(
            "release-of-all-names",
            "a release ends the grants that its client has of other names: the session ends with it",
            &["MN-01"],
            Rules {
                elsewhere: Some(|entry, done| end_with(entry, done, What::Ended(Ended::Released))),
                ..CORRECT
            },
        ),
        Flaw::rule(
            "candidates-share-a-text",
            "the label of a name is the one that it was first taken with: all leaders seem to be the first",
            &["EL-01"],
            Rules {
                label: |entry, label| {
                    let first = entry.past.first.as_ref();
                    first.map_or_else(|| label.to_owned(), |(_, first)| first.clone())
                },
                ..CORRECT
            },
        ),
        Flaw::twist(
            "releases-the-last-name-only",
            "a client that holds several names ends the last of them in the store, and forgets the others",
            &["MN-02"],
            ReleasesTheLast::default(),
        ),
    ]
}

const CORRECT: Rules = Rules::CORRECT;

/// Ends the grant of this other name where its client did this.
fn end_with(entry: &mut Entry, done: &Done, what: What) {
    let is_its = done.what == what;
    for held in entry.held.iter_mut().filter(|held| is_its && held.client == done.client) {
        held.expires = done.now;
    }
}

/// How many names each client holds.
#[derive(Debug, Default)]
struct ReleasesTheLast(Mutex<HashMap<u64, usize>>);

impl ReleasesTheLast {
    fn granted(&self, client: &Client) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *held.entry(client.number()).or_default() += 1;
    }
}

#[async_trait]
impl Twist for ReleasesTheLast {
    async fn try_acquire(&self, client: &Client, request: &Request) -> Result<Option<Grant>> {
        let grant = client.try_acquire(request).await?;
        grant.iter().for_each(|_| self.granted(client));
        Ok(grant)
    }

    async fn acquire(&self, client: &Client, request: &Request) -> Result<Grant> {
        let grant = client.acquire(request).await?;
        self.granted(client);
        Ok(grant)
    }

    async fn release(&self, lease: &TwistedLease) -> Result<()> {
        let is_last = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            let held = held.entry(lease.client.number()).or_default();
            *held = held.saturating_sub(1);
            *held == 0
        };
        if is_last { lease.plain.release().await } else { Ok(()) }
    }
}
