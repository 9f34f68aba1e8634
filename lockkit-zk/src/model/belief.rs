//! The belief in a session, model-checked: every order in which a client makes requests, sends them, and reads their
//! answers, and in which its follower serves them, tells its leader of them, and reopens the session. The follower
//! may be cut off from its leader after each step. What is believed is told by the real [`Proof`].
//!
//! Any request may be held up between its making and its sending, and any answer before it is read.

use std::collections::HashSet;
use std::time::Duration;

use lockkit_core::Instant;

use crate::proof::Proof;

/// A quarter of a tick.
const UNIT: Duration = Duration::from_millis(100);
const TICK: u8 = 4;
const TIMEOUT: u8 = 3 * TICK;
/// No longer than this is looked at, and no more requests.
const LAST: u8 = 7;
const REQUESTS: usize = 2;

/// How the client judges what it has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Real,
    /// A request was sent, and served, when it was made.
    SentAsMade,
    /// A session was reopened when that was told.
    ReopenedAsTold,
}

/// What the client has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Seen {
    Made(usize),
    Answered(usize),
    /// The link was up at one instant, and is up again at another.
    Reopened {
        up: u8,
        told: u8,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Request {
    made: u8,
    is_write: bool,
    is_served: bool,
    answered: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Link {
    Up,
    Down {
        since: u8,
    },
    /// Its answer is not read yet.
    Reopened {
        since: u8,
    },
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct World {
    now: u8,
    /// When the leader pinged last.
    pinged: u8,
    /// When the follower was touched, and what of that the leader has heard.
    touched: u8,
    heard: u8,
    link: Link,
    requests: Vec<Request>,
    seen: Vec<Seen>,
}

fn at(units: u8) -> Instant {
    Instant::from_origin(UNIT * u32::from(units))
}

/// When the term ends that is given now.
fn given(proof: &mut Proof) -> Instant {
    let (since, ttl) = proof.give();
    since.saturating_add(ttl)
}

impl World {
    /// When the client gives its session up.
    fn believed(&self, rule: Rule) -> Instant {
        let mut proof = Proof::new(at(0), UNIT * u32::from(TIMEOUT), UNIT * u32::from(TICK));
        let mut ends = given(&mut proof);
        let mut made = vec![None; self.requests.len()];
        for seen in self.seen_by(rule) {
            match seen {
                Seen::Made(number) => {
                    made[number] = Some(proof.make(at(self.requests[number].made)));
                }
                Seen::Answered(number) => {
                    let request = self.requests[number];
                    let (Some(made), Some(answered)) = (made[number], request.answered) else {
                        continue;
                    };
                    let answered = if rule == Rule::SentAsMade { request.made } else { answered };
                    if request.is_write {
                        proof.acked(made, at(answered));
                    } else {
                        proof.touched(made, at(answered));
                    }
                }
                Seen::Reopened { up, told } => {
                    let up = if rule == Rule::ReopenedAsTold { told } else { up };
                    proof.reopen(at(up), at(told), UNIT * u32::from(TIMEOUT));
                    proof.settle(UNIT * u32::from(TIMEOUT));
                }
            }
            ends = ends.max(given(&mut proof));
        }
        ends
    }

    /// What it has seen, in the order that it takes it for.
    fn seen_by(&self, rule: Rule) -> Vec<Seen> {
        if rule != Rule::SentAsMade {
            return self.seen.clone();
        }
        let answered = |number: &usize| self.requests[*number].answered.is_some();
        let answered = (0..self.requests.len()).filter(answered);
        answered.flat_map(|number| [Seen::Made(number), Seen::Answered(number)]).collect()
    }

    fn next(&self) -> Vec<Self> {
        let made = [true, false].map(|is_write| self.makes(is_write));
        let steps = [self.passes(), self.pings(), self.serves(), self.answers()];
        let link = [self.loses(), self.reopens(), self.tells()];
        made.into_iter().chain(steps).chain(link).flatten().collect()
    }

    /// Time goes on, no further than to when the leader pings.
    fn passes(&self) -> Option<Self> {
        let may = self.now < LAST && self.now < self.pinged + TICK / 2;
        may.then(|| Self { now: self.now + 1, ..self.clone() })
    }

    fn pings(&self) -> Option<Self> {
        let may = self.now == self.pinged + TICK / 2;
        may.then(|| Self { pinged: self.now, heard: self.heard.max(self.touched), ..self.clone() })
    }

    /// The client makes a request. A read as the last one would prove nothing.
    fn makes(&self, is_write: bool) -> Option<Self> {
        let left = REQUESTS - self.requests.len();
        if left == 0 || (left == 1 && !is_write) || self.link != Link::Up {
            return None;
        }
        let mut next = self.clone();
        next.seen.push(Seen::Made(self.requests.len()));
        let (made, is_served, answered) = (self.now, false, None);
        next.requests.push(Request { made, is_write, is_served, answered });
        Some(next)
    }

    /// The follower serves the next request: the leader is asked for a write.
    fn serves(&self) -> Option<Self> {
        let number = self.requests.iter().position(|request| !request.is_served)?;
        let mut next = self.clone();
        next.requests[number].is_served = true;
        next.touched = self.now;
        (self.link == Link::Up).then_some(next)
    }

    /// The client reads the next answer.
    fn answers(&self) -> Option<Self> {
        let is_next = |request: &Request| request.is_served && request.answered.is_none();
        let number = self.requests.iter().position(is_next)?;
        let mut next = self.clone();
        next.requests[number].answered = Some(self.now);
        next.seen.push(Seen::Answered(number));
        Some(next)
    }

    /// The connection is lost, once. What was under way, which proves nothing, is left out.
    fn loses(&self) -> Option<Self> {
        let was_lost = self.seen.iter().any(|seen| matches!(seen, Seen::Reopened { .. }));
        let is_under_way = self.requests.iter().any(|request| request.answered.is_none());
        let may = self.link == Link::Up && !was_lost && !is_under_way;
        may.then(|| Self { link: Link::Down { since: self.now }, ..self.clone() })
    }

    /// A server reopens the session, of which it asks the leader.
    fn reopens(&self) -> Option<Self> {
        let Link::Down { since } = self.link else { return None };
        let (touched, heard, link) = (self.now, self.now, Link::Reopened { since });
        Some(Self { touched, heard, link, ..self.clone() })
    }

    fn tells(&self) -> Option<Self> {
        let Link::Reopened { since } = self.link else { return None };
        let mut next = Self { link: Link::Up, ..self.clone() };
        next.seen.push(Seen::Reopened { up: since, told: self.now });
        Some(next)
    }
}

/// Looks at every order of events there is, up to the first after which a client believes in its session for longer
/// than a leader that hears no more.
fn checked(rule: Rule) -> Result<usize, World> {
    let [now, pinged, touched, heard] = [0; 4];
    let (requests, seen, link) = (Vec::new(), Vec::new(), Link::Up);
    let first = World { now, pinged, touched, heard, link, requests, seen };
    let (mut known, mut left) = (HashSet::from([first.clone()]), vec![first]);
    while let Some(world) = left.pop() {
        if world.believed(rule) > at(world.heard + TIMEOUT) {
            return Err(world);
        }
        left.extend(world.next().into_iter().filter(|next| known.insert(next.clone())));
    }
    Ok(known.len())
}

#[test]
fn no_order_of_events_has_a_client_believe_for_longer_than_its_leader_keeps_the_session() {
    let worlds = checked(Rule::Real).expect("no violation");
    println!("{worlds} worlds");
    assert!(worlds > 10_000, "{worlds} worlds are too few to show anything");
}

#[test]
fn instants_in_the_unsafe_direction_are_convicted() {
    for rule in [Rule::SentAsMade, Rule::ReopenedAsTold] {
        let world = checked(rule).expect_err("no counter-example");
        println!("{rule:?}: {world:?}");
    }
}
