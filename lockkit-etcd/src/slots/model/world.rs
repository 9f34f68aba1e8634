//! The worlds that the model looks at: two requests of one session, what is on its way, and the store.

use std::collections::{BTreeMap, BTreeSet};

use lockkit_core::LockName;

use super::super::{Left, Removal, Slot, Slots, Stay};

const CLIENTS: usize = 2;

/// What is done otherwise than it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    None,
    /// A put does not compare its guard.
    NoGuard,
    /// A put compares the guard's revision as of when it leaves, and not as of when it was counted.
    GuardReadLate,
    /// A removal in doubt deletes whatever is there.
    NoValue,
    /// An exact removal deletes whatever is there.
    NoRevision,
    /// A removal of either kind does.
    Unconditional,
    /// A removal touches no guard, although a sending has no answer.
    NoTouch,
    /// A slot is free before its removal was answered.
    FreedEarly,
    /// A request whose removal has no answer comes back to the same use of its slot.
    SameUse,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct World {
    slots: Slots,
    pub(super) clients: [Client; CLIENTS],
    pub(super) network: BTreeSet<Packet>,
    now: i64,
    /// By their numbers: the serial number in the value, and the revision that created it.
    pub(super) keys: BTreeMap<usize, (u64, i64)>,
    guards: BTreeMap<usize, i64>,
    pub(super) newest: i64,
    pub(super) requests: u8,
    pub(super) puts: u8,
    pub(super) removals: u8,
    pub(super) losses: u8,
    pub(super) seen: Seen,
}

/// What has gone wrong, or was to be seen once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Seen {
    pub(super) stray: bool,
    pub(super) older_token: bool,
    pub(super) refused_by_guard: bool,
    pub(super) used_again: bool,
    pub(super) found_again: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Client {
    pub(super) stay: Option<Stay>,
    /// The revision that created its key, as far as it knows.
    pub(super) created: Option<i64>,
    pub(super) holds: bool,
    pub(super) leaves: bool,
}

