//! What a client does, by itself and with what it is told.

use testbed::resp::Reply;

use super::super::clients::{Client, Flaw, Phase, Request};
use super::super::oracle::{MS, grant_of};
use super::super::store::{LIFE, text};
use super::{Call, Event, Sent, World, name};

impl World {
    pub(super) fn come(&mut self, client: usize) {
        if self.is_over {
            return;
        }
        self.ids += 1;
        let request = self.ids;
        let (ttl, since) = (60 + self.below(240), self.now());
        let id = format!("{request:032x}");
        let label = ["", "a", "a.b 7"][self.chance.below(3)];
        let entry = format!("{id}.{}.{ttl}.{label}", self.clients[client].address);
        let of = Request {
            id,
            entry,
            name: self.chance.below(self.rules.names),
            ttl,
            waits: self.chance.percent(85),
            phase: Phase::Asks,
            unanswered: false,
            under_way: 0,
            since,
            holds_until: 0,
            value: String::new(),
        };
        self.clients[client].requests.insert(request, of);
        self.send(client, request, Call::Ask);
        if self.chance.percent(12) {
            let after = self.below(100);
            self.act_in(client, request, after);
        }
    }

    fn act_in(&mut self, client: usize, request: u64, ms: u64) {
        let address = self.clients[client].address.clone();
        self.at(ms, Event::Act { client, address, request });
    }

    /// A request's own time has come: it leaves, renews or releases.
    pub(super) fn act(&mut self, client: usize, request: u64) {
        let (now, flaw) = (self.now(), self.rules.flaw);
        let this = &self.clients[client];
        let Some(of) = this.requests.get(&request) else { return };
        match of.phase {
            Phase::Asks => self.end(client, request, Call::Withdraw),
            Phase::Leaves => {}
            Phase::Holds { began, .. } => {
                let is_lost = this.clock(now) >= Client::deadline(of, began, flaw);
                if is_lost || now >= of.holds_until {
                    return self.end(client, request, Call::Release);
                }
                let (third, left) = (of.ttl / 3 + 1, (of.holds_until - now) / MS + 1);
                if this.clock(now) >= began + of.ttl / 3 * MS {
                    self.send(client, request, Call::Renew);
                }
                self.act_in(client, request, third.min(left));
            }
        }
    }

    fn end(&mut self, client: usize, request: u64, call: Call) {
        let Some(of) = self.clients[client].requests.get_mut(&request) else { return };
        of.phase = Phase::Leaves;
        self.oracle.believes_no_more(&name(of.name), &of.id);
        self.oracle.counts.withdrawn += u64::from(matches!(call, Call::Withdraw));
        self.send(client, request, call);
    }

    fn gone(&mut self, client: usize, request: u64) {
        self.clients[client].requests.remove(&request);
        let after = self.below(6);
        self.at(after, Event::Come { client });
    }

    /// A grant: with too little left of a pushed one it asks for all of it.
    fn hold(&mut self, client: usize, request: u64, token: u64, began: u64, is_pushed: bool) {
        let (now, flaw) = (self.now(), self.rules.flaw);
        let this = &mut self.clients[client];
        let shown = this.clock(now);
        let Some(of) = this.requests.get_mut(&request) else { return };
        let before = match of.phase {
            Phase::Leaves => return,
            // Told late, of a grant that has ended: it was granted again since.
            Phase::Holds { token: known, .. } if token < known => return,
            Phase::Holds { began, .. } => Some(began),
            Phase::Asks => None,
        };
        // A belief that has ended stays so, whatever is told late: its own time to release comes.
        if before.is_some_and(|before| shown >= Client::deadline(of, before, flaw)) {
            return;
        }
        let began = before.map_or(began, |before| before.max(began));
        let deadline = Client::deadline(of, began, flaw);
        of.value = format!("{}.{token:016}", of.entry);
        if before.is_none() && is_pushed && began + of.ttl * 7 / 10 * MS <= shown {
            return self.send(client, request, Call::Ask);
        }
        if before.is_none() && shown >= deadline {
            return self.end(client, request, Call::Release);
        }
        let until = this.instant(deadline, now);
        let of = this.requests.get_mut(&request).unwrap();
        of.phase = Phase::Holds { token, began };
        let (lock, id) = (name(of.name), of.id.clone());
        if before.is_none() {
            let long = now - of.since;
            self.oracle.waited(&id, long);
        }
        self.oracle.believes(&lock, &id, token, until, now);
        if before.is_none() {
            self.holds(client, request, now);
        }
    }

    /// For how long it holds.
    fn holds(&mut self, client: usize, request: u64, now: u64) {
        if self.fault(3) {
            // It neither renews nor releases: its task is stuck.
            self.clients[client].requests.remove(&request);
            self.at(20, Event::Come { client });
            return;
        }
        let ttl = self.clients[client].requests[&request].ttl;
        let long = if self.chance.percent(88) { self.below(6) } else { self.below(ttl * 2) };
        self.clients[client].requests.get_mut(&request).unwrap().holds_until = now + long * MS;
        self.act_in(client, request, long.min(ttl / 3));
    }

