//! The protocol of a quorum, model-checked: the real decisions of a round over the real memory stores, in every order in
//! which two clients, three members and time can move.
//!
//! A member's message may take as long as it likes, which stands for a slow one, a lost one and a paused client. A
//! jump of a member's clock ends what it holds. A safeguard that is switched off must lead to a counter-example.

use std::sync::Arc;
use std::time::Duration;

use stateright::{Checker, HasDiscoveries, Model, Property};

use super::seats::{self, Held, Seat, ends};
use crate::memory::store::{Asker, Message, Reply, Store};
use crate::{
    FencingToken, Instant, Kind, Lease, LockName, LossReason, RequestId, Result, Term, async_trait,
};

/// One tick.
const TTL: Duration = Duration::from_secs(1);

/// The protocol for so long, with some of its safeguards.
#[derive(Clone, Debug)]
struct Protocol {
    /// The last token of each member before it all begins.
    counters: &'static [u64],
    /// How many attempts each client makes.
    attempts: [u8; 2],
    ticks: u64,
    jumps: u8,
    /// A majority has to agree on the token, by writing it back if need be.
    agreement: bool,
    /// It is written back only where the grant is still the client's.
    still_ours: bool,
    /// Whether there is time left is judged after the write-back.
    time_after: bool,
    /// The term is that of the q-th greatest deadline, and not of one more.
    qth: bool,
}

