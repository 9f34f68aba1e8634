//! The lease protocol, model-checked: the real [`Machine`](crate::driver::lease::Machine) of the driver,
//! the real [`Store`](crate::memory::store::Store) and the real [`Fenced`](crate::Fenced), in every
//! order in which three clients, their messages and time can move.
//!
//! A pause of a client, and a message that is delayed or lost, need no step of their own: no
//! client has to do what it can do, and time passes. A safeguard that is switched off must lead to a
//! counter-example, or the model shows nothing.

mod protocol;
mod world;

use std::collections::BTreeSet;

use protocol::{Protocol, SAFE};
use stateright::{Checker, HasDiscoveries, Model, Property};
use world::{CLIENTS, Client, Packet, Work, World, drive};

use crate::driver::lease::Event;
use crate::memory::store::Message;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Tick,
    Ask(usize),
    /// The driver does what is due.
    Drive(usize),
    Read(usize),
    /// Without another look whether it still holds: it was paused after the last one.
    Write(usize),
    Release(usize),
    Deliver(Packet),
    /// It arrives, and will arrive again.
    Duplicate(Packet),
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self.duplicates)]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.ticks < self.ticks {
            steps.push(Step::Tick);
        }
        for (number, client) in world.clients.iter().enumerate() {
            match client {
                // They are alike: the first one asks first.
                Client::Idle
                    if number == 0 || !matches!(world.clients[number - 1], Client::Idle) =>
                {
                    steps.push(Step::Ask(number));
                }
                Client::Holding { machine, work, .. } => {
                    if machine.wake_at(world.now()).is_some_and(|due| due <= world.now()) {
                        steps.push(Step::Drive(number));
                    }
                    match work {
                        Work::ToDo if world.believes(number) => steps.push(Step::Read(number)),
                        Work::Seen(_) => steps.push(Step::Write(number)),
                        Work::ToDo | Work::Reading | Work::Done => {}
                    }
                    // Who has nothing left to do releases; who is late is late.
                    if *work == Work::Done {
                        steps.push(Step::Release(number));
                    }
                }
                Client::Idle | Client::Asked { .. } | Client::Done => {}
            }
        }
        for packet in &world.network {
            steps.push(Step::Deliver(*packet));
            // A client takes no answer twice.
            let answer = matches!(
                packet,
                Packet::Drawn(..)
                    | Packet::Granted(..)
                    | Packet::Renewed(..)
                    | Packet::Ended(_)
                    | Packet::Value(..)
            );
            if world.duplicates > 0 && !answer {
                steps.push(Step::Duplicate(*packet));
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Tick => {
                next.ticks += 1;
                // The store's own timer: the next in the queue is granted.
                next.ask(Message::Tick);
            }
            Step::Ask(client) => {
                next.clients[client] = Client::Asked { sent: world.now(), drawn: None };
                next.network.insert(match self.token_by_grant {
                    true => Packet::Acquire(client),
                    false => Packet::Draw(client),
                });
            }
            Step::Drive(client) => drive(&mut next, client, Event::Tick),
            Step::Release(client) => drive(&mut next, client, Event::Release),
            Step::Read(number) => {
                let Client::Holding { grant, token, work, .. } = &mut next.clients[number] else {
                    return None;
                };
                *work = Work::Reading;
                next.network.insert(Packet::Read(number, *token, *grant));
            }
            Step::Write(number) => {
                let Client::Holding { grant, token, work, .. } = &mut next.clients[number] else {
                    return None;
                };
                let Work::Seen(seen) = *work else { return None };
                *work = Work::Done;
                next.network.insert(Packet::Write(number, *token, *grant, seen));
            }
            Step::Deliver(packet) => {
                next.network.remove(&packet);
                self.arrives(&mut next, packet);
            }
            Step::Duplicate(packet) => {
                next.duplicates -= 1;
                self.arrives(&mut next, packet);
            }
        }
        next.forget(self);
        (next != *world).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("at most one believes", |_, world: &World| {
                (0..CLIENTS).filter(|client| world.believes(*client)).count() <= 1
            }),
            Property::always("no update is lost", |_, world: &World| !world.resource.lost_update),
            Property::always("nothing stale is accepted", |_, world: &World| {
                !world.resource.stale_accepted
            }),
            Property::always("nothing late has an effect", |protocol: &Self, world: &World| {
                protocol.late_is_without_effect(world)
            }),
            Property::sometimes("a later holder sees an update", |_, world: &World| {
                let sees = |client: &Client| matches!(client, Client::Holding { work: Work::Seen(version), .. } if *version > 0);
                world.clients.iter().any(sees)
            }),
            Property::sometimes("a paused holder is stale", |_, world: &World| {
                let stale = |client: &Client| {
                    matches!(client, Client::Holding { token, work: Work::Seen(_), .. }
                        if world.resource.newest > Some(*token))
                };
                world.clients.iter().any(stale)
            }),
            Property::sometimes("a renewal keeps the name", |_, world: &World| {
                (0..CLIENTS).any(|client| world.outlasts_its_grant(client))
            }),
        ]
    }
}

