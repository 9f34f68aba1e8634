//! Clients, a server, and what lies between them: a queue of what happens, in the order of time.

mod doings;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use testbed::RedisServer;
use testbed::resp::Reply;

use super::chance::Chance;
use super::clients::{Client, Flaw};
use super::oracle::{Counts, MS, Oracle};
use super::store::{Edit, LIFE, Store, text};

const CLIENTS: usize = 6;
const TASKS: usize = 6;
/// How long a client waits for an answer.
const PATIENCE: u64 = 100;

/// What differs from run to run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    pub(crate) names: usize,
    /// Milliseconds between two heartbeats.
    pub(crate) beat: u64,
    /// Of a hundred faults, so many are made.
    pub(crate) faults: u32,
    pub(crate) flaw: Flaw,
}

impl Default for Rules {
    fn default() -> Self {
        Self { names: 4, beat: 50, faults: 100, flaw: Flaw::None }
    }
}

#[derive(Clone, Debug)]
enum Call {
    Ask,
    Release,
    Withdraw,
    Renew,
    Beat { names: Vec<usize>, is_whole: bool },
}

/// A call as it was sent: it may be delivered later.
#[derive(Clone, Debug)]
struct Sent {
    client: usize,
    /// Of the client that sent it: one that has died gets no answer.
    address: String,
    request: u64,
    call: Call,
    locks: Vec<String>,
    args: Vec<String>,
    /// What the sender's clock showed.
    clock: u64,
}

#[derive(Debug)]
enum Event {
    Deliver { sent: Sent, answers: bool },
    Answer { sent: Sent, reply: Option<Reply> },
    Push { address: String, word: String },
    Beat { client: usize, address: String, poke: Option<usize> },
    Act { client: usize, address: String, request: u64 },
    Come { client: usize },
    Listen { client: usize, address: String },
    Foreign,
    Trouble,
}

#[derive(Debug)]
pub(crate) struct World {
    store: Store,
    oracle: Oracle,
    chance: Chance,
    rules: Rules,
    began: Instant,
    events: BTreeMap<(u64, u64), Event>,
    clients: Vec<Client>,
    ids: u64,
    is_over: bool,
}

fn name(n: usize) -> String {
    format!("lock {n}")
}

impl World {
    pub(crate) fn new(server: &RedisServer, seed: u64, rules: Rules, edits: &[Edit]) -> Self {
        let mut world = Self {
            store: Store::new(server, edits),
            oracle: Oracle::default(),
            chance: Chance::new(seed),
            rules,
            began: Instant::now(),
            events: BTreeMap::new(),
            clients: Vec::new(),
            ids: 0,
            is_over: false,
        };
        for client in 0..CLIENTS {
            let born = world.born();
            world.clients.push(born);
            world.begin(client);
        }
        world.at(30, Event::Foreign);
        world.at(100, Event::Trouble);
        world
    }

    pub(crate) fn counts(&self) -> Counts {
        self.oracle.counts
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap()
    }

    /// Has this happen in so many milliseconds.
    fn at(&mut self, ms: u64, event: Event) {
        self.ids += 1;
        let at = self.now() + ms * MS;
        self.events.insert((at, self.ids), event);
    }

    fn below(&mut self, end: u64) -> u64 {
        self.chance.below(usize::try_from(end).unwrap()) as u64
    }

    fn fault(&mut self, percent: u32) -> bool {
        !self.is_over && self.chance.percent(percent) && self.chance.percent(self.rules.faults)
    }

    fn born(&mut self) -> Client {
        self.ids += 1;
        let (offset, rate) = (self.below(1 << 40), self.below(201));
        Client::new(format!("{:016x}", self.ids), offset, rate)
    }

    fn begin(&mut self, client: usize) {
        let address = self.clients[client].address.clone();
        self.at(self.rules.beat, Event::Beat { client, address, poke: None });
        for _ in 0..TASKS {
            let after = self.below(20);
            self.at(after, Event::Come { client });
        }
    }

    /// Runs until there were so many grants, or a rule broke.
    pub(crate) fn run(&mut self, grants: u64) -> Result<(), String> {
        while self.oracle.counts.grants < grants {
            self.step()?;
        }
        Ok(())
    }

