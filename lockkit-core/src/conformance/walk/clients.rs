//! The clients of the walks of one run, and the links that they walk over.

use std::sync::Arc;
use std::time::Duration;

use super::step::CLIENTS;
use crate::LockProvider;
use crate::conformance::context::Context;
use crate::conformance::faults::{Link, Linked};
use crate::conformance::stop::Verdict;

/// How long the bytes of each are on their way where they walk over links.
const DELAYS: [Duration; CLIENTS] =
    [Duration::ZERO, Duration::from_millis(4), Duration::from_millis(15)];

/// What the clients of a walk reach their store over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Nothing between.
    Nothing,
    /// Links of uneven length.
    Links,
}

/// Each is there until another takes its place.
pub(super) struct Clients {
    over: Over,
    all: Vec<Arc<dyn LockProvider>>,
    links: Vec<Arc<dyn Link>>,
}

impl Clients {
    pub(super) async fn connect(cx: &Context, over: Over) -> Verdict<Self> {
        let mut clients = Self { over, all: Vec::new(), links: Vec::new() };
        for number in 0..CLIENTS {
            let (client, link) = clients.one(cx, number).await?;
            clients.all.push(client);
            clients.links.extend(link);
        }
        Ok(clients)
    }

    /// A fresh client of this number, and its link.
    async fn one(
        &self,
        cx: &Context,
        number: usize,
    ) -> Verdict<(Arc<dyn LockProvider>, Option<Arc<dyn Link>>)> {
        if self.over == Over::Nothing {
            return Ok((cx.connect().await?, None));
        }
        let Linked { client, link } = cx.linked().await?;
        link.delay(DELAYS[number]).await?;
        Ok((client, Some(link)))
    }

    /// Drops the client of this number without a word, and connects another in its place.
    pub(super) async fn replace(&mut self, cx: &Context, number: usize) -> Verdict {
        let (client, link) = self.one(cx, number).await?;
        self.all[number] = client;
        if let Some(link) = link {
            self.links[number] = link;
        }
        Ok(())
    }

    pub(super) fn all(&self) -> &[Arc<dyn LockProvider>] {
        &self.all
    }

    pub(super) fn of(&self, number: usize) -> &Arc<dyn LockProvider> {
        &self.all[number]
    }

    pub(super) fn link(&self, number: usize) -> Option<Arc<dyn Link>> {
        self.links.get(number).map(Arc::clone)
    }

    /// How long the bytes of this client are on their way, at least.
    pub(super) fn delay(&self, number: usize) -> Duration {
        if self.over == Over::Links { DELAYS[number] } else { Duration::ZERO }
    }
}
