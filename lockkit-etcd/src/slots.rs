//! The slots of a session: the keys of its requests, which are used again, and what is known of each use.
//!
//! ```text
//! free --a request takes it--> taken --a removal begins--> leaving --it is answered--> free
//!                                                          leaving --no answer--> in doubt
//! in doubt --the next removal begins--> leaving
//! ```
//!
//! A request takes the least free number among the keys of its name, the least free guard of the session, and a
//! serial number, which is in its key's value and never comes again. What comes late finds a false comparison:
//!
//! - a put compares that the key is not there, and its guard's revision as of when it was counted. A slot whose
//!   puts were all answered has none on its way; otherwise the removal touches the guard, and no put that was
//!   counted before is applied after that;
//! - a removal names the revision that created the key, or, where that is in doubt, the value: neither comes again.
//!   What was taken from a slot in doubt is removed, with an answer, before the request takes another one;
//! - a late touch costs the guard's next user one definite refusal, after which it reads the guard's revision.
//!
//! Once the lease is gone every put fails, so that no guard needs to outlive it. Assumed: a sending is applied at
//! most once, and not after its answer.

use std::collections::{BTreeMap, BTreeSet};

use lockkit_core::LockName;

/// So many requests at one name are no crowd yet.
const FEW: usize = 4;

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Slots {
    keys: BTreeMap<LockName, Numbers>,
    guards: Numbers,
    /// The revision of each guard, as read last; 0: it was never touched.
    revisions: Vec<i64>,
    serial: u64,
}

/// The numbers of one use of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Slot {
    /// Of the key, among those of its name.
    pub(crate) key: usize,
    /// Of the guard, among those of the session.
    pub(crate) guard: usize,
    /// Of this use, in the session.
    pub(crate) serial: u64,
}

/// Numbers that are taken, and given back.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Numbers {
    end: usize,
    free: BTreeSet<usize>,
}

/// What is known of one use of a slot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Stay {
    pub(crate) slot: Slot,
    is_new: bool,
    /// How many sendings of the put have not ended yet.
    under_way: usize,
    /// Whether one of them has ended without an answer.
    is_unanswered: bool,
    /// The newest revision that created its key, as far as the answers tell.
    created: Option<i64>,
    /// Whether one of them does not tell.
    is_unclear: bool,
    /// How many removals are under way.
    removals: usize,
    /// Whether one of them has ended without an answer.
    is_removal_unanswered: bool,
}

/// What a sending of the put has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    /// The key, created at this revision.
    Key(i64),
    /// Perhaps the key, although it was answered.
    Perhaps,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Taken,
    Leaving,
    InDoubt,
}

/// What removes all that a request has in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Removal {
    /// Nothing is there, or will be.
    Nothing,
    /// Deletes the key if this revision created it.
    Exact(i64),
    /// Deletes the key if it has the value of this use, and touches the guard where a put may still come.
    ByValue { touches: bool },
}

impl Slots {
    pub(crate) fn take(&mut self, name: &LockName) -> Slot {
        let key = match self.keys.get_mut(name) {
            Some(keys) => keys.take(),
            None => self.keys.entry(name.clone()).or_default().take(),
        };
        let guard = self.guards.take();
        self.revisions.resize(self.revisions.len().max(guard + 1), 0);
        self.serial += 1;
        Slot { key, guard, serial: self.serial }
    }

    pub(crate) fn free(&mut self, name: &LockName, slot: Slot) {
        if self.keys.get_mut(name).is_some_and(|keys| keys.free(slot.key)) {
            self.keys.remove(name);
        }
        self.guards.free(slot.guard);
    }

    /// Whether many requests are at this name.
    pub(crate) fn is_crowd(&self, name: &LockName) -> bool {
        self.keys.get(name).is_some_and(|keys| keys.end - keys.free.len() >= FEW)
    }

    /// The revision of the slot's guard, which a put compares.
    pub(crate) fn guard(&self, slot: Slot) -> i64 {
        self.revisions[slot.guard]
    }

    /// The slot's guard had this revision: as read, also where it is lower than another one.
    pub(crate) fn touched(&mut self, slot: Slot, revision: i64) {
        self.revisions[slot.guard] = revision;
    }
}

impl Numbers {
    fn take(&mut self) -> usize {
        self.free.pop_first().unwrap_or_else(|| {
            self.end += 1;
            self.end - 1
        })
    }

    /// Whether none is taken any more.
    fn free(&mut self, number: usize) -> bool {
        self.free.insert(number);
        self.free.len() == self.end
    }
}

impl Stay {
    pub(crate) const fn new(slot: Slot) -> Self {
        Self {
            slot,
            is_new: true,
            under_way: 0,
            is_unanswered: false,
            created: None,
            is_unclear: false,
            removals: 0,
            is_removal_unanswered: false,
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        match self {
            Self { removals: 1.., .. } => Phase::Leaving,
            Self { is_removal_unanswered: true, .. } => Phase::InDoubt,
            _ => Phase::Taken,
        }
    }

    /// Counts a sending of the put, before its guard is compared; whether it is the first one. Only where the slot
    /// is taken.
    pub(crate) const fn send(&mut self) -> bool {
        self.under_way += 1;
        std::mem::replace(&mut self.is_new, false)
    }

    /// A sending has ended; `is_answered`: it will not be applied any more.
    pub(crate) fn sent(&mut self, left: Left, is_answered: bool) {
        self.under_way -= 1;
        self.is_unanswered |= !is_answered;
        match left {
            Left::Nothing => {}
            // The newest one counts: what was created before it is gone.
            Left::Key(created) => self.created = self.created.max(Some(created)),
            Left::Perhaps => self.is_unclear = true,
        }
    }

    pub(crate) const fn are_under_way(&self) -> bool {
        self.under_way > 0
    }

    /// Whether a put may still come.
    pub(crate) const fn is_in_doubt(&self) -> bool {
        self.under_way > 0 || self.is_unanswered
    }

    /// What removes all that is here as of now.
    pub(crate) const fn removal(&self) -> Removal {
        match self.created {
            _ if self.is_in_doubt() => Removal::ByValue { touches: true },
            _ if self.is_unclear => Removal::ByValue { touches: false },
            Some(created) => Removal::Exact(created),
            None => Removal::Nothing,
        }
    }

    /// Whether no key of this use is known that is newer than the one that `created` made.
    pub(crate) fn is_newest(&self, created: i64) -> bool {
        self.created.is_none_or(|newest| newest <= created)
    }

    /// A removal begins: no put is counted before it has ended.
    pub(crate) const fn leave(&mut self) {
        self.removals += 1;
    }

    /// A removal has ended without an answer, or was not sent.
    pub(crate) const fn stays(&mut self, was_sent: bool) {
        self.removals -= 1;
        self.is_removal_unanswered |= was_sent;
    }
}

#[cfg(test)]
mod model;
