//! What the body of a case has at hand where links and servers fail.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::counted::{CountedLink, CountedServer};
use super::faults::{Linked, Server};
use super::logged::LoggedClient;
use super::stop::{Stop, Verdict, require};
use crate::{Applied, Error, Result};

/// The most that one call may wait for a store (C12).
const CALL: Duration = Duration::from_secs(2);

/// How late each message is where round trips are counted: more than a kernel delays an acknowledgement.
const ONE_WAY: Duration = Duration::from_millis(100);

/// How many round trips an attempt takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RoundTrips {
    One,
    /// The first call reads, or makes room, and a later one takes: a client that got no reply to the
    /// first may not have asked for the name yet.
    Several,
}

impl RoundTrips {
    /// Whether an attempt without a reply is answered as it must be: it may have had effect. One in
    /// several round trips may know that it had none.
    pub(super) fn unanswered<T>(self, answer: &Result<T>) -> bool {
        match answer {
            Err(Error::Unavailable { applied: Applied::Maybe, .. }) => true,
            Err(Error::Unavailable { applied: Applied::No, .. }) => self == Self::Several,
            _ => false,
        }
    }
}

impl Context {
    /// One more client of the store, behind a link of its own; calls and faults are counted.
    pub(super) async fn linked(&self) -> Verdict<Linked> {
        let linked =
            self.fixture.linked().await.map_err(|error| {
                Stop::error(&error, "the fixture connects no client through a link")
            });
        let Linked { client, link } = linked?;
        let client = LoggedClient::new(client, &self.notes, &self.clock).counted();
        let link = CountedLink::new(link, self.notes.clone());
        Ok(Linked::new(Arc::new(client), link))
    }

    /// The same run on a server of its own, whose faults are counted.
    pub(super) async fn served(&self) -> Verdict<(Self, Arc<dyn Server>)> {
        let served =
            self.fixture.served().await.map_err(|error| {
                Stop::error(&error, "the fixture starts no server for one case")
            })?;
        let server = CountedServer { server: served.server, notes: self.notes.clone() };
        Ok((self.on(served.fixture).await?, Arc::new(server)))
    }

    /// By when the next one is granted, whatever became of the holder (C11).
    pub(super) fn recovery(&self) -> Duration {
        self.ttl() + self.expiry_slack()
    }

    /// By when a waiter is granted after an outage: it may be in a pause, or in a call.
    pub(super) fn healed(&self) -> Duration {
        self.recovery() + self.call_limit()
    }

    /// By when a call has ended, whatever the store does (C12).
    pub(super) fn call_limit(&self) -> Duration {
        CALL + self.slack()
    }

    /// Whether an attempt of this store's clients is in one round trip, or in several; measured on a
    /// link that takes its time.
    pub(super) async fn round_trips(&self) -> Verdict<RoundTrips> {
        let Linked { client, link } = self.linked().await?;
        // The least of two: what a busy machine adds to one of them, it does not add to both.
        let took = async || {
            let mut least = Duration::MAX;
            for _ in 0..2 {
                let began = self.clock.now();
                let grant = self.granted(&*client, &self.request("round-trips")?).await?;
                least = least.min(self.clock.now().saturating_since(began));
                grant.lease.release().await?;
            }
            Verdict::Ok(least)
        };
        // The first time connects.
        took().await?;
        let at_once = took().await?;
        link.delay(ONE_WAY).await?;
        let delayed = took().await?;
        link.pass().await?;
        let added = delayed.saturating_sub(at_once);
        self.notes.time("added to an attempt by a round trip of 200 ms", added);
        Ok(if added < 3 * ONE_WAY { RoundTrips::One } else { RoundTrips::Several })
    }

    /// Repeats a call, as the driver does, until the store answers.
    pub(super) async fn answered<T: Send, F: Future<Output = Result<T>> + Send>(
        &self,
        what: &str,
        call: impl Fn() -> F + Send + Sync,
    ) -> Verdict<T> {
        let repeated = async {
            loop {
                match call().await {
                    Err(Error::Unavailable { .. }) => self.sleep(Duration::from_millis(10)).await,
                    answer => return answer,
                }
            }
        };
        Ok(self.by(self.healed(), what, repeated).await??)
    }

    /// How many hold or wait at the name with this tail, as the store sees it; `None`: it cannot
    /// tell.
    pub(super) async fn entries(&self, tail: &str) -> Verdict<Option<usize>> {
        let Some(operator) = self.provider.operator() else { return Ok(None) };
        let seen = operator.inspect(&self.lock_name(tail)?).await?;
        Ok(seen.waiters.map(|waiters| seen.holders.len() + waiters))
    }

    /// Waits until so many hold or wait, where the store can tell.
    pub(super) async fn have_come(&self, tail: &str, number: usize) -> Verdict {
        // A busy machine takes its time for each of many.
        let each = self.slack() / 20 * u32::try_from(number).unwrap_or(u32::MAX);
        let end = self.clock.now().saturating_add(self.wake_up() + each);
        while let Some(entries) = self.entries(tail).await?.filter(|entries| *entries != number) {
            if self.clock.now() >= end {
                require!(
                    entries < number,
                    "{entries} hold and wait, where {number} do: one is left"
                );
                return Err(Stop::late(format!("{number} did not come in time to hold and wait")));
            }
            self.sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }
}