    /// The word of a grant, from a push or from the answer to a release.
    pub(super) fn told(&mut self, client: usize, word: &str, is_pushed: bool) {
        let words: Vec<&str> = word.split(' ').collect();
        let number = |n: usize| words[n].parse::<u64>().unwrap();
        let (token, reading, age) = (number(1), number(2), number(3));
        let flaw = self.rules.flaw;
        let this = &self.clients[client];
        let now = self.now();
        let known = this.requests.iter().find(|(_, of)| of.id == words[0]);
        let Some((&request, of)) = known else { return };
        let mut began = this.began(reading, age, now, flaw);
        if flaw == Flaw::LateTrusted && this.clock(now) >= Client::deadline(of, began, flaw) {
            began = this.clock(now);
        }
        self.oracle.counts.in_answers += u64::from(!is_pushed);
        self.hold(client, request, token, began, true);
    }

    pub(super) fn ask_those(&mut self, client: usize, which: impl Fn(&Request) -> bool) {
        let mut those: Vec<u64> = Vec::new();
        those.extend(self.clients[client].waits().filter(|(_, of)| which(of)).map(|(n, _)| *n));
        those.sort_unstable();
        for request in those {
            self.send(client, request, Call::Ask);
        }
    }

    pub(super) fn beat(&mut self, client: usize, poke: Option<usize>) {
        let now = self.now();
        let this = &mut self.clients[client];
        let mut names: Vec<usize> = this.waits().map(|(_, of)| of.name).collect();
        names.sort_unstable();
        names.dedup();
        if let Some(poke) = poke {
            if names.contains(&poke) {
                self.send(client, 0, Call::Beat { names: vec![poke], is_whole: false });
            }
            return;
        }
        if names.is_empty() {
            this.since = now;
        } else {
            let waited: Vec<_> =
                this.waits().map(|(_, of)| (of.id.clone(), now - of.since)).collect();
            waited.iter().for_each(|(id, long)| self.oracle.waited(id, *long));
            self.send(client, 0, Call::Beat { names, is_whole: true });
        }
        let address = self.clients[client].address.clone();
        self.at(self.rules.beat, Event::Beat { client, address, poke: None });
    }

    fn beaten(
        &mut self,
        client: usize,
        sent: &Sent,
        names: &[usize],
        is_whole: bool,
        said: &[Reply],
    ) {
        let now = self.now();
        let ignores = self.rules.flaw == Flaw::IgnoresDeath;
        if said[0].integer() == Some(0) && !ignores {
            self.ask_those(client, |_| true);
        }
        for lock in said[1..].chunks(3) {
            let number = |n: usize| lock[n].integer().unwrap();
            let n = names[usize::try_from(number(0)).unwrap() - 1];
            if let Some((holder, _)) = grant_of(&text(&lock[2])) {
                self.ask_those(client, |of| of.id == holder);
            }
            match number(1) {
                -2 if ignores => {}
                -2 => self.ask_those(client, |of| of.name == n),
                left => {
                    let Ok(left) = u64::try_from(left) else { continue };
                    let address = self.clients[client].address.clone();
                    self.at(left + 1, Event::Beat { client, address, poke: Some(n) });
                }
            }
        }
        if is_whole && !ignores {
            let this = &mut self.clients[client];
            let sent_at = now - (this.clock(now) - sent.clock).min(now);
            let gap = (now - this.since.min(now)) / MS;
            this.since = sent_at;
            self.ask_those(client, |of| of.ttl.min(LIFE / 2) <= gap);
        }
    }

    pub(super) fn answered(&mut self, client: usize, sent: &Sent, reply: Option<Reply>) {
        let request = sent.request;
        if let Call::Beat { names, is_whole } = &sent.call {
            if let Some(reply) = reply {
                self.beaten(client, sent, names, *is_whole, reply.items());
            }
            return;
        }
        let Some(of) = self.clients[client].requests.get_mut(&request) else { return };
        match (&sent.call, reply) {
            (Call::Ask, None) => {
                of.under_way -= 1;
                of.unanswered = true;
                if of.phase == Phase::Asks {
                    self.send(client, request, Call::Ask);
                }
            }
            (Call::Ask, Some(Reply::List(said))) => {
                of.under_way -= 1;
                if said.len() < 4 {
                    self.oracle.counts.refused += 1;
                    return;
                }
                let is_over = of.phase == Phase::Asks && !of.waits;
                if is_over && !of.unanswered && of.under_way == 0 {
                    return self.gone(client, request);
                }
                if is_over {
                    return self.end(client, request, Call::Withdraw);
                }
                if text(&said[3]) == "0" && self.rules.flaw != Flaw::IgnoresDeath {
                    let id = of.id.clone();
                    self.ask_those(client, |other| other.id != id);
                }
            }
            (Call::Ask, Some(token)) => {
                of.under_way -= 1;
                self.oracle.counts.fast += 1;
                let token = text(&token).parse().unwrap();
                self.hold(client, request, token, sent.clock, false);
            }
            (Call::Renew, None) => {}
            (Call::Renew, Some(said)) => {
                self.renewed(client, request, sent, said.integer() == Some(1));
            }
            (_, None) => self.send(client, request, sent.call.clone()),
            (_, Some(said)) => {
                if let Reply::Bytes(_) = said {
                    self.told(client, &text(&said), false);
                }
                self.gone(client, request);
            }
        }
    }

    fn renewed(&mut self, client: usize, request: u64, sent: &Sent, is_so: bool) {
        let (now, flaw) = (self.now(), self.rules.flaw);
        let this = &self.clients[client];
        let Some(of) = this.requests.get(&request) else { return };
        let Phase::Holds { token, began } = of.phase else { return };
        // A deadline that has passed wins over whatever arrives after it.
        if !is_so || this.clock(now) >= Client::deadline(of, began, flaw) {
            return self.end(client, request, Call::Release);
        }
        self.hold(client, request, token, sent.clock, false);
    }
}
