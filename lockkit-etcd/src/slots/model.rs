//! The slots, model-checked: the real [`Slots`] and [`Stay`] of a session, in every order in which the sendings of
//! two requests of one name are sent, arrive, are answered or lose their answers.
//!
//! What is repeated is a sending of its own. A comparison or a step that is left out must lead to a
//! counter-example, or the model shows nothing.

use std::collections::{BTreeMap, BTreeSet};

use lockkit_core::LockName;
use stateright::{Checker, HasDiscoveries, Model, Property};

use super::*;

const CLIENTS: usize = 2;

/// What is done otherwise than it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mistake {
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

/// How much happens, at most.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    mistake: Mistake,
    requests: u8,
    puts: u8,
    removals: u8,
    losses: u8,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    slots: Slots,
    clients: [Client; CLIENTS],
    network: BTreeSet<Packet>,
    now: i64,
    /// By their numbers: the serial number in the value, and the revision that created it.
    keys: BTreeMap<usize, (u64, i64)>,
    guards: BTreeMap<usize, i64>,
    newest: i64,
    requests: u8,
    puts: u8,
    removals: u8,
    losses: u8,
    seen: Seen,
}

/// What has gone wrong, or was to be seen once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Seen {
    stray: bool,
    older_token: bool,
    refused_by_guard: bool,
    used_again: bool,
    found_again: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    stay: Option<Stay>,
    /// The revision that created its key, as far as it knows.
    created: Option<i64>,
    holds: bool,
    leaves: bool,
}

