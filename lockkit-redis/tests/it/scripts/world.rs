//! Simulated clients, and a random schedule of what they and their messages do.

mod cohorts;

use cohorts::Cohort;
use testbed::RedisServer;

use super::chance::Chance;
use super::deed::{Answer, Deed, Pass, life};
use super::model::{Counts, Model, is_foreign};
use super::store::{Cut, State, Store, keys, text};

/// Enough that one name whose reservation nobody answers does not stop the run.
const NAMES: usize = 16;
const CLIENTS: usize = 8;
const LATE: usize = 30;
/// Every so many requests come from another provider than the rest.
const FOREIGN: u64 = 8;

/// One request of one simulated client.
#[derive(Debug)]
struct Request {
    id: String,
    ttl: i64,
    waits: bool,
    /// Its token, while it holds.
    holds: Option<u64>,
    /// Its ticket by the last answer, and until when it has that for certain.
    place: Option<(u64, i64)>,
    /// Some attempt of it was never answered: whoever ends it leaves a tombstone.
    unanswered: bool,
}

/// How a message travels.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Way {
    Answered,
    /// It was executed; the client does not know.
    AnswerLost,
    /// It arrives later, or never.
    Delayed,
    /// It arrives now, and once more later.
    Twice,
}

#[derive(Debug)]
struct Lock {
    keys: [String; 5],
    model: Model,
    requests: Vec<Request>,
    cohorts: Vec<Cohort>,
    late: Vec<Deed>,
}

#[derive(Debug)]
pub(crate) struct World {
    store: Store,
    chance: Chance,
    locks: Vec<Lock>,
    ids: u64,
    pub(crate) counts: Counts,
}

impl World {
    pub(crate) fn new(server: &RedisServer, seed: u64, cut: Option<Cut>) -> Self {
        let mut store = Store::new(server, cut);
        store.command(&["FLUSHALL"]);
        let lock = |n: usize| Lock {
            keys: keys(&format!("lock {n}")),
            model: Model::default(),
            requests: Vec::new(),
            cohorts: Vec::new(),
            late: Vec::new(),
        };
        let locks = (0..NAMES).map(lock).collect();
        Self { store, chance: Chance::new(seed), locks, ids: 0, counts: Counts::default() }
    }

    /// Makes steps until there were `steps`, or one broke a rule.
    pub(crate) fn run(&mut self, steps: u64) -> Result<(), String> {
        while self.counts.steps < steps {
            let n = self.chance.below(NAMES);
            match self.chance.below(10_000) {
                0..3 => self.forget()?,
                3..250 => self.foreign(n)?,
                250..350 => drop(self.step(n, &Deed::Inspect)?),
                350..450 => self.revoke(n)?,
                450..1800 => self.deliver(n)?,
                1800..2300 => self.pass_again(n)?,
                _ => self.client(n)?,
            }
        }
        Ok(())
    }

    /// Everybody leaves in order; what lies about afterwards is given back.
    pub(crate) fn leave(&mut self) -> Result<(), String> {
        for n in 0..NAMES {
            self.step(n, &Deed::ForeignDelete)?;
            self.locks[n].cohorts.clear();
            while let Some(request) = self.locks[n].requests.pop() {
                self.end(n, request, Way::Answered)?;
            }
        }
        Ok(())
    }

    /// Every key there is.
    pub(crate) fn keys(&mut self) -> Vec<String> {
        self.store.command(&["KEYS", "*"]).items().iter().map(text).collect()
    }

    fn client(&mut self, n: usize) -> Result<(), String> {
        let count = self.locks[n].requests.len();
        if count == 0 || (count < CLIENTS && self.chance.percent(12)) {
            self.ids += 1;
            let request = Request {
                id: format!(
                    "{:032x}.{:016x}",
                    self.ids,
                    u64::from(self.ids.is_multiple_of(FOREIGN))
                ),
                ttl: 4 + i64::try_from(self.chance.below(40)).unwrap(),
                waits: self.chance.percent(85),
                holds: None,
                place: None,
                unanswered: false,
            };
            self.locks[n].requests.push(request);
            return self.ask(n, count);
        }
        let i = self.chance.below(count);
        let way = self.way();
        let crashes = self.chance.percent(3);
        let request = &self.locks[n].requests[i];
        let (holds, waits) = (request.holds.is_some(), request.waits);
        match self.chance.below(100) {
            _ if crashes => drop(self.locks[n].requests.remove(i)),
            0..35 if holds => {
                let request = &self.locks[n].requests[i];
                let deed = Deed::Renew { id: request.id.clone(), ttl: request.ttl };
                self.send(n, &deed, way)?;
            }
            35..65 if holds => {
                let request = self.locks[n].requests.remove(i);
                self.end(n, request, way)?;
            }
            // It leaves; one attempt that was answered has left already.
            0..12 if waits => {
                let request = self.locks[n].requests.remove(i);
                self.end(n, request, way)?;
            }
            12..90 => self.ask(n, i)?,
            _ => {}
        }
        Ok(())
    }