const SAFE: Protocol = Protocol {
    counters: &[0, 0, 2],
    attempts: [1, 1],
    ticks: 1,
    jumps: 1,
    agreement: true,
    still_ours: true,
    time_after: true,
    qth: true,
};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: u64,
    members: Vec<Store>,
    clients: [Client; 2],
    jumps: u8,
    /// The tokens that were granted.
    granted: Vec<u64>,
    wrong: Option<&'static str>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Client {
    begun: u8,
    attempt: Option<Attempt>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Attempt {
    id: RequestId,
    sent: u64,
    places: Vec<Place>,
    chosen: Option<FencingToken>,
    is_granted: bool,
    /// The greatest token that was granted before it began.
    after: u64,
    /// On how many members that it held a jump has ended that.
    jumped: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Place {
    Asked,
    Refused,
    Held { token: FencingToken, agreed: Option<FencingToken> },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Tick,
    Begin(usize),
    /// The member does what it was asked, and the answer arrives.
    Ask(usize, usize),
    /// The greatest of the answers so far.
    Choose(usize),
    Raise(usize, usize),
    Grant(usize),
    /// Released, or withdrawn.
    End(usize),
    Jump(usize),
}

#[derive(Debug)]
struct Unused;

#[async_trait]
impl Lease for Unused {
    async fn renew(&self) -> Result<Term> {
        std::future::pending().await
    }

    async fn lost(&self) -> LossReason {
        std::future::pending().await
    }

    async fn release(&self) -> Result<()> {
        Ok(())
    }

    fn native(&self) -> Option<Arc<dyn std::any::Any + Send + Sync>> {
        None
    }
}

fn at(tick: u64) -> Instant {
    Instant::from_origin(Duration::from_secs(tick))
}

fn name() -> LockName {
    LockName::new("a").expect("a name")
}

impl Attempt {
    /// What the client knows, as the real round has it.
    fn seats(&self) -> Vec<Seat> {
        let term = Term { sent: at(self.sent), ttl: Some(TTL) };
        let lease: Arc<dyn Lease> = Arc::new(Unused);
        let seat = |place: &Place| match *place {
            Place::Asked => Seat::Asked,
            Place::Refused => Seat::Refused,
            Place::Held { token, agreed } => {
                Seat::Held(Held { lease: Arc::clone(&lease), token: Some(token), agreed, term })
            }
        };
        self.places.iter().map(seat).collect()
    }

    fn asker(&self) -> Asker {
        let (label, kind) = (Arc::from(""), Kind::Exclusive);
        Asker { id: self.id, label, ttl: Some(TTL), kind, permits: None, floor: None }
    }
}

impl World {
    fn step(&mut self, member: usize, message: Message) -> Reply {
        self.members[member].step(at(self.now), &name(), message).0
    }

    fn believes(&self, client: usize) -> bool {
        let Some(attempt) = &self.clients[client].attempt else { return false };
        let end = seats::term(&attempt.seats()).and_then(ends);
        attempt.is_granted && end.is_some_and(|end| at(self.now) < end)
    }

    /// Two believe, and neither has lost more members to jumps than it held beyond a majority.
    fn judge(&mut self) {
        let is_excused = |client: &Client| {
            client.attempt.as_ref().is_some_and(|attempt| {
                let held = seats::held(&attempt.seats()).count();
                attempt.jumped > held.saturating_sub(seats::majority(attempt.places.len()))
            })
        };
        if self.believes(0) && self.believes(1) && !self.clients.iter().any(is_excused) {
            self.wrong = Some("two believe");
        }
    }
}

impl Protocol {
    /// Whether the round is granted now.
    fn is_granted(&self, attempt: &Attempt, token: FencingToken, now: u64) -> bool {
        let (seats, now) = (attempt.seats(), at(now));
        let majority = seats::majority(seats.len());
        let has_time = !self.time_after || seats::live(&seats, now) >= majority;
        let agree = |held: &&Held| held.agreed == Some(token) || held.token == Some(token);
        match (self.agreement, self.time_after) {
            (false, _) => has_time,
            (true, true) => seats::is_granted(&seats, token, now),
            (true, false) => has_time && seats::held(&seats).filter(agree).count() >= majority,
        }
    }

    fn raise(&self, world: &mut World, number: usize, member: usize) -> Option<()> {
        let attempt = world.clients[number].attempt.as_ref()?;
        let (chosen, place) = (attempt.chosen?, &attempt.places[member]);
        let Place::Held { token, .. } = *place else { return None };
        let raised = world.step(member, Message::Raise(token, chosen));
        let place = match raised {
            // Its token is greater: it holds, and does not agree.
            Reply::Raised(false) => return None,
            Reply::Raised(true) => Place::Held { token, agreed: Some(chosen) },
            _ if !self.still_ours => Place::Held { token, agreed: Some(chosen) },
            _ => Place::Refused,
        };
        world.clients[number].attempt.as_mut()?.places[member] = place;
        Some(())
    }

    fn grant(&self, world: &mut World, client: usize) -> Option<()> {
        let now = world.now;
        let attempt = world.clients[client].attempt.as_mut()?;
        let token = attempt.chosen?;
        if attempt.is_granted || !self.is_granted(attempt, token, now) {
            return None;
        }
        attempt.is_granted = true;
        let (token, after) = (token.as_u64(), attempt.after);
        if world.granted.contains(&token) {
            world.wrong = Some("a token twice");
        } else if token < after {
            world.wrong = Some("a token smaller than one before its attempt");
        } else if world.jumps == self.jumps && world.granted.iter().any(|other| *other > token) {
            world.wrong = Some("a smaller token without a jump");
        }
        world.granted.push(token);
        if !self.qth {
            // Believed for as long as one member fewer holds: one more member counts as held.
            let attempt = world.clients[client].attempt.as_mut()?;
            attempt.sent += 1;
        }
        Some(())
    }
}

/// The member's clock jumps past the end of what it holds.
fn jump(world: &mut World, member: usize) -> Option<()> {
    world.jumps -= 1;
    let seen = world.members[member].inspect(at(world.now), &name());
    let token = seen.holders.first().and_then(|holder| holder.token)?;
    world.step(member, Message::Expire);
    for client in &mut world.clients {
        let Some(attempt) = &mut client.attempt else { continue };
        let is_its = matches!(&attempt.places[member], Place::Held { token: own, agreed }
            if *own == token || *agreed == Some(token));
        attempt.jumped += usize::from(is_its);
    }
    Some(())
}

impl Model for Protocol {
    type State = World;
    type Action = Step;

    fn init_states(&self) -> Vec<World> {
        let member = |counter: &u64| {
            let mut store = Store::new(0);
            if let Ok(floor) = FencingToken::new(*counter) {
                let (id, label) = (RequestId::from_bytes([9; 16]), Arc::from(""));
                let (kind, floor) = (Kind::Exclusive, Some(floor));
                let asker = Asker { id, label, ttl: Some(TTL), kind, permits: None, floor };
                store.step(at(0), &name(), Message::TryAcquire(asker));
                store.step(at(0), &name(), Message::Withdraw(id));
            }
            store
        };
        vec![World {
            now: 0,
            members: self.counters.iter().map(member).collect(),
            clients: Default::default(),
            jumps: self.jumps,
            granted: Vec::new(),
            wrong: None,
        }]
    }

    fn actions(&self, world: &World, steps: &mut Vec<Step>) {
        if world.wrong.is_some() {
            return;
        }
        if world.now < self.ticks {
            steps.push(Step::Tick);
        }
        if world.jumps > 0 {
            steps.extend((0..world.members.len()).map(Step::Jump));
        }
        for (number, client) in world.clients.iter().enumerate() {
            let Some(attempt) = &client.attempt else {
                // They are alike: the first one begins first.
                let follows = number == 0 || world.clients[0].begun > 0;
                if follows && client.begun < self.attempts[number] {
                    steps.push(Step::Begin(number));
                }
                continue;
            };
            // One that is not granted need not be withdrawn: it expires.
            if attempt.is_granted {
                steps.push(Step::End(number));
            }
            let places = attempt.places.iter().enumerate();
            steps.extend(places.filter_map(|(member, place)| match place {
                Place::Asked => Some(Step::Ask(number, member)),
                Place::Held { token, agreed: None }
                    if !attempt.is_granted
                        && attempt.chosen.is_some_and(|chosen| chosen != *token) =>
                {
                    Some(Step::Raise(number, member))
                }
                _ => None,
            }));
            let seats = attempt.seats();
            let live = seats::live(&seats, at(world.now));
            if attempt.chosen.is_none() && live >= seats::majority(seats.len()) {
                steps.push(Step::Choose(number));
            }
            if attempt.chosen.is_some() && !attempt.is_granted {
                steps.push(Step::Grant(number));
            }
        }
    }

    fn next_state(&self, world: &World, step: Step) -> Option<World> {
        let mut next = world.clone();
        match step {
            Step::Tick => next.now += 1,
            Step::Begin(number) => {
                let client = &mut next.clients[number];
                client.begun += 1;
                let id = [u8::try_from(number).ok()?, client.begun];
                let id = RequestId::from_bytes(std::array::from_fn(|at| id[at % 2]));
                client.attempt = Some(Attempt {
                    id,
                    sent: world.now,
                    places: vec![Place::Asked; self.counters.len()],
                    chosen: None,
                    is_granted: false,
                    after: world.granted.iter().copied().max().unwrap_or(0),
                    jumped: 0,
                });
            }
            Step::Ask(number, member) => {
                let asker = world.clients[number].attempt.as_ref()?.asker();
                let place = match next.step(member, Message::TryAcquire(asker)) {
                    Reply::Granted(granted) => Place::Held { token: granted.token, agreed: None },
                    _ => Place::Refused,
                };
                next.clients[number].attempt.as_mut()?.places[member] = place;
            }
            Step::Choose(number) => {
                let attempt = next.clients[number].attempt.as_mut()?;
                attempt.chosen = seats::greatest(&attempt.seats());
            }
            Step::Raise(number, member) => self.raise(&mut next, number, member)?,
            Step::Grant(number) => self.grant(&mut next, number)?,
            Step::End(number) => {
                let id = next.clients[number].attempt.take()?.id;
                (0..next.members.len()).for_each(|member| {
                    next.step(member, Message::Withdraw(id));
                });
            }
            Step::Jump(member) => jump(&mut next, member)?,
        }
        next.judge();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("nothing is wrong", |_, world: &World| world.wrong.is_none()),
            Property::sometimes("each client is granted", |_, world: &World| {
                world.granted.len() > 1
            }),
        ]
    }
}