/// What is on its way; `is_heard`: its client waits for the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Packet {
    Put { client: usize, at: (usize, usize, u64), guard: i64, number: u8, is_heard: bool },
    PutDone { client: usize, serial: u64, number: u8, answer: Answer },
    Remove { client: usize, at: (usize, usize, u64), removal: Removal, number: u8, is_heard: bool },
    RemoveDone { client: usize, serial: u64, removal: Removal, number: u8, revision: i64 },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Answer {
    Created(i64),
    Found(i64),
    Stray,
    Guard(i64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Put(usize),
    Hold(usize),
    Leave(usize),
    /// It comes back to a use of which a removal has no answer.
    ComeBack(usize),
    Arrive(Packet),
    /// Its client gives up waiting.
    Lose(Packet),
}

fn name() -> LockName {
    LockName::new("n").unwrap_or_else(|_| unreachable!("a name"))
}

impl World {
    fn client(&mut self, client: usize, serial: u64) -> Option<&mut Client> {
        let client = &mut self.clients[client];
        client.stay.as_ref().is_some_and(|stay| stay.slot.serial == serial).then_some(client)
    }

    fn put(&mut self, number: usize) {
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

    fn hold(&mut self, number: usize) {
        let client = &mut self.clients[number];
        client.holds = true;
        let token = client.created.unwrap_or_default();
        self.seen.older_token |= token <= self.newest;
        self.newest = self.newest.max(token);
    }

    fn leave(&mut self, number: usize, mistake: Mistake) {
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

    fn end(&mut self, number: usize, slot: Slot) {
        self.slots.free(&name(), slot);
        self.clients[number] = Client::default();
    }

    fn arrive(&mut self, packet: Packet, mistake: Mistake) {
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

    fn lose(&mut self, packet: Packet) {
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
    fn counts_on(&self, client: &Client) -> Option<(usize, (u64, i64))> {
        let stay = client.stay.as_ref().filter(|_| !client.leaves)?;
        Some((stay.slot.key, (stay.slot.serial, client.created?)))
    }
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World {
            slots: Slots::default(),
            clients: Default::default(),
            network: BTreeSet::new(),
            now: 0,
            keys: BTreeMap::new(),
            guards: BTreeMap::new(),
            newest: 0,
            requests: 0,
            puts: 0,
            removals: 0,
            losses: 0,
            seen: Seen::default(),
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        let first = world.keys.values().map(|(_, created)| *created).min();
        for (number, client) in world.clients.iter().enumerate() {
            let phase = client.stay.as_ref().map(Stay::phase);
            let may_ask = match phase {
                // They are alike: the first one asks first.
                None => world.requests < self.requests && (number == 0 || world.requests > 0),
                Some(phase) => phase == Phase::Taken && !client.leaves,
            };
            if may_ask && world.puts < self.puts {
                steps.push(Step::Put(number));
            }
            // As the replica of the queue tells.
            if !client.holds
                && !client.leaves
                && client.created.is_some()
                && client.created == first
            {
                steps.push(Step::Hold(number));
            }
            if phase.is_some() && world.removals < self.removals {
                steps.push(Step::Leave(number));
            }
            if self.mistake == Mistake::SameUse && phase == Some(Phase::InDoubt) {
                steps.push(Step::ComeBack(number));
            }
        }
        for packet in &world.network {
            steps.push(Step::Arrive(*packet));
            let is_heard = !matches!(
                packet,
                Packet::Put { is_heard: false, .. } | Packet::Remove { is_heard: false, .. }
            );
            if is_heard && world.losses < self.losses {
                steps.push(Step::Lose(*packet));
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Put(client) => next.put(client),
            Step::Hold(client) => next.hold(client),
            Step::Leave(client) => next.leave(client, self.mistake),
            Step::ComeBack(client) => {
                let client = &mut next.clients[client];
                client.stay.as_mut()?.is_removal_unanswered = false;
                (client.created, client.leaves) = (None, false);
            }
            Step::Arrive(packet) => next.arrive(packet, self.mistake),
            Step::Lose(packet) => next.lose(packet),
        }
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_HOLDS, |_, world: &World| {
                world.clients.iter().filter(|client| client.holds).count() <= 1
            }),
            Property::always(NONE_IS_LOST, |_, world: &World| {
                let is_there = |(key, value)| world.keys.get(&key) == Some(&value);
                world.clients.iter().filter_map(|it| world.counts_on(it)).all(is_there)
            }),
            Property::always(NONE_IS_LEFT, |_, world: &World| {
                let stays = || world.clients.iter().filter_map(|client| client.stay.as_ref());
                let is_of = |key: usize, serial: u64| {
                    stays().any(|stay| (stay.slot.key, stay.slot.serial) == (key, serial))
                };
                !world.seen.stray
                    && world.keys.iter().all(|(key, (serial, _))| is_of(*key, *serial))
            }),
            Property::always(TOKENS_GROW, |_, world: &World| !world.seen.older_token),
            Property::sometimes("a guard refuses a put", |_, world: &World| {
                world.seen.refused_by_guard
            }),
            Property::sometimes("a slot is used again", |_, world: &World| world.seen.used_again),
            Property::sometimes("a replay finds its key", |_, world: &World| {
                world.seen.found_again
            }),
            Property::sometimes("a later one holds", |_, world: &World| {
                world.newest > 1 && world.clients.iter().any(|client| client.holds)
            }),
        ]
    }
}

const ONE_HOLDS: &str = "at most one holds";
const NONE_IS_LOST: &str = "the key of a request that has not left is there";
const NONE_IS_LEFT: &str = "no key is in a free slot";
const TOKENS_GROW: &str = "tokens grow";

const SMALL: Protocol =
    Protocol { mistake: Mistake::None, requests: 2, puts: 3, removals: 2, losses: 1 };

/// Looks at every order of events there is.
fn holds(protocol: Protocol) {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let checker = protocol.checker().threads(cores).spawn_dfs().join();
    println!("{} states of {protocol:?}", checker.unique_state_count());
    checker.assert_properties();
    assert!(checker.unique_state_count() > 10_000, "too few states to show anything");
}

#[test]
fn in_every_order_of_events_no_key_is_lost_or_left() {
    holds(SMALL);
}

#[test]
#[ignore = "too slow without optimization; `cargo xtask soak` runs it with"]
fn in_every_order_of_more_events_no_key_is_lost_or_left() {
    holds(Protocol { requests: 3, puts: 4, removals: 3, losses: 2, ..SMALL });
}

#[test]
fn each_comparison_and_each_wait_that_is_left_out_is_convicted() {
    let mistakes = [
        Mistake::NoGuard,
        Mistake::GuardReadLate,
        Mistake::NoValue,
        Mistake::NoRevision,
        Mistake::Unconditional,
        Mistake::NoTouch,
        Mistake::FreedEarly,
        Mistake::SameUse,
    ];
    for mistake in mistakes {
        let protocol = Protocol { mistake, ..SMALL };
        let checker =
            protocol.checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        let always = [ONE_HOLDS, NONE_IS_LOST, NONE_IS_LEFT, TOKENS_GROW];
        let found = always.into_iter().find_map(|it| Some((it, checker.discovery(it)?)));
        let (property, path) = found.unwrap_or_else(|| panic!("{mistake:?} is not convicted"));
        println!("{mistake:?}: not {property}, after {:?}", path.into_actions());
    }
}
