//! Who holds a lock, as its store knows it.

use std::fmt;
use std::time::Duration;

use crate::{FencingToken, Kind};

/// A holder as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Holder {
    /// Who it says it is; empty for a client that leaves no label.
    pub label: String,
    /// Its token; `None` for a client of another kind.
    pub token: Option<FencingToken>,
    /// How long it has held, where the store can tell.
    pub age: Option<Duration>,
    /// In how long its lease ends unless it is renewed; `None` where there is no expiry.
    pub expires_in: Option<Duration>,
    /// The kind of its lock.
    pub kind: Kind,
    /// Its slot, where it holds a permit of a semaphore.
    pub slot: Option<u32>,
}

impl Holder {
    /// A holder of an exclusive lock with this label and nothing else known.
    pub fn new(label: impl Into<String>) -> Self {
        let label = label.into();
        Self { label, token: None, age: None, expires_in: None, kind: Kind::Exclusive, slot: None }
    }

    /// The same holder with its token.
    #[must_use]
    pub fn with_token(mut self, token: FencingToken) -> Self {
        self.token = Some(token);
        self
    }

    /// The same holder with the time it has held.
    #[must_use]
    pub fn with_age(mut self, age: Duration) -> Self {
        self.age = Some(age);
        self
    }

    /// The same holder with the time its lease has left.
    #[must_use]
    pub fn with_expires_in(mut self, left: Duration) -> Self {
        self.expires_in = Some(left);
        self
    }

    /// The same holder of another kind of lock.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Self {
        self.kind = kind;
        self
    }

    /// The same holder of a permit of a semaphore, with its slot.
    #[must_use]
    pub fn with_slot(mut self, slot: u32) -> Self {
        (self.kind, self.slot) = (Kind::Counted, Some(slot));
        self
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.label.is_empty() { "an unknown client" } else { &self.label })?;
        if let Some(token) = self.token {
            write!(f, " with token {token}")?;
        }
        if let Some(age) = self.age {
            write!(f, " for {age:.1?}")?;
        }
        if self.kind != Kind::Exclusive {
            write!(f, " ({})", self.kind)?;
        }
        if let Some(slot) = self.slot {
            write!(f, " in slot {slot}")?;
        }
        Ok(())
    }
}
