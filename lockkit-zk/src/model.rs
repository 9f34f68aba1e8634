//! The queue, model-checked: every order in which three requests, what they send, what they are told, and an
//! operator who removes one node can move. Who is before whom is decided by the real [`Ahead`].
//!
//! A safeguard that is switched off must lead to a counter-example, or the model shows nothing.

use std::collections::HashSet;

use lockkit_core::Kind;

use crate::protocol::Ahead;

mod belief;

/// What the protocol does without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Without {
    Nothing,
    /// The end of the only node before is taken for the turn, without a look at the own node.
    OwnLook,
    /// Any end of the node before is.
    QueueLook,
    /// A watch is left on a node that was gone as it was set.
    MissingNode,
    /// Who leaves does not wait for the name that its creation was given.
    Answer,
}

/// What a look showed: the sequences in the queue.
type Queue = Vec<i32>;

/// One request. What it waits for is served, and then answered, each at any time.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Client {
    Idle,
    /// Its creation and a look are under way.
    Asks {
        leaves: bool,
    },
    Entered {
        own: i32,
        queue: Queue,
        leaves: bool,
    },
    /// A watch on the node before is under way.
    Watches {
        own: i32,
        next: i32,
        is_only: bool,
    },
    Waits {
        own: i32,
        next: i32,
        is_only: bool,
        is_told: bool,
    },
    Looks {
        own: i32,
    },
    Sees {
        own: i32,
        queue: Queue,
    },
    LooksAtItself {
        own: i32,
    },
    SeesItself {
        own: i32,
        is_there: bool,
    },
    Holds {
        own: i32,
    },
    Leaves {
        own: i32,
    },
    /// It has left, and its creation is under way all the same.
    Ghost,
    Done,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    /// A bit for each sequence, modulo four, whose request is shared.
    shared: u8,
    nodes: Vec<(usize, i32)>,
    created: i32,
    clients: [Client; 3],
    /// Whose node the operator removed once it was granted, or its answer was under way: that is declared.
    is_removed: [bool; 3],
    removals: u8,
}

impl World {
    const fn kind(&self, sequence: i32) -> Kind {
        if self.shared >> (sequence % 4) & 1 == 1 { Kind::Shared } else { Kind::Exclusive }
    }

    fn name(&self, sequence: i32) -> String {
        let kind = if self.kind(sequence) == Kind::Shared { "-shared" } else { "" };
        format!("_c_{sequence}{kind}-lock-{sequence:010}")
    }

    fn queue(&self) -> Queue {
        self.nodes.iter().map(|(_, sequence)| *sequence).collect()
    }

    fn has(&self, sequence: i32) -> bool {
        self.nodes.iter().any(|(_, there)| *there == sequence)
    }

    fn remove(&mut self, sequence: i32) {
        self.nodes.retain(|(_, there)| *there != sequence);
        for client in &mut self.clients {
            if let Client::Waits { next, is_told, .. } = client {
                *is_told |= *next == sequence;
            }
        }
    }

    /// What a look at the queue leads to.
    fn decided(&self, own: i32, queue: &Queue) -> Client {
        let queue = queue.iter().map(|sequence| self.name(*sequence)).collect();
        match Ahead::of(queue, &self.name(own)) {
            None => Client::Idle,
            Some(Ahead { count: 0, .. }) => Client::Holds { own },
            Some(Ahead { count, next, .. }) => {
                let next = crate::protocol::sequence_of(&next).unwrap_or_default();
                Client::Watches { own, next, is_only: count == 1 }
            }
        }
    }

    /// A server does what this client asked for; `None`: it asked for nothing.
    fn served(&self, number: usize, without: Without) -> Option<Self> {
        let mut next = self.clone();
        let client = match self.clients[number].clone() {
            asks @ (Client::Asks { .. } | Client::Ghost) => {
                let own = next.created;
                next.created += 1;
                next.nodes.push((number, own));
                match asks {
                    Client::Asks { leaves } => Client::Entered { own, queue: next.queue(), leaves },
                    _ => Client::Done,
                }
            }
            Client::Watches { own, next, is_only } => match self.has(next) {
                false if without != Without::MissingNode => Client::Looks { own },
                _ => Client::Waits { own, next, is_only, is_told: false },
            },
            Client::Looks { own } => Client::Sees { own, queue: self.queue() },
            Client::LooksAtItself { own } => Client::SeesItself { own, is_there: self.has(own) },
            Client::Leaves { own } => {
                next.remove(own);
                Client::Done
            }
            _ => return None,
        };
        next.clients[number] = client;
        Some(next)
    }