    /// Sends a request's acquire: its first one, a heartbeat or a replay.
    fn ask(&mut self, n: usize, i: usize) -> Result<(), String> {
        let way = self.way();
        let request = &mut self.locks[n].requests[i];
        request.unanswered |= way != Way::Answered;
        let deed = Deed::Ask { id: request.id.clone(), ttl: request.ttl, waits: request.waits };
        let waits = request.waits;
        let lives = self.locks[n].model.last.now + life(self.locks[n].requests[i].ttl) * 1000;
        let Some(answer) = self.send(n, &deed, way)? else {
            if !waits && self.chance.percent(80) {
                let request = self.locks[n].requests.remove(i);
                self.end(n, request, Way::Answered)?;
            }
            return Ok(());
        };
        let request = &mut self.locks[n].requests[i];
        match answer {
            Answer::Granted(token) => {
                request.holds = Some(token);
                self.granted(n, i, token);
            }
            Answer::Held(ticket) if waits => {
                request.place = ticket.map(|ticket| (ticket, lives));
                self.heads(n);
            }
            // Answered for certain, unless an earlier one is on its way.
            Answer::Held(_) if request.unanswered => {
                let request = self.locks[n].requests.remove(i);
                self.end(n, request, Way::Answered)?;
            }
            _ => drop(self.locks[n].requests.remove(i)),
        }
        Ok(())
    }

    /// A request's release or withdrawal, with a tombstone as the provider decides.
    fn end(&mut self, n: usize, request: Request, way: Way) -> Result<(), String> {
        let Request { id, unanswered: tomb, holds, .. } = request;
        let holds = holds.filter(|_| self.chance.percent(85));
        if let Some(c) = self.locks[n].cohorts.iter().position(|cohort| cohort.is_last(&id)) {
            self.locks[n].cohorts[c].end(&id, tomb);
            self.hand_on(n, c)?;
            // Now and then who was handed the name lets it go before the server is told.
            while self.chance.percent(60) && self.ended_at_once(n, c) {
                self.hand_on(n, c)?;
            }
            if self.chance.percent(60) {
                self.pass(n, c, way)?;
            }
            if holds.is_some() {
                return Ok(());
            }
        } else if let Some(token) = holds {
            let pass = Pass { from: id.clone(), token, to: None, ended: vec![(id, tomb)] };
            return self.send(n, &Deed::Pass(pass), way).map(drop);
        }
        self.send(n, &Deed::Withdraw { id, tomb }, way).map(drop)
    }

    fn way(&mut self) -> Way {
        match self.chance.below(100) {
            0..82 => Way::Answered,
            82..88 => Way::AnswerLost,
            88..94 => Way::Delayed,
            _ => Way::Twice,
        }
    }

    /// The answer, where the client gets one.
    fn send(&mut self, n: usize, deed: &Deed, way: Way) -> Result<Option<Answer>, String> {
        if matches!(way, Way::Delayed | Way::Twice) {
            let late = &mut self.locks[n].late;
            late.push(deed.clone());
            if late.len() > LATE {
                late.remove(0);
            }
        }
        if way == Way::Delayed {
            return Ok(None);
        }
        let answer = self.step(n, deed)?;
        Ok((way != Way::AnswerLost).then_some(answer))
    }

    /// A message that was long under way arrives; some do so again.
    fn deliver(&mut self, n: usize) -> Result<(), String> {
        let count = self.locks[n].late.len();
        if count == 0 {
            return Ok(());
        }
        let i = self.chance.below(count);
        let deed = self.locks[n].late[i].clone();
        if self.chance.percent(70) {
            self.locks[n].late.remove(i);
        }
        self.counts.late += 1;
        self.step(n, &deed).map(drop)
    }

    /// A client that knows nothing of us: sets a free key, and deletes whatever is there.
    fn foreign(&mut self, n: usize) -> Result<(), String> {
        let endless = {
            let last = &self.locks[n].model.last;
            is_foreign(&last.holder) && last.ends[0] == -1
        };
        let deed = if endless || self.chance.percent(10) {
            Deed::ForeignDelete
        } else {
            let ttl = 3 + i64::try_from(self.chance.below(30)).unwrap();
            let ttl = (!self.chance.percent(10)).then_some(ttl);
            Deed::ForeignSet { value: format!("foreign {}", self.counts.steps), ttl }
        };
        self.counts.foreign += 1;
        self.step(n, &deed).map(drop)
    }

    fn revoke(&mut self, n: usize) -> Result<(), String> {
        let token = self.locks[n].model.last.fence.get("token");
        let token = token.and_then(|token| token.parse().ok()).unwrap_or(1);
        // Now and then a token that is not the holder's.
        let token = token - u64::from(self.chance.percent(30));
        self.step(n, &Deed::Revoke { token }).map(drop)
    }

    /// FLUSHALL: all of the store's memory is gone at once.
    fn forget(&mut self) -> Result<(), String> {
        self.store.command(&["FLUSHALL"]);
        self.counts.forgotten += 1;
        (0..NAMES).try_for_each(|n| self.step(n, &Deed::Forget).map(drop))
    }

    fn step(&mut self, n: usize, deed: &Deed) -> Result<Answer, String> {
        let lock = &mut self.locks[n];
        let words = deed.words(&lock.keys[0]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let (reply, state) = self.store.step(&lock.keys, &words);
        self.counts.steps += 1;
        let before: State = lock.model.last.clone();
        lock.model.check(deed, &reply, state.clone(), &mut self.counts).map_err(|why| {
            let steps = self.counts.steps;
            format!("step {steps}: {why}\n{deed:?} answered {reply:?}\n{before:#?}\n{state:#?}")
        })
    }
}
