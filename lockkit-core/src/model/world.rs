//! The worlds that the model looks at, and what each event does in one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::protocol::Protocol;
use crate::driver::lease::{Event, Machine, State};
use crate::driver::timing::{Renewal, Timing};
use crate::memory::store::{Asker, Granted, Message, Notice, Reply, Store};
use crate::{Fenced, FencingToken, Instant, Kind, LockName, LossReason, RequestId, Term};

pub(super) const CLIENTS: usize = 3;
const TICK: Duration = Duration::from_secs(1);
/// The store keeps a grant for two ticks, and its holder believes for a little less.
const TTL: Duration = Duration::from_secs(2);
const MARGIN: Duration = Duration::from_millis(1);

/// Everything there is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) ticks: u32,
    pub(super) store: Store,
    pub(super) clients: [Client; CLIENTS],
    pub(super) network: BTreeSet<Packet>,
    pub(super) duplicates: u8,
    /// The last token that was drawn without a grant.
    pub(super) drawn: u64,
    pub(super) resource: Resource,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Client {
    Idle,
    Asked {
        sent: Instant,
        drawn: Option<FencingToken>,
    },
    Holding {
        machine: Box<Machine>,
        /// When the request was sent that led to the grant.
        sent: Instant,
        grant: FencingToken,
        token: FencingToken,
        work: Work,
    },
    Done,
}

/// How far a holder is with the one update that it makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Work {
    ToDo,
    Reading,
    Seen(u8),
    Done,
}

/// What is under way, and for or from whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Packet {
    Draw(usize),
    Drawn(usize, FencingToken),
    Acquire(usize),
    /// The grant, and whether it was made long after it was asked for, and when.
    Granted(usize, FencingToken, Option<Instant>),
    Renew(usize, FencingToken, Instant),
    Renewed(usize, Instant),
    Ended(usize),
    Release(usize, FencingToken),
    /// To the resource: under which token, by which grant.
    Read(usize, FencingToken, FencingToken),
    Value(usize, u8),
    Write(usize, FencingToken, FencingToken, u8),
}

/// What the lock protects. A version is the client that wrote it, plus one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Resource {
    pub(super) newest: Option<FencingToken>,
    pub(super) version: u8,
    /// The newest grant whose access was accepted, whatever token it used.
    pub(super) grant: Option<FencingToken>,
    pub(super) lost_update: bool,
    pub(super) stale_accepted: bool,
}

fn name() -> LockName {
    LockName::new("n").unwrap_or_else(|_| unreachable!("a name"))
}

fn id(client: usize) -> RequestId {
    RequestId::from_bytes([u8::try_from(client).unwrap_or(u8::MAX); 16])
}

fn asker(client: usize) -> Asker {
    let kind = Kind::Exclusive;
    Asker { id: id(client), label: Arc::from(""), ttl: Some(TTL), kind, permits: None, floor: None }
}

fn client_of(id: RequestId) -> usize {
    usize::from(id.to_bytes()[0])
}

fn at(ticks: u32) -> Instant {
    Instant::from_origin(TICK * (10 + ticks))
}

impl World {
    pub(super) fn new(duplicates: u8) -> Self {
        let mut world = Self {
            ticks: 0,
            store: Store::new(0),
            clients: [const { Client::Idle }; CLIENTS],
            network: BTreeSet::new(),
            duplicates,
            drawn: 0,
            resource: Resource::default(),
        };
        // The store knows the name from the start, so that no message changes it by naming it.
        world.ask(Message::Tick);
        world
    }

    pub(super) fn now(&self) -> Instant {
        at(self.ticks)
    }

    pub(super) fn believes(&self, client: usize) -> bool {
        match &self.clients[client] {
            Client::Holding { machine, .. } => !matches!(machine.state(self.now()), State::Lost(_)),
            _ => false,
        }
    }