/// What is on its way; `is_heard`: its client waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Packet {
    Put { client: usize, at: (usize, usize, u64), guard: i64, number: u8, is_heard: bool },
    PutDone { client: usize, serial: u64, number: u8, answer: Answer },
    Remove { client: usize, at: (usize, usize, u64), removal: Removal, number: u8, is_heard: bool },
    RemoveDone { client: usize, serial: u64, removal: Removal, number: u8, revision: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Answer {
    Created(i64),
    Found(i64),
    Stray,
    Guard(i64),
}

fn name() -> LockName {
    LockName::new("n").unwrap_or_else(|_| unreachable!("a name"))
}

impl World {
    fn client(&mut self, client: usize, serial: u64) -> Option<&mut Client> {
        let client = &mut self.clients[client];
        client.stay.as_ref().is_some_and(|stay| stay.slot.serial == serial).then_some(client)
    }

    pub(super) fn put(&mut self, number: usize) {
        if self.clients[number].stay.is_none() {
            let slot = self.slots.take(&name());
            self.seen.used_again |= slot.serial > 1 && slot.key == 0;
            self.clients[number].stay = Some(Stay::new(slot));
            self.requests += 1;
        }
        let Some(stay) = &mut self.clients[number].stay else { return };
        stay.send();
        let (slot, guard) = (stay.slot, self.slots.guard(stay.slot));
        self.puts += 1;
        let at = (slot.key, slot.guard, slot.serial);
        let (client, number) = (number, self.puts);
        self.network.insert(Packet::Put { client, at, guard, number, is_heard: true });
    }

    pub(super) fn hold(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.holds = true;
        let token = client.created.unwrap_or_default();
        self.seen.older_token |= token <= self.newest;
        self.newest = self.newest.max(token);
    }

    pub(super) fn leave(&mut self, number: usize, mistake: Mistake) {
        let client = &mut self.clients[number];
        let Some(stay) = &mut client.stay else { return };
        let removal = match stay.removal() {
            Removal::ByValue { .. } if mistake == Mistake::NoTouch => {
                Removal::ByValue { touches: false }
            }
            removal => removal,
        };
        (client.holds, client.leaves) = (false, true);
        stay.leave();
        let slot = stay.slot;
        if removal == Removal::Nothing {
            self.end(number, slot);
            return;
        }
        if mistake == Mistake::FreedEarly {
            self.end(number, slot);
        }
        self.removals += 1;
        let at = (slot.key, slot.guard, slot.serial);
        let (client, number) = (number, self.removals);
        self.network.insert(Packet::Remove { client, at, removal, number, is_heard: true });
    }

    /// To the same use of its slot, as if its removal had not been sent.
    pub(super) fn come_back(&mut self, number: usize) {
        let client = &mut self.clients[number];
        if let Some(stay) = &mut client.stay {
            stay.is_removal_unanswered = false;
        }
        (client.created, client.leaves) = (None, false);
    }

    fn end(&mut self, number: usize, slot: Slot) {
        self.slots.free(&name(), slot);
        self.clients[number] = Client::default();
    }

    pub(super) fn arrive(&mut self, packet: Packet, mistake: Mistake) {
        self.network.remove(&packet);
        match packet {
            Packet::Put { client, at, guard, number, is_heard } => {
                let answer = self.applies(at, guard, mistake);
                let serial = at.2;
                if is_heard {
                    self.network.insert(Packet::PutDone { client, serial, number, answer });
                }
            }
            Packet::Remove { client, at, removal, number, is_heard } => {
                self.removes(at, removal, mistake);
                let (serial, revision) = (at.2, self.now);
                if is_heard {
                    let done = Packet::RemoveDone { client, serial, removal, number, revision };
                    self.network.insert(done);
                }
            }
            Packet::PutDone { client, serial, answer, .. } => self.answered(client, serial, answer),
            Packet::RemoveDone { client, serial, removal, revision, .. } => {
                let Some(leaver) = self.client(client, serial) else { return };
                let Some(slot) = leaver.stay.as_ref().map(|stay| stay.slot) else { return };
                if removal == (Removal::ByValue { touches: true }) {
                    self.slots.touched(slot, revision);
                }
                self.end(client, slot);
            }
        }
    }

    /// The store's part of a put.
    fn applies(&mut self, at: (usize, usize, u64), guard: i64, mistake: Mistake) -> Answer {
        let (key, guarded_by, serial) = at;
        let touched = self.guards.get(&guarded_by).copied().unwrap_or(0);
        let compared = match mistake {
            Mistake::NoGuard => touched,
            Mistake::GuardReadLate => self.slots.guard(Slot { key, guard: guarded_by, serial }),
            _ => guard,
        };
        match self.keys.get(&key) {
            Some((value, created)) if *value == serial => Answer::Found(*created),
            Some(_) => Answer::Stray,
            None if compared != touched => Answer::Guard(touched),
            None => {
                self.now += 1;
                self.keys.insert(key, (serial, self.now));
                Answer::Created(self.now)
            }
        }
    }

    /// The store's part of a removal.
    fn removes(&mut self, at: (usize, usize, u64), removal: Removal, mistake: Mistake) {
        let (key, guarded_by, serial) = at;
        let there = self.keys.get(&key).copied();
        let is_ours = |(value, created): (u64, i64)| match (removal, mistake) {
            (_, Mistake::Unconditional)
            | (Removal::Exact(_), Mistake::NoRevision)
            | (Removal::ByValue { .. }, Mistake::NoValue) => true,
            (Removal::Exact(revision), _) => created == revision,
            (Removal::ByValue { .. }, _) => value == serial,
            (Removal::Nothing, _) => false,
        };
        let touches = removal == (Removal::ByValue { touches: true });
        let deletes = there.is_some_and(is_ours);
        if deletes || touches {
            self.now += 1;
        }
        if deletes {
            self.keys.remove(&key);
        }
        if touches {
            self.guards.insert(guarded_by, self.now);
        }
    }

    fn answered(&mut self, number: usize, serial: u64, answer: Answer) {
        let Some(client) = self.client(number, serial) else { return };
        let Some(stay) = &mut client.stay else { return };
        let slot = stay.slot;
        match answer {
            Answer::Created(created) | Answer::Found(created) => {
                stay.sent(Left::Key(created), true);
                client.created = client.created.max(Some(created));
            }
            Answer::Stray | Answer::Guard(_) => stay.sent(Left::Nothing, true),
        }
        match answer {
            Answer::Created(_) => {}
            Answer::Found(_) => self.seen.found_again = true,
            Answer::Stray => self.seen.stray = true,
            Answer::Guard(revision) => {
                self.seen.refused_by_guard = true;
                self.slots.touched(slot, revision);
            }
        }
    }

    pub(super) fn lose(&mut self, packet: Packet) {
        self.network.remove(&packet);
        self.losses += 1;
        match packet {
            Packet::Put { client, at, guard, number, .. } => {
                self.network.insert(Packet::Put { client, at, guard, number, is_heard: false });
                self.unanswered(client, at.2, |stay| stay.sent(Left::Nothing, false));
            }
            Packet::PutDone { client, serial, .. } => {
                self.unanswered(client, serial, |stay| stay.sent(Left::Nothing, false));
            }
            Packet::Remove { client, at, removal, number, .. } => {
                let unheard = Packet::Remove { client, at, removal, number, is_heard: false };
                self.network.insert(unheard);
                self.unanswered(client, at.2, |stay| stay.stays(true));
            }
            Packet::RemoveDone { client, serial, .. } => {
                self.unanswered(client, serial, |stay| stay.stays(true));
            }
        }
    }

    fn unanswered(&mut self, client: usize, serial: u64, note: impl FnOnce(&mut Stay)) {
        if let Some(stay) = self.client(client, serial).and_then(|client| client.stay.as_mut()) {
            note(stay);
        }
    }

    /// Whether it believes that its key is there.
    pub(super) fn counts_on(&self, client: &Client) -> Option<(usize, (u64, i64))> {
        let stay = client.stay.as_ref().filter(|_| !client.leaves)?;
        Some((stay.slot.key, (stay.slot.serial, client.created?)))
    }
}
