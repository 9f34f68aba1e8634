//! The slots, model-checked: the real [`Slots`] and [`Stay`] of a session, in every order in which the sendings of
//! two requests of one name are sent, arrive, are answered or lose their answers.
//!
//! What is repeated is a sending of its own. A comparison or a step that is left out must lead to a
//! counter-example, or the model shows nothing.

mod world;

use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{Mistake, Packet, World};

use super::{Phase, Stay};

/// How much happens, at most.
#[derive(Clone, Copy, Debug)]
struct Protocol {
    mistake: Mistake,
    requests: u8,
    puts: u8,
    removals: u8,
    losses: u8,
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

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::default()]
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
            Step::ComeBack(client) => next.come_back(client),
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