    /// This client hears what was under way to it.
    fn told(&self, number: usize, without: Without) -> Option<Self> {
        let client = match self.clients[number].clone() {
            Client::Entered { own, leaves: true, .. } => Client::Leaves { own },
            Client::Entered { own, queue, .. } | Client::Sees { own, queue } => {
                self.decided(own, &queue)
            }
            Client::SeesItself { own, is_there: true } => Client::Holds { own },
            Client::SeesItself { is_there: false, .. } => Client::Idle,
            Client::Waits { own, is_only, is_told: true, .. } => match (without, is_only) {
                (Without::QueueLook, _) | (Without::OwnLook, true) => Client::Holds { own },
                (_, true) => Client::LooksAtItself { own },
                (_, false) => Client::Looks { own },
            },
            _ => return None,
        };
        Some(self.with(number, client))
    }

    /// This client does what it wants to: asks, leaves, or releases.
    fn moves(&self, number: usize, without: Without) -> Option<Self> {
        let client = match self.clients[number].clone() {
            Client::Idle => Client::Asks { leaves: false },
            Client::Asks { leaves: false } if without == Without::Answer => Client::Ghost,
            Client::Asks { leaves: false } => Client::Asks { leaves: true },
            Client::Entered { own, queue, leaves: false } => {
                Client::Entered { own, queue, leaves: true }
            }
            Client::Watches { own, .. }
            | Client::Waits { own, .. }
            | Client::Looks { own }
            | Client::Sees { own, .. }
            | Client::LooksAtItself { own }
            | Client::SeesItself { own, .. }
            | Client::Holds { own } => Client::Leaves { own },
            _ => return None,
        };
        Some(self.with(number, client))
    }

    fn with(&self, number: usize, client: Client) -> Self {
        let mut next = self.clone();
        next.is_removed[number] &= client != Client::Idle;
        next.clients[number] = client;
        next
    }

    /// The operator removes a node.
    fn removed(&self, (owner, sequence): (usize, i32)) -> Option<Self> {
        let mut next = self.clone();
        next.removals = self.removals.checked_sub(1)?;
        next.remove(sequence);
        next.is_removed[owner] = matches!(
            self.clients[owner],
            Client::Holds { .. }
                | Client::Entered { .. }
                | Client::Sees { .. }
                | Client::SeesItself { is_there: true, .. }
        );
        Some(next)
    }

    fn next(&self, without: Without) -> Vec<Self> {
        let steps = (0..self.clients.len()).flat_map(|number| {
            [self.served(number, without), self.told(number, without), self.moves(number, without)]
        });
        let removals = self.nodes.iter().map(|node| self.removed(*node));
        steps.chain(removals).flatten().collect()
    }

    /// What must never be.
    fn violation(&self) -> Option<&'static str> {
        let holders = self.clients.iter().zip(self.is_removed);
        let kinds = holders.filter_map(|(client, is_removed)| match client {
            Client::Holds { own } if !is_removed => Some(self.kind(*own)),
            _ => None,
        });
        let kinds: Vec<_> = kinds.collect();
        let are_together = (0..kinds.len()).all(|n| kinds[n].admits(kinds[..n].iter().copied()));
        let is_stuck = self.clients.iter().any(|client| {
            matches!(client, Client::Waits { next, is_told: false, .. } if !self.has(*next))
        });
        let is_left = self.nodes.iter().any(|(owner, _)| self.clients[*owner] == Client::Done);
        if !are_together {
            Some("two hold")
        } else if is_stuck {
            Some("a wake-up is lost")
        } else {
            is_left.then_some("a node is left")
        }
    }
}

/// Looks at every order of events there is, up to the first that must not be.
fn checked(shared: u8, without: Without) -> Result<usize, &'static str> {
    let (clients, nodes) = ([const { Client::Idle }; 3], Vec::new());
    let first = World { shared, nodes, created: 1, clients, is_removed: [false; 3], removals: 1 };
    let (mut seen, mut left) = (HashSet::from([first.clone()]), vec![first]);
    while let Some(world) = left.pop() {
        if let Some(violation) = world.violation() {
            return Err(violation);
        }
        left.extend(world.next(without).into_iter().filter(|next| seen.insert(next.clone())));
    }
    Ok(seen.len())
}

#[test]
fn every_order_of_events_grants_one_at_a_time_but_for_those_that_share_and_leaves_nothing() {
    for shared in 0..16 {
        let worlds = checked(shared, Without::Nothing).expect("no violation");
        println!("{worlds} worlds, shared: {shared:04b}");
        assert!(worlds > 5_000, "{worlds} worlds are too few to show anything");
    }
}

#[test]
fn each_safeguard_that_is_left_out_is_convicted() {
    assert_eq!(checked(0, Without::OwnLook), Err("two hold"));
    assert_eq!(checked(0, Without::QueueLook), Err("two hold"));
    assert_eq!(checked(0, Without::MissingNode), Err("a wake-up is lost"));
    assert_eq!(checked(0, Without::Answer), Err("a node is left"));
}
