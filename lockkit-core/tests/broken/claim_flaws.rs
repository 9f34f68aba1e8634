//! Mistakes of a client in what it declares, and in how it closes.

use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use lockkit_core::{
    Expiry, Fairness, Guarantees, LockProvider, Operator, Result, WakeUp, async_trait,
};

use super::client::Client;
use super::flaw::Flaw;
use super::twist::Twist;

pub(crate) fn claim_flaws() -> Vec<Flaw> {
    vec![
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
            &["C13-01"],
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
            &["C11-02"],
            DeclaresNoExpiry,
        ),
        Flaw::twist(
            "declares-no-kinds",
            "declares no kind of lock at all",
            &["SF-23"],
            DeclaresNoKinds,
        ),
    ]
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