/// Enough for a lease to expire, and for the next holder to be granted.
const SHORT: Protocol = Protocol { ticks: 2, duplicates: 0, ..SAFE };

/// The counter-example to `property` that there must be without one of the safeguards.
fn broken(protocol: Protocol, property: &'static str) -> Vec<Step> {
    let only = HasDiscoveries::AllOf(BTreeSet::from([property]));
    let checker = protocol.checker().finish_when(only).spawn_bfs().join();
    let path = checker.discovery(property).unwrap_or_else(|| panic!("{property:?} holds without"));
    path.into_actions()
}

/// Looks at every order of events there is.
fn holds(protocol: Protocol) {
    let cores = std::thread::available_parallelism().map_or(1, Into::into);
    let checker = protocol.checker().threads(cores).spawn_dfs().join();
    let (all, unique) = (checker.state_count(), checker.unique_state_count());
    println!("{all} steps to {unique} states of {protocol:?}");
    checker.assert_properties();
    assert!(unique > 10_000, "{unique} states are too few to show anything");
}

#[test]
fn every_order_of_events_keeps_what_is_promised() {
    holds(Protocol { duplicates: 0, ..SAFE });
}

#[test]
fn every_order_with_a_duplicate_keeps_what_is_promised() {
    holds(Protocol { ticks: 2, ..SAFE });
}

#[test]
#[ignore = "too slow without optimization; `cargo xtask soak` runs it with"]
fn every_order_with_a_duplicate_for_longer_keeps_what_is_promised() {
    holds(SAFE);
}

#[test]
fn without_the_grant_check_two_believe() {
    let protocol = Protocol { grant_check: false, ..SHORT };
    let steps = broken(protocol, "at most one believes");
    let released = |step: &Step| matches!(step, Step::Deliver(Packet::Release(..)));
    assert!(steps.iter().any(released), "{steps:?}");
}

#[test]
fn with_terms_from_their_receipt_two_believe() {
    let protocol = Protocol { term_from_sending: false, ..SHORT };
    let steps = broken(protocol, "at most one believes");
    assert!(steps.contains(&Step::Tick), "{steps:?}");
}

#[test]
fn without_the_fence_an_update_is_lost() {
    let protocol = Protocol { fence: false, ..SHORT };
    let steps = broken(protocol, "no update is lost");
    assert!(steps.iter().any(|step| matches!(step, Step::Write(_))), "{steps:?}");
}

#[test]
fn with_tokens_drawn_before_the_grant_a_stale_access_is_accepted() {
    let protocol = Protocol { token_by_grant: false, ..SHORT };
    let steps = broken(protocol, "nothing stale is accepted");
    assert!(steps.iter().any(|step| matches!(step, Step::Deliver(Packet::Drawn(..)))), "{steps:?}");
}
