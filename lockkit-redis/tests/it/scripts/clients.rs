//! A simulated client: its clock, its requests, and what it does with what it is told.

use std::collections::HashMap;

use super::oracle::MS;

/// A mistake that a client makes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Flaw {
    #[default]
    None,
    /// The term of a pushed grant counts from the push's arrival.
    FromArrival,
    /// The heartbeat that it counts from is taken to be a whole life old.
    WholeLife,
    /// A push whose term is over counts from its arrival.
    LateTrusted,
    /// A pushed grant is believed for longer than the ttl.
    LongFirst,
    /// It does not ask again after a death or a gap.
    IgnoresDeath,
}

/// For the differences between clocks, and between a look at one and its use.
pub(crate) const MARGIN: u64 = 5 * MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It asked, or waits for its grant.
    Asks,
    Holds {
        token: u64,
        began: u64,
    },
    /// It withdraws, or releases this value.
    Leaves,
}

#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) id: String,
    pub(crate) entry: String,
    pub(crate) name: usize,
    /// Milliseconds.
    pub(crate) ttl: u64,
    pub(crate) waits: bool,
    pub(crate) phase: Phase,
    /// An attempt of it may still arrive.
    pub(crate) unanswered: bool,
    /// Attempts that have no answer yet.
    pub(crate) under_way: u32,
    pub(crate) since: u64,
    /// When it lets go of what it holds, by the world's clock.
    pub(crate) holds_until: u64,
    /// The value and what the release of it was told before.
    pub(crate) value: String,
}

#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) address: String,
    offset: u64,
    /// Parts in 100,000 by which its clock runs faster, and 100 more.
    rate: u64,
    pub(crate) requests: HashMap<u64, Request>,
    /// Since when every waiter has been asked about without a gap.
    pub(crate) since: u64,
    pub(crate) paused_until: u64,
}

impl Client {
    pub(crate) fn new(address: String, offset: u64, rate: u64) -> Self {
        Self { address, offset, rate, requests: HashMap::new(), since: 0, paused_until: 0 }
    }

    /// What its clock shows: up to 0.02 % fast or slow.
    pub(crate) fn clock(&self, now: u64) -> u64 {
        self.offset + now + now / 100_000 * self.rate / 5 - now / 100_000 * 20
    }

    /// The instant at which its clock shows this, no later.
    pub(crate) fn instant(&self, shown: u64, now: u64) -> u64 {
        let left = shown.saturating_sub(self.clock(now));
        now + left + left / 5_000
    }

    pub(crate) fn waits(&self) -> impl Iterator<Item = (&u64, &Request)> {
        self.requests.iter().filter(|(_, request)| request.waits && request.phase == Phase::Asks)
    }

    /// The end of belief, by its clock.
    pub(crate) fn deadline(request: &Request, began: u64, flaw: Flaw) -> u64 {
        let more = if flaw == Flaw::LongFirst { 400 } else { 0 };
        (began + (request.ttl + more) * MS).saturating_sub(MARGIN)
    }

    /// When the term of a pushed grant began, by its clock.
    pub(crate) fn began(&self, reading: u64, age: u64, now: u64, flaw: Flaw) -> u64 {
        let shown = self.clock(now);
        match flaw {
            Flaw::FromArrival => shown,
            Flaw::WholeLife => reading + super::store::LIFE * MS,
            _ => reading + age * MS / 100 * 99 - 2 * MS,
        }
    }
}
