//! What must hold of the store after each script, and of what the clients believe.

use std::collections::{HashMap, HashSet};

use super::store::{DEAF, LIFE, State};

pub(crate) const MS: u64 = 1_000_000;
/// So long no live request waits.
const STARVED: u64 = 6_000 * MS;

/// A request that believes it holds a name.
#[derive(Debug)]
struct Belief {
    request: String,
    token: u64,
    since: u64,
    until: u64,
}

/// What the run did, to see that it did enough.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) grants: u64,
    pub(crate) fast: u64,
    pub(crate) pushed: u64,
    pub(crate) in_answers: u64,
    pub(crate) refused: u64,
    pub(crate) withdrawn: u64,
    pub(crate) purged: u64,
    pub(crate) deaths: u64,
    pub(crate) longest_wait: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Oracle {
    names: HashMap<String, Name>,
    /// Requests whose end the store was told.
    ended: HashSet<String>,
    /// When the store last ran a heartbeat of a client, at the earliest.
    lives: HashMap<String, u64>,
    /// The clients that do not listen.
    pub(crate) deaf: HashSet<String>,
    pub(crate) counts: Counts,
    pub(crate) violation: Option<String>,
}

#[derive(Debug, Default)]
struct Name {
    last: State,
    token: u64,
    believed: u64,
    beliefs: Vec<Belief>,
}

/// The request and the token of a value of ours.
pub(crate) fn grant_of(value: &str) -> Option<(&str, u64)> {
    let (entry, token) = value.rsplit_once('.')?;
    (entry.len() > 50).then(|| Some((&entry[..32], token.parse().ok()?)))?
}

fn id(entry: &str) -> &str {
    &entry[..32]
}

fn client(entry: &str) -> &str {
    &entry[33..49]
}

impl Oracle {
    fn violated(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// A heartbeat of this client was run, no earlier than this.
    pub(crate) fn lives(&mut self, client: &str, since: u64) {
        self.lives.insert(client.to_owned(), since);
    }

    /// The store was told of a request's end.
    pub(crate) fn ends(&mut self, request: &str) {
        self.ended.insert(request.to_owned());
    }

    fn is_dead(&self, client: &str, now: u64) -> bool {
        // Redis counts in whole milliseconds, and the script ran a little later.
        let life = if self.deaf.contains(client) { DEAF } else { LIFE };
        self.lives.get(client).is_none_or(|since| since + (life - 3) * MS <= now)
    }

    /// What lies in a lock's places after a script that ended at `now`; `of`: the request that the script was about.
    pub(crate) fn see(&mut self, name: &str, state: State, of: &str, now: u64) {
        let last = self.names.entry(name.to_owned()).or_default().last.clone();
        for entry in &state.queue {
            if self.ended.contains(id(entry)) {
                self.violated(format!("ended: queued after its end: {entry}"));
            }
        }
        let granted = grant_of(&state.value).filter(|_| state.value != last.value);
        if let Some((request, token)) = granted {
            self.counts.grants += 1;
            let newest = self.names[name].token;
            if token <= newest {
                self.violated(format!("token: {token} after {newest}"));
            }
            self.names.get_mut(name).unwrap().token = token;
            let place = last.queue.iter().position(|entry| id(entry) == request);
            let passed = &last.queue[..place.unwrap_or(last.queue.len())];
            for entry in passed {
                if id(entry) != of && !self.is_dead(client(entry), now) {
                    let how = if place.is_some() { "order" } else { "barged" };
                    self.violated(format!("{how}: {request} was granted before {entry}"));
                }
            }
        }
        if let Some((request, _)) = grant_of(&state.value)
            && self.ended.contains(request)
        {
            self.violated(format!("ended: held after its end: {request}"));
        }
        for entry in last.queue.iter().filter(|entry| !state.queue.contains(entry)) {
            let is_granted = granted.is_some_and(|(request, _)| request == id(entry));
            if is_granted || id(entry) == of {
                continue;
            }
            self.counts.purged += 1;
            if self.is_dead(client(entry), now) {
                // It stays dead until its next heartbeat, also where it listens again before that.
                self.lives.remove(client(entry));
            } else {
                self.violated(format!("purged: {entry} of a client that lives"));
            }
        }
        self.names.get_mut(name).unwrap().last = state;
    }

    /// A request begins to believe, or goes on, until then.
    pub(crate) fn believes(&mut self, name: &str, request: &str, token: u64, until: u64, now: u64) {
        let known = self.names.entry(name.to_owned()).or_default();
        known.beliefs.retain(|belief| belief.until > now);
        let other = known.beliefs.iter().find(|belief| belief.request != request);
        let other = other.map(|Belief { request: holder, token: first, since, until }| {
            let value = &known.last.value;
            format!(
                "overlap: {request} {token} at {now} beside {holder} {first} from {since} until {until}, {value}"
            )
        });
        let newest = known.believed;
        known.believed = newest.max(token);
        known.beliefs.retain(|belief| belief.request != request);
        known.beliefs.push(Belief { request: request.to_owned(), token, since: now, until });
        if let Some(other) = other {
            self.violated(other);
        }
        if token < newest {
            self.violated(format!("token: {token} believed after {newest}"));
        }
    }

    pub(crate) fn believes_no_more(&mut self, name: &str, request: &str) {
        if let Some(known) = self.names.get_mut(name) {
            known.beliefs.retain(|belief| belief.request != request);
        }
    }

    /// A live request has waited so long.
    pub(crate) fn waited(&mut self, request: &str, long: u64) {
        self.counts.longest_wait = self.counts.longest_wait.max(long / MS);
        if long > STARVED {
            self.violated(format!("starved: {request} has waited {} ms", long / MS));
        }
    }
}
