//! One mistake of the field, and the store that makes it.

use std::sync::Arc;

use lockkit_core::conformance::{self, Fixture, Hook, Linked, Served, Time};
use lockkit_core::{LockName, LockProvider, Result, async_trait};

use super::client::Client;
use super::habits::Habits;
use super::link::{Network, SmallLink};
use super::linked::LinkedClient;
use super::rules::Rules;
use super::store::{self, Store};
use super::twist::{Twist, Twisted};

/// A mistake, and the cases that must catch it; the first one is named after it.
#[derive(Clone, Debug)]
pub(crate) struct Flaw {
    pub(crate) name: &'static str,
    pub(crate) mistake: &'static str,
    pub(crate) caught_by: &'static [&'static str],
    /// The clause of the contract that it breaks, where no case is named after it.
    pub(crate) clause: &'static str,
    rules: Rules,
    habits: Habits,
    twist: Option<Arc<dyn Twist>>,
    /// Whether each client has a store of its own.
    apart: bool,
}

impl Flaw {
    /// No mistake at all.
    pub(crate) const NONE: Self = Self {
        name: "none",
        mistake: "the small store as it should be",
        caught_by: &[],
        clause: "",
        rules: Rules::CORRECT,
        habits: Habits::CORRECT,
        twist: None,
        apart: false,
    };

    /// A mistake in the rules of the store.
    pub(crate) const fn rule(
        name: &'static str,
        mistake: &'static str,
        caught_by: &'static [&'static str],
        rules: Rules,
    ) -> Self {
        Self { name, mistake, caught_by, rules, ..Self::NONE }
    }

    /// A mistake in what the client of a correct store makes of its link.
    pub(crate) const fn habit(
        name: &'static str,
        mistake: &'static str,
        caught_by: &'static [&'static str],
        habits: Habits,
    ) -> Self {
        Self { name, mistake, caught_by, habits, ..Self::NONE }
    }

    /// A mistake in the client of a correct store.
    pub(crate) fn twist(
        name: &'static str,
        mistake: &'static str,
        caught_by: &'static [&'static str],
        twist: impl Twist,
    ) -> Self {
        Self { name, mistake, caught_by, twist: Some(Arc::new(twist)), ..Self::NONE }
    }

    /// The same mistake in a store with these rules.
    pub(crate) const fn with_rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// The same mistake, which breaks this clause.
    pub(crate) const fn breaks(mut self, clause: &'static str) -> Self {
        self.clause = clause;
        self
    }

    /// A store that no two clients share.
    pub(crate) const fn apart(
        name: &'static str,
        mistake: &'static str,
        caught_by: &'static [&'static str],
    ) -> Self {
        Self { name, mistake, caught_by, apart: true, ..Self::NONE }
    }
}

/// A small store with its flaw, for the suite to find.
#[derive(Debug)]
pub(crate) struct SmallFixture {
    flaw: Flaw,
    store: Arc<Store>,
    time: Time,
    has_link: bool,
}

impl SmallFixture {
    pub(crate) fn new(flaw: &Flaw, time: Time) -> Self {
        let store = Arc::new(Store::new(flaw.rules));
        Self { flaw: flaw.clone(), store, time, has_link: true }
    }

    /// The same, for authors who give the suite no link.
    pub(crate) fn without_link(self) -> Self {
        Self { has_link: false, ..self }
    }
}

const WITH_LINK: [Hook; 6] =
    [Hook::Remove, Hook::Forget, Hook::Refuse, Hook::Server, Hook::ReadOnly, Hook::Link];

#[async_trait]
impl Fixture for SmallFixture {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        let client = match self.flaw.apart {
            true => Client::connect(&Arc::new(Store::new(self.flaw.rules))),
            false => Client::connect(&self.store),
        };
        Ok(match &self.flaw.twist {
            Some(twist) => Arc::new(Twisted::new(client, twist)),
            None => Arc::new(client),
        })
    }

    fn time(&self) -> Time {
        self.time
    }

    fn hooks(&self) -> &[Hook] {
        match self.has_link {
            true => &WITH_LINK,
            false => WITH_LINK.split_last().map_or(&[], |(_, others)| others),
        }
    }

    fn fresh(&self) -> Option<Arc<dyn Fixture>> {
        let fresh = Self::new(&self.flaw, self.time);
        Some(Arc::new(if self.has_link { fresh } else { fresh.without_link() }))
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        self.store.remove(name);
        Ok(())
    }

    async fn forget(&self, name: &LockName) -> Result<()> {
        self.store.forget(name);
        Ok(())
    }

    async fn refuse(&self, name: &LockName, refuses: bool) -> Result<()> {
        self.store.refuse(name, refuses);
        Ok(())
    }

    async fn read_only(&self, is_read_only: bool) -> Result<()> {
        let server = if is_read_only { store::Server::ReadOnly } else { store::Server::Running };
        self.store.be(server);
        Ok(())
    }

    async fn linked(&self) -> Result<Linked> {
        let network = Network::default();
        let client = LinkedClient::connect(&self.store, &network, self.flaw.habits);
        Ok(Linked::new(Arc::new(client), SmallLink(network)))
    }

    async fn served(&self) -> Result<Served> {
        let fixture = Self::new(&self.flaw, self.time);
        let server = Arc::new(SmallServer(Arc::clone(&fixture.store)));
        Ok(Served::new(fixture, server))
    }
}

/// The server that keeps a small store.
#[derive(Debug)]
struct SmallServer(Arc<Store>);

#[async_trait]
impl conformance::Server for SmallServer {
    async fn pause(&self) -> Result<()> {
        self.0.be(store::Server::Paused);
        Ok(())
    }

    async fn resume(&self) -> Result<()> {
        self.0.be(store::Server::Running);
        Ok(())
    }

    async fn kill(&self) -> Result<()> {
        self.0.be(store::Server::Down);
        Ok(())
    }

    async fn restart(&self) -> Result<()> {
        self.0.restart();
        Ok(())
    }
}