    /// Whether it believes for longer than its grant lasts unless it is renewed.
    pub(super) fn outlasts_its_grant(&self, client: usize) -> bool {
        let past = |sent: Instant| self.now() >= sent.saturating_add(TTL);
        matches!(&self.clients[client], Client::Holding { sent, .. } if past(*sent))
            && self.believes(client)
    }

    /// One step of the store; who else is told, is told by messages.
    pub(super) fn ask(&mut self, message: Message) -> Reply {
        let (reply, notices) = self.store.step(self.now(), &name(), message);
        for notice in notices {
            if let Notice::Granted(id, Granted { token, at, .. }) = notice {
                self.network.insert(Packet::Granted(client_of(id), token, Some(at)));
            }
        }
        reply
    }

    /// What can change nothing any more is as good as lost: fewer worlds to look at. That it can
    /// change nothing is not assumed: see [`Protocol::late_is_without_effect`].
    pub(super) fn forget(&mut self, protocol: &Protocol) {
        let holder = self.holder();
        let Self { clients, network, resource, .. } = self;
        network.retain(|packet| match packet {
            // Tokens do not come back.
            Packet::Release(_, token) => !protocol.grant_check || holder == Some(*token),
            Packet::Read(_, token, _) | Packet::Write(_, token, ..) => {
                !protocol.fence || resource.newest.is_none_or(|newest| *token >= newest)
            }
            // What its holder has given up may be kept longer by it.
            Packet::Renew(client, token, _) => {
                holder == Some(*token) || matches!(clients[*client], Client::Holding { .. })
            }
            Packet::Drawn(client, _) => {
                matches!(clients[*client], Client::Asked { drawn: None, .. })
            }
            Packet::Granted(client, ..) => matches!(clients[*client], Client::Asked { .. }),
            Packet::Renewed(client, _) | Packet::Ended(client) => {
                matches!(clients[*client], Client::Holding { .. })
            }
            Packet::Value(client, _) => {
                matches!(clients[*client], Client::Holding { work: Work::Reading, .. })
            }
            _ => true,
        });
    }

    fn holder(&self) -> Option<FencingToken> {
        self.store.inspect(self.now(), &name()).holders.first()?.token
    }
}

impl Protocol {
    pub(super) fn arrives(&self, world: &mut World, packet: Packet) {
        let now = world.now();
        match packet {
            Packet::Draw(client) => {
                world.drawn += 1;
                if let Ok(token) = FencingToken::new(world.drawn) {
                    world.network.insert(Packet::Drawn(client, token));
                }
            }
            Packet::Drawn(client, token) => {
                if let Client::Asked { sent, drawn } = &mut world.clients[client] {
                    (*sent, *drawn) = (now, Some(token));
                    world.network.insert(Packet::Acquire(client));
                }
            }
            Packet::Acquire(client) => {
                if let Reply::Granted(granted) = world.ask(Message::Acquire(asker(client))) {
                    world.network.insert(Packet::Granted(client, granted.token, None));
                }
            }
            Packet::Granted(client, grant, later) => self.granted(world, client, grant, later),
            Packet::Renew(client, token, sent) => {
                let token = self.touched(world, token);
                let reply = token.map(|token| world.ask(Message::Renew(token)));
                world.network.insert(match reply {
                    Some(Reply::Renewed) => Packet::Renewed(client, sent),
                    _ => Packet::Ended(client),
                });
            }
            Packet::Renewed(client, sent) => {
                let sent = if self.term_from_sending { sent } else { now };
                let term = Term { sent, ttl: Some(TTL) };
                drive(world, client, Event::Renewed(term));
            }
            Packet::Ended(client) => drive(world, client, Event::Ended(LossReason::Removed)),
            Packet::Release(_, token) => {
                if let Some(token) = self.touched(world, token) {
                    world.ask(Message::End(token, LossReason::Released));
                }
            }
            Packet::Read(client, token, grant) => {
                if self.accepts(world, token, grant) {
                    world.network.insert(Packet::Value(client, world.resource.version));
                }
            }
            Packet::Value(client, version) => {
                if let Client::Holding { work, .. } = &mut world.clients[client] {
                    if *work == Work::Reading {
                        *work = Work::Seen(version);
                    }
                }
            }
            Packet::Write(client, token, grant, seen) => {
                let wrote = u8::try_from(client + 1).unwrap_or(u8::MAX);
                // Twice the same write is one: a resource that takes versions tells them apart.
                if world.resource.version != wrote && self.accepts(world, token, grant) {
                    world.resource.lost_update |= world.resource.version != seen;
                    world.resource.version = wrote;
                }
            }
        }
    }