/// The first counter-example, as what went wrong and the steps to it; and how many states there were.
fn convict(protocol: Protocol) -> (Option<(&'static str, Vec<Step>)>, usize) {
    let checker =
        protocol.checker().threads(2).finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
    let found = checker.discovery("nothing is wrong").map(|path| {
        let wrong = path.last_state().wrong.expect("that is what it found");
        (wrong, path.into_actions())
    });
    if found.is_none() {
        checker.assert_any_discovery("each client is granted");
    }
    (found, checker.unique_state_count())
}

#[test]
fn the_protocol_upholds_tokens_and_belief_in_every_order() {
    for (counters, jumps) in [(&[0, 0, 2], 1), (&[0, 0, 0], 1), (&[4, 0, 4], 1)] {
        let (found, states) = convict(Protocol { counters, jumps, ..SAFE });
        println!("counters {counters:?}, {jumps} jump: {states} states");
        assert_eq!(found, None);
    }
}

#[test]
fn without_a_write_back_a_later_token_is_smaller() {
    let (found, _) = convict(Protocol { agreement: false, jumps: 0, ..SAFE });
    let (wrong, _) = found.expect("a counter-example");
    assert!(wrong.contains("smaller") || wrong.contains("twice"), "{wrong}");
}

#[test]
fn a_write_back_that_counts_where_the_grant_is_no_longer_ours_is_convicted() {
    let (found, _) = convict(Protocol { still_ours: false, ..SAFE });
    assert!(found.is_some());
}

#[test]
fn time_that_is_judged_before_the_write_back_lets_two_believe_or_tokens_fall() {
    let (found, _) = convict(Protocol { time_after: false, jumps: 0, ..SAFE });
    assert!(found.is_some());
}

#[test]
fn a_term_that_ends_later_than_the_qth_greatest_deadline_lets_two_believe() {
    let (found, _) = convict(Protocol { qth: false, jumps: 0, ..SAFE });
    assert_eq!(found.expect("a counter-example").0, "two believe");
}