    /// Every request ends; what is left in the store then is nothing but tokens and tombstones.
    pub(crate) fn leave(&mut self) -> Result<(), String> {
        self.is_over = true;
        let limit = Instant::now() + Duration::from_secs(15);
        let is_busy = |client: &Client| !client.requests.is_empty();
        while self.clients.iter().any(is_busy) {
            self.step()?;
            if Instant::now() > limit {
                return Err("left over: requests that do not end".to_owned());
            }
        }
        // What is still on its way arrives.
        let until = self.now() + 700 * MS;
        while self.now() < until {
            self.step()?;
        }
        self.events.clear();
        std::thread::sleep(Duration::from_millis(LIFE + 20));
        for n in 0..self.rules.names {
            self.last_of_all(n);
        }
        let left = self.store.command(&["KEYS", "*"]);
        let is_kept =
            |key: &String| key.ends_with("}:t") || key.ends_with("}:d") || key.starts_with("deaf:");
        let left: Vec<_> = left.items().iter().map(text).filter(|key| !is_kept(key)).collect();
        if left.is_empty() { Ok(()) } else { Err(format!("left over: {left:?}")) }
    }

    /// Takes a name once no client lives, which drops the dead waiters, and gives it back.
    fn last_of_all(&mut self, n: usize) {
        self.ids += 1;
        let entry = format!("{:032x}.{:016x}.1000.", self.ids, self.ids);
        let args = [entry.clone(), "1000".to_owned(), String::new()];
        for _ in 0..100 {
            if let Reply::Bytes(_) = self.store.run("ask", &[name(n)], &args) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        self.store.run("withdraw", &[name(n)], &[entry, String::new()]);
    }

    fn step(&mut self) -> Result<(), String> {
        if let Some(why) = self.oracle.violation.take() {
            return Err(why);
        }
        let Some((&(at, id), _)) = self.events.first_key_value() else {
            std::thread::sleep(Duration::from_millis(1));
            return Ok(());
        };
        let now = self.now();
        if at > now {
            std::thread::sleep(Duration::from_nanos((at - now).min(MS)));
            return Ok(());
        }
        let event = self.events.remove(&(at, id)).unwrap();
        self.happens(event, now);
        Ok(())
    }

    fn happens(&mut self, event: Event, now: u64) {
        // A client that stands still does nothing until it goes on.
        let client = match &event {
            Event::Answer { sent, .. } => self.living(sent.client, &sent.address),
            Event::Beat { client, address, .. } | Event::Act { client, address, .. } => {
                self.living(*client, address)
            }
            Event::Push { address, .. } => {
                self.clients.iter().position(|client| client.address == *address)
            }
            Event::Come { client } | Event::Listen { client, .. } => Some(*client),
            Event::Deliver { sent, answers } => {
                let (sent, answers) = (sent.clone(), *answers);
                return self.deliver(sent, answers);
            }
            Event::Foreign => return self.foreign(),
            Event::Trouble => return self.trouble(now),
        };
        let Some(client) = client else { return };
        let until = self.clients[client].paused_until;
        if until > now {
            self.ids += 1;
            self.events.insert((until, self.ids), event);
            return;
        }
        match event {
            Event::Answer { sent, reply } => self.answered(client, &sent, reply),
            Event::Push { word, .. } => self.told(client, &word, true),
            Event::Beat { poke, .. } => self.beat(client, poke),
            Event::Act { request, .. } => self.act(client, request),
            Event::Come { .. } => self.come(client),
            Event::Listen { address, .. } => {
                self.deafen(&address, false);
                if self.clients[client].address == address {
                    self.ask_those(client, |_| true);
                }
            }
            Event::Deliver { .. } | Event::Foreign | Event::Trouble => {}
        }
    }

    fn living(&self, client: usize, address: &str) -> Option<usize> {
        (self.clients[client].address == address).then_some(client)
    }

    // What a client sends, and how it travels.

    fn send(&mut self, client: usize, request: u64, call: Call) {
        let now = self.now();
        let this = &mut self.clients[client];
        let (address, clock) = (this.address.clone(), this.clock(now));
        let (mut locks, mut args) = (Vec::new(), Vec::new());
        if let Call::Beat { names, .. } = &call {
            locks.extend(names.iter().map(|n| name(*n)));
            args.extend([
                address.clone(),
                clock.to_string(),
                (self.rules.beat * 3 / 2).to_string(),
                names.len().to_string(),
            ]);
        } else {
            let Some(of) = this.requests.get_mut(&request) else { return };
            locks.push(name(of.name));
            let bury = if of.unanswered || of.under_way > 0 { "1" } else { "" };
            args.push(match call {
                Call::Ask | Call::Withdraw => of.entry.clone(),
                _ => of.value.clone(),
            });
            match call {
                Call::Ask => {
                    of.under_way += 1;
                    args.push(of.ttl.to_string());
                    args.push(if of.waits { clock.to_string() } else { String::new() });
                }
                Call::Renew => args.push(of.ttl.to_string()),
                _ => args.push(bury.to_owned()),
            }
        }
        let sent = Sent { client, address, request, call, locks, args, clock };
        if self.fault(3) {
            // It arrives long after it was given up, and after its replay.
            let late = self.below(500);
            self.at(late, Event::Deliver { sent: sent.clone(), answers: false });
            self.at(PATIENCE.min(late), Event::Answer { sent, reply: None });
        } else {
            let late = if self.fault(10) { self.below(PATIENCE) } else { 0 };
            self.at(late, Event::Deliver { sent, answers: true });
        }
    }

    fn deliver(&mut self, sent: Sent, answers: bool) {
        let before = self.now();
        let script = match sent.call {
            Call::Ask => "ask",
            Call::Release => "release",
            Call::Withdraw => "withdraw",
            Call::Renew => "renew",
            Call::Beat { .. } => "beat",
        };
        let reply = self.store.run(script, &sent.locks, &sent.args);
        let now = self.now();
        let is_held = matches!(&reply, Reply::List(said) if said.len() == 4);
        if matches!(sent.call, Call::Beat { .. }) || is_held && !sent.args[2].is_empty() {
            self.oracle.lives(&sent.address, before);
        }
        let of = match sent.call {
            Call::Beat { .. } => String::new(),
            _ => sent.args[0][..32].to_owned(),
        };
        if matches!(sent.call, Call::Release | Call::Withdraw) {
            self.oracle.ends(&of);
        }
        for lock in &sent.locks {
            let state = self.store.state(lock);
            self.oracle.see(lock, state, &of, now);
        }
        for (address, word) in self.store.pushes() {
            self.oracle.counts.pushed += 1;
            if !self.fault(6) {
                let late = if self.fault(8) { self.below(400) } else { 0 };
                self.at(late, Event::Push { address, word });
            }
        }
        if answers {
            let is_lost = self.fault(2);
            let late = if is_lost { PATIENCE } else { 0 };
            self.at(late, Event::Answer { sent, reply: (!is_lost).then_some(reply) });
        }
    }

    // What else happens.

    fn foreign(&mut self) {
        let lock = name(self.chance.below(self.rules.names));
        let ttl = (10 + self.below(40)).to_string();
        self.store.command(&["SET", &lock, "foreign", "NX", "PX", &ttl]);
        let after = 50 + self.below(150);
        self.at(after, Event::Foreign);
    }

    fn deafen(&mut self, address: &str, is_deaf: bool) {
        let key = format!("deaf:{address}");
        if is_deaf {
            self.store.command(&["SET", &key, "1"]);
            self.oracle.deaf.insert(address.to_owned());
        } else {
            self.store.command(&["DEL", &key]);
            self.oracle.deaf.remove(address);
        }
    }

    fn trouble(&mut self, now: u64) {
        let client = self.chance.below(CLIENTS);
        let address = self.clients[client].address.clone();
        match self.chance.below(10) {
            _ if self.is_over || !self.chance.percent(self.rules.faults) => {}
            0..3 => {
                // Killed, its connections close; in a host that fails they stay.
                if self.chance.percent(60) {
                    self.deafen(&address, true);
                }
                self.oracle.counts.deaths += 1;
                let born = self.born();
                self.clients[client] = born;
                self.begin(client);
            }
            3..6 => self.clients[client].paused_until = now + self.below(500) * MS,
            _ => {
                self.deafen(&address, true);
                let after = 20 + self.below(150);
                self.at(after, Event::Listen { client, address });
            }
        }
        let after = 60 + self.below(200);
        self.at(after, Event::Trouble);
    }
}