    /// Which grant a renewal or a release with `token` changes: without the check, the holder's.
    fn touched(&self, world: &World, token: FencingToken) -> Option<FencingToken> {
        if self.grant_check { Some(token) } else { world.holder() }
    }

    fn granted(
        &self,
        world: &mut World,
        client: usize,
        grant: FencingToken,
        later: Option<Instant>,
    ) {
        let now = world.now();
        let Client::Asked { sent, drawn } = &world.clients[client] else { return };
        let sent = if self.term_from_sending { later.unwrap_or(*sent) } else { now };
        let token = drawn.unwrap_or(grant);
        let timing =
            Timing { ttl: TTL, margin: Some(MARGIN), renewal: Renewal::Automatic, max_hold: None };
        let term = Term { sent, ttl: Some(TTL) };
        world.clients[client] = match Machine::granted(timing, term, now, 0) {
            Some(machine) => {
                let machine = Box::new(machine);
                Client::Holding { machine, sent, grant, token, work: Work::ToDo }
            }
            None => {
                world.network.insert(Packet::Release(client, grant));
                Client::Done
            }
        };
    }

    /// Whether all that [`World::forget`] drops, of whatever grant, would change nothing in this
    /// world either, which is any world that it could arrive in.
    pub(super) fn late_is_without_effect(&self, world: &World) -> bool {
        let (holder, newest) = (world.holder(), world.resource.newest);
        let mut after = World {
            store: world.store.clone(),
            clients: [const { Client::Idle }; CLIENTS],
            network: BTreeSet::new(),
            resource: world.resource.clone(),
            ..*world
        };
        // Each client is granted once, and once more for an attempt that arrives twice. They come
        // from no client in particular.
        let tokens = 1..=(CLIENTS as u64 + 1);
        for token in tokens.filter_map(|token| FencingToken::new(token).ok()) {
            if self.grant_check && holder != Some(token) {
                self.arrives(&mut after, Packet::Renew(CLIENTS, token, world.now()));
                self.arrives(&mut after, Packet::Release(CLIENTS, token));
            }
            if self.fence && newest > Some(token) {
                self.arrives(&mut after, Packet::Read(CLIENTS, token, token));
                self.arrives(&mut after, Packet::Write(CLIENTS, token, token, 0));
            }
        }
        after.store == world.store && after.resource == world.resource
    }

    /// Whether the resource takes an access under `token`; by the real fence.
    fn accepts(&self, world: &mut World, token: FencingToken, grant: FencingToken) -> bool {
        let resource = &mut world.resource;
        if self.fence {
            let fence = Fenced::new(());
            let raised = resource.newest.is_none_or(|newest| fence.raise(newest).is_ok());
            if !raised || fence.raise(token).is_err() {
                return false;
            }
            resource.newest = fence.newest();
        }
        resource.stale_accepted |= resource.grant.is_some_and(|newest| grant < newest);
        resource.grant = resource.grant.max(Some(grant));
        true
    }
}

/// The driver's own step, and the messages that it leads to.
pub(super) fn drive(world: &mut World, client: usize, event: Event) {
    let now = world.now();
    let Client::Holding { machine, grant, .. } = &mut world.clients[client] else { return };
    let (grant, actions) = (*grant, machine.on(now, event));
    if actions.renew {
        world.network.insert(Packet::Renew(client, grant, now));
    }
    if actions.release {
        world.network.insert(Packet::Release(client, grant));
        // What it had not sent by now, it sends no more.
        world.clients[client] = Client::Done;
    }
}
