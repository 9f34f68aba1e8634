//! Mistakes in a release with a rest: a name that is to stay taken for its minimum hold.

use std::time::Duration;

use lockkit_core::{Guarantees, LockProvider, MinimumHold, Result, async_trait};

use super::client::Client;
use super::flaw::Flaw;
use super::rules::Rules;
use super::twist::{Twist, TwistedLease};

const CORRECT: Rules = Rules::CORRECT;

pub(crate) fn rest_flaws() -> Vec<Flaw> {
    let mut flaws = RULES.to_vec();
    flaws.extend([
        Flaw::twist(
            "rest-declared-only",
            "minimum holds by the store are declared, and no lease offers them",
            &["C13-03", "C11-10"],
            DeclaredOnly,
        ),
        Flaw::twist(
            "rest-undeclared",
            "the store keeps minimum holds by itself, and does not declare it",
            &["C13-03"],
            Undeclared,
        ),
        Flaw::twist(
            "rest-only-released",
            "a release with a rest frees the name at once: the rest is not sent along",
            &["C11-09", "C11-10"],
            OnlyReleased,
        ),
        Flaw::twist(
            "rest-by-the-client",
            "the client waits for the rest and then releases: the name of one that is gone is free with its ttl",
            &["C11-10"],
            ByTheClient,
        ),
    ]);
    flaws
}

const RULES: &[Flaw] = &[
    Flaw::rule(
        "rest-is-the-ttl",
        "a release with a rest leaves the grant to its ttl",
        &["C11-09", "C11-10"],
        Rules { rests_until: |held, _, _| held.expires, ..CORRECT },
    ),
    Flaw::rule(
        "rest-never-beyond-the-ttl",
        "a rest that is longer than what is left of the ttl is cut to that",
        &["C11-10"],
        Rules { rests_until: |held, until, _| until.min(held.expires), ..CORRECT },
    ),
    Flaw::rule(
        "rest-unchecked",
        "a release with a rest ends whatever grant there is: a plain PEXPIRE",
        &["C6-09"],
        Rules { rests: |_, _| true, ..CORRECT },
    ),
    Flaw::rule(
        "rest-creates",
        "a release with a rest brings back a grant that has ended: SET instead of PEXPIRE",
        &["C6-09"],
        Rules { rest_creates: true, ..CORRECT },
    ),
    Flaw::rule(
        "rest-renewed",
        "a grant that rests is still its request's: a late renewal or replay extends it",
        &["C6-10"],
        Rules { rest_ends_request: false, ..CORRECT },
    ),
    Flaw::rule(
        "rest-renewed-late",
        "a late renewal of a grant that rests is acknowledged, and makes the rest longer",
        &["C6-10"],
        Rules { renews: |held, caller| held.token == caller.token, ..CORRECT },
    ),
    Flaw::rule(
        "rest-lengthened",
        "a release with a rest that comes late, after another, makes the rest longer",
        &["C6-11"],
        Rules { rests_until: |_, until, _| until, ..CORRECT },
    ),
    Flaw::rule(
        "rest-untold",
        "a waiter is not told that the name is free sooner, and waits for the end of the ttl",
        &["C11-10"],
        Rules { rest_wakes: false, ..CORRECT },
    ),
];

#[derive(Debug)]
struct DeclaredOnly;

#[async_trait]
impl Twist for DeclaredOnly {
    async fn release_after(&self, _: &TwistedLease, _: Duration) -> Result<bool> {
        Ok(false)
    }
}

#[derive(Debug)]
struct Undeclared;

impl Twist for Undeclared {
    fn guarantees(&self, client: &Client) -> Guarantees {
        let mut guarantees = client.guarantees();
        guarantees.minimum_hold = MinimumHold::ByHolder;
        guarantees
    }
}

#[derive(Debug)]
struct OnlyReleased;

#[async_trait]
impl Twist for OnlyReleased {
    async fn release_after(&self, lease: &TwistedLease, _: Duration) -> Result<bool> {
        lease.plain.release().await.map(|()| true)
    }
}

#[derive(Debug)]
struct ByTheClient;

#[async_trait]
impl Twist for ByTheClient {
    async fn release_after(&self, _: &TwistedLease, _: Duration) -> Result<bool> {
        Ok(true)
    }
}
