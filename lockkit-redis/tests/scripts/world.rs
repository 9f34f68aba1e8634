//! Simulated clients, and a random schedule of what they and their messages do.

use std::collections::VecDeque;

use testbed::RedisServer;

use super::model::{Answer, Counts, Deed, Model, Pass, is_foreign};
use super::store::{Cut, State, Store, keys, text};

/// Enough that one name whose reservation nobody answers does not stop the run.
const NAMES: usize = 16;
const CLIENTS: usize = 8;
const LATE: usize = 30;
/// Every so many requests come from another provider than the rest.
const FOREIGN: u64 = 8;
/// How many tokens a provider may hand the name on by.
const AHEAD: u64 = 16;

/// A seeded source of chance (SplitMix64), so that a seed reruns the same schedule.
#[derive(Debug)]
pub(crate) struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end as u64).unwrap()
    }

    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }
}

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

/// A grant of the server and the hand-offs that followed it, as its provider knows them.
#[derive(Debug)]
struct Cohort {
    provider: String,
    members: VecDeque<Member>,
    has_ended: bool,
    is_freeing: bool,
    spare: u64,
    line: VecDeque<(String, u64)>,
}

#[derive(Debug)]
struct Member {
    id: String,
    token: u64,
    ttl: i64,
    unanswered: bool,
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
        Self { store, chance: Chance(seed), locks, ids: 0, counts: Counts::default() }
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

    /// The server granted: a cohort begins, unless it only said again what it was told.
    fn granted(&mut self, n: usize, i: usize, token: u64) {
        let Lock { requests, cohorts, model, .. } = &mut self.locks[n];
        let Request { id, ttl, unanswered, .. } = &requests[i];
        let provider = provider(id);
        let knows = |member: &Member| member.id == *id && member.token == token;
        if cohorts.iter().any(|cohort| cohort.members.iter().any(knows)) {
            return;
        }
        cohorts.retain(|cohort| cohort.provider != provider);
        let member = Member { id: id.clone(), token, ttl: *ttl, unanswered: *unanswered };
        cohorts.push(Cohort {
            provider: provider.to_owned(),
            members: VecDeque::from([member]),
            has_ended: false,
            is_freeing: false,
            spare: token + AHEAD,
            line: line(&model.last),
        });
    }

    /// A waiter was told that it is the head: its provider may hand the name on to it.
    fn heads(&mut self, n: usize) {
        let Lock { cohorts, model, .. } = &mut self.locks[n];
        let first = line(&model.last).into_iter().take(1);
        let own = |cohort: &&mut Cohort| {
            model.last.queue.first().is_some_and(|head| provider(head) == cohort.provider)
        };
        if let Some(cohort) = cohorts.iter_mut().find(own) {
            let first: VecDeque<_> = first.collect();
            let knows = cohort.members.iter().any(|member| member.id == first[0].0);
            if !cohort.line.contains(&first[0]) && !knows {
                cohort.line = first;
            }
        }
    }

    /// Hands the name on to the next in the queue, where that waits at the same provider.
    fn hand_on(&mut self, n: usize, c: usize) -> Result<(), String> {
        let Lock { requests, cohorts, model, .. } = &mut self.locks[n];
        let cohort = &mut cohorts[c];
        let token = cohort.members.back().map_or(0, |last| last.token) + 1;
        if !cohort.has_ended || cohort.is_freeing || token > cohort.spare {
            return Ok(());
        }
        let Some((next, ticket)) = cohort.line.front() else { return Ok(()) };
        let idle = |request: &&mut Request| {
            let place = request.place.filter(|(_, until)| model.last.now < *until);
            let is_there = place.is_some_and(|(own, _)| own == *ticket);
            request.waits && request.holds.is_none() && is_there
        };
        let own = requests.iter_mut().find(|request| request.id == *next).filter(idle);
        let Some(next) = own.filter(|next| provider(&next.id) == cohort.provider) else {
            return Ok(());
        };
        let served: Vec<_> = cohort.members.iter().map(|member| &*member.id).collect();
        model
            .handed_on(&next.id, token, &served)
            .map_err(|why| format!("{why}\n{cohort:#?}\n{next:#?}\n{:#?}", model.last))?;
        next.holds = Some(token);
        let Request { id, ttl, unanswered, .. } = &*next;
        let member = Member { id: id.clone(), token, ttl: *ttl, unanswered: *unanswered };
        cohort.members.push_back(member);
        cohort.line.pop_front();
        cohort.has_ended = false;
        self.counts.handed_on += 1;
        Ok(())
    }

