//! The faults of a link, and what it counts.

use std::collections::BTreeMap;
use std::time::Duration;

/// A direction of a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the client to the server.
    ToServer,
    /// From the server to the client.
    ToClient,
    /// Both of them.
    Both,
}

impl Way {
    pub(super) fn indices(self) -> &'static [usize] {
        match self {
            Self::ToServer => &[TO_SERVER],
            Self::ToClient => &[TO_CLIENT],
            Self::Both => &[TO_SERVER, TO_CLIENT],
        }
    }
}

pub(super) const TO_SERVER: usize = 0;
pub(super) const TO_CLIENT: usize = 1;

/// The connections that a fault is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connections {
    /// Those that exist, and those that come.
    All,
    /// Those that exist.
    Existing,
    /// Those that come.
    New,
    /// The one with this number; the first is 0.
    Only(u64),
}

/// What one direction does with the bytes that it is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Delivers them at once: no fault.
    Pass,
    /// Resets the connection; a new one is accepted first.
    Reset,
    /// Takes them and delivers none, nor the end of the connection. A connection that has lost
    /// bytes is reset when another fault, or none, takes over: no network leaves a gap.
    Blackhole,
    /// Loses each packet on its way, as a cable that was pulled: the sender's kernel hears no acknowledgement,
    /// not even of its keep-alives, and sends again when the fault is over. Of the other way only packets
    /// without data are lost. Where the kernel has no packet filters it is [`Hold`](Self::Hold).
    Drop,
    /// Keeps them, and the end of the connection, for later; reads no more than 1 MiB.
    Hold,
    /// Delivers each read this much later, at random between the two, in order.
    Delay {
        /// The shortest delay.
        min: Duration,
        /// The longest delay.
        max: Duration,
    },
    /// Delivers so many bytes in a second, for each connection.
    Throttle {
        /// The rate; 0 delivers nothing.
        bytes_per_second: u64,
    },
    /// Delivers exactly so many bytes from now on, then ends the connection at both sides; with 0,
    /// once there is a first byte to deliver.
    Cut {
        /// How many bytes.
        after: u64,
        /// What they are counted over.
        per: Per,
        /// How the connection ends.
        end: End,
    },
}

impl Fault {
    /// The same delay for every read.
    #[must_use]
    pub fn delay(time: Duration) -> Self {
        Self::Delay { min: time, max: time }
    }
}

/// What a cut counts bytes over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// Each connection: every one is cut.
    Connection,
    /// All connections together: the one at the last byte is cut, and the direction passes then.
    Link,
}

/// How a cut connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// In order: each side reads the end of the stream.
    Fin,
    /// With a reset: each side gets an error.
    Reset,
}

/// The bytes of one direction.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Flow {
    /// Given to the other side.
    pub delivered: u64,
    /// Taken and not yet delivered.
    pub held: u64,
    /// Taken and never delivered.
    pub dropped: u64,
}

/// What went over a link or one of its connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// How many connections were accepted.
    pub accepted: u64,
    /// How many of them are open.
    pub open: u64,
    /// The bytes from the clients.
    pub to_server: Flow,
    /// The bytes from the server.
    pub to_client: Flow,
    /// The complete requests that the server was given, by name.
    pub requests: BTreeMap<String, u64>,
    /// The complete answers and pushes that the clients were given, by kind.
    pub answers: BTreeMap<String, u64>,
}

impl Counts {
    pub(super) fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.open += other.open;
        for (sum, flow) in
            [(&mut self.to_server, other.to_server), (&mut self.to_client, other.to_client)]
        {
            sum.delivered += flow.delivered;
            sum.held += flow.held;
            sum.dropped += flow.dropped;
        }
        for (sum, names) in
            [(&mut self.requests, &other.requests), (&mut self.answers, &other.answers)]
        {
            for (name, count) in names {
                *sum.entry(name.clone()).or_default() += count;
            }
        }
    }
}

/// One connection of a link.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Connection {
    /// Its place in the order of acceptance, from 0.
    pub number: u64,
    /// What went over it.
    pub counts: Counts,
}