    /// Tells the server what a provider's cohort has done.
    fn pass(&mut self, n: usize, c: usize, way: Way) -> Result<(), String> {
        let Lock { requests, cohorts, .. } = &mut self.locks[n];
        let cohort = &mut cohorts[c];
        for member in &mut cohort.members {
            let request = requests.iter().find(|request| request.id == member.id);
            member.unanswered |= request.is_some_and(|request| request.unanswered);
        }
        cohort.is_freeing |= cohort.has_ended;
        let mut ended: Vec<&Member> = cohort.members.iter().collect();
        let last = if cohort.is_freeing { ended.last().copied() } else { ended.pop() };
        let (Some(first), Some(last)) = (cohort.members.front(), last) else { return Ok(()) };
        let pass = Pass {
            from: first.id.clone(),
            token: last.token,
            to: (!cohort.is_freeing).then(|| (last.id.clone(), last.ttl)),
            ended: ended.iter().map(|member| (member.id.clone(), member.unanswered)).collect(),
        };
        let answer = self.send(n, &Deed::Pass(pass.clone()), way)?;
        let Lock { cohorts, model, .. } = &mut self.locks[n];
        match (answer, &pass.to) {
            (None, _) => {}
            (Some(Answer::Passed), Some((to, _))) => {
                let cohort = &mut cohorts[c];
                while cohort.members.front().is_some_and(|member| member.id != *to) {
                    cohort.members.pop_front();
                }
                cohort.spare = cohort.spare.max(pass.token + AHEAD);
                cohort.line = line(&model.last);
            }
            // Freed, or refused: it is over, and whoever holds by it has lost.
            _ => drop(cohorts.remove(c)),
        }
        Ok(())
    }

    /// What was not acknowledged is told again, together with what happened since.
    fn pass_again(&mut self, n: usize) -> Result<(), String> {
        let count = self.locks[n].cohorts.len();
        let c = self.chance.below(count.max(1));
        match self.locks[n].cohorts.get(c) {
            Some(cohort) if cohort.members.len() > 1 || cohort.has_ended => {
                let way = self.way();
                self.pass(n, c, way)
            }
            _ => Ok(()),
        }
    }

    /// A request's release or withdrawal, with a tombstone as the provider decides.
    fn end(&mut self, n: usize, request: Request, way: Way) -> Result<(), String> {
        let Request { id, unanswered: tomb, holds, .. } = request;
        let holds = holds.filter(|_| self.chance.percent(85));
        let last = |cohort: &Cohort| cohort.members.back().is_some_and(|last| last.id == id);
        if let Some(c) = self.locks[n].cohorts.iter().position(last) {
            let cohort = &mut self.locks[n].cohorts[c];
            cohort.has_ended = true;
            cohort.members.iter_mut().filter(|it| it.id == id).for_each(|it| it.unanswered |= tomb);
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

    /// Whether there is a holder that the server does not know of, who has let go now.
    fn ended_at_once(&mut self, n: usize, c: usize) -> bool {
        let Lock { requests, cohorts, .. } = &mut self.locks[n];
        let cohort = &mut cohorts[c];
        let (false, Some(last)) = (cohort.has_ended, cohort.members.back_mut()) else {
            return false;
        };
        let Some(i) = requests.iter().position(|request| request.id == last.id) else {
            return false;
        };
        last.unanswered |= requests.remove(i).unanswered;
        cohort.has_ended = true;
        true
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
        let words = words(deed, &lock.keys[0]);
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

/// In the provider a life is the ttl too, within bounds that would take too long here.
fn life(ttl: i64) -> i64 {
    ttl.clamp(40, 80)
}

/// The first of the queue with their tickets, as the last answer told.
fn line(last: &State) -> VecDeque<(String, u64)> {
    last.queue.iter().cloned().zip(last.tickets.iter().copied()).take(16).collect()
}

/// The provider in a request's entry.
fn provider(id: &str) -> &str {
    id.split_once('.').map_or("", |(_, provider)| provider)
}

/// What goes over the wire, as the provider sends it.
fn words(deed: &Deed, lock: &str) -> Vec<String> {
    let number = |n: i64| n.to_string();
    let flag = |set: bool| if set { "1" } else { "0" }.to_owned();
    let (script, id, args) = match deed {
        Deed::Ask { id, ttl, waits } => (
            "acquire",
            &**id,
            vec![number(life(*ttl)), number(*ttl), "label".to_owned(), flag(*waits)],
        ),
        Deed::Renew { id, ttl } => ("renew", &**id, vec![number(life(*ttl)), number(*ttl)]),
        Deed::Pass(pass) => {
            let (to, ttl) =
                pass.to.clone().map_or_else(Default::default, |(to, ttl)| (to, number(ttl)));
            let mut args = vec![number(20), pass.token.to_string(), to, ttl, "label".to_owned()];
            args.extend(pass.ended.iter().flat_map(|(id, tomb)| [id.clone(), flag(*tomb)]));
            ("release", &*pass.from, args)
        }
        Deed::Withdraw { id, tomb } => ("withdraw", &**id, vec![number(20), flag(*tomb)]),
        // As the provider has it: these two pass no id.
        Deed::Inspect => ("inspect", "", Vec::new()),
        Deed::Revoke { token } => return vec!["revoke".to_owned(), token.to_string()],
        Deed::ForeignSet { value, ttl } => {
            let end = ttl.map(|ttl| vec!["PX".to_owned(), number(ttl)]).unwrap_or_default();
            let set = ["SET", lock, value, "NX"].map(str::to_owned).to_vec();
            return [set, end].concat();
        }
        Deed::ForeignDelete => return vec!["DEL".to_owned(), lock.to_owned()],
        Deed::Forget => return vec!["PING".to_owned()],
    };
    let mut words = vec![script.to_owned()];
    if !id.is_empty() {
        words.push(id.to_owned());
    }
    words.extend(args);
    words
}
