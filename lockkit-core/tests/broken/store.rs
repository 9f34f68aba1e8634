//! A small store: what a server keeps of each name, and what it answers.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{
    Applied, Clock, Error, Family, FencingToken, Holder, Inspection, Instant, LockName, Permits,
    Request, Result,
};
use tokio::sync::watch;

use super::entry::{Ask, Begins, Caller, Done, Ended, Entry, Granted, Held, Place, Turn, What};
use super::rules::Rules;

/// All names, behind the rules that every client lives by.
#[derive(Debug)]
pub(crate) struct Store {
    rules: Rules,
    state: Mutex<State>,
    server: watch::Sender<Server>,
    /// The names of which it changes nothing.
    refused: Mutex<BTreeSet<LockName>>,
}

/// How the server that keeps the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Running,
    /// Calls get no answer.
    Paused,
    /// Calls are refused.
    Down,
    /// Calls that change something are.
    ReadOnly,
}

/// How a server says that it is [`Server::ReadOnly`].
pub(crate) const READ_ONLY: &str = "the server takes no writes";

#[derive(Debug)]
struct State {
    names: BTreeMap<(Family, String), Entry>,
    /// The ttl of each client's first request.
    clients: HashMap<u64, Duration>,
    /// The clock of the newest request: operators bring none of their own.
    clock: Clock,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Granted(Granted),
    Held(Waiting),
    /// The place is gone: withdrawn, or not kept alive.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) holder: Option<Holder>,
    /// Changes, or closes, once it is worth asking again; `None` without a place.
    pub(crate) wake: Option<watch::Receiver<()>>,
    /// When whoever stands before the request is gone unless heard of.
    pub(crate) free_at: Option<Instant>,
    /// When to ask again, where the store tells its waiters of nothing.
    pub(crate) poll: Option<Instant>,
}

impl Store {
    pub(crate) fn new(rules: Rules) -> Self {
        let (names, clients, clock) = (BTreeMap::new(), HashMap::new(), Clock::system());
        let state = Mutex::new(State { names, clients, clock });
        let (server, refused) = (watch::Sender::new(Server::Running), Mutex::default());
        Self { rules, state, server, refused }
    }

    /// Changes nothing of this name from now on, or does again.
    pub(crate) fn refuse(&self, name: &LockName, refuses: bool) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        match refuses {
            true => refused.insert(name.clone()),
            false => refused.remove(name),
        };
    }

    /// Refuses to change something of a name that is refused.
    pub(crate) fn takes(&self, name: &LockName) -> Result<()> {
        match self.refused.lock().unwrap_or_else(PoisonError::into_inner).contains(name) {
            true => Err(Error::rejected(format!("no right to {name:?}"), "grant it")),
            false => Ok(()),
        }
    }

    /// Returns once the server takes writes, or with why it does not; `limit` is what one call may take.
    pub(crate) async fn answers(&self, clock: &Clock, limit: Duration) -> Result<()> {
        match self.reads(clock, limit).await? {
            Server::ReadOnly => Err(Error::unavailable(Applied::No, READ_ONLY)),
            _ => Ok(()),
        }
    }

    /// The same of a server that may take only reads: how it is.
    async fn reads(&self, clock: &Clock, limit: Duration) -> Result<Server> {
        let mut server = self.server.subscribe();
        let answer = tokio::select! {
            biased;
            server = server.wait_for(|server| *server != Server::Paused) => server.ok().map(|at| *at),
            () = clock.sleep(limit) => None,
        };
        match answer {
            Some(server @ (Server::Running | Server::ReadOnly)) => Ok(server),
            Some(_) => Err(Error::unavailable(Applied::No, "the server is down")),
            None => Err(Error::unavailable(Applied::No, "the server does not answer")),
        }
    }

    /// The same for an operator who looks, and brings no clock.
    pub(crate) async fn answers_operator(&self) -> Result<()> {
        let clock = self.state().clock.clone();
        self.reads(&clock, Duration::from_secs(2)).await.map(drop)
    }

    /// Stops the server, or lets it go on with all that it had.
    pub(crate) fn be(&self, server: Server) {
        if server == Server::Down {
            // Connections end: whoever waits at one asks again.
            let state = self.state();
            state.names.values().flat_map(|entry| &entry.queue).for_each(Place::wake);
        }
        self.server.send_replace(server);
    }

    /// Starts the server again, with what its rules let it keep.
    pub(crate) fn restart(&self) {
        self.be(Server::Down);
        self.state().names.values_mut().for_each(self.rules.restarts);
        self.be(Server::Running);
    }

    /// One attempt of `request`, made by the client of this number.
    pub(crate) fn ask(&self, client: u64, request: &Request, ask: Ask) -> Answer {
        let client_ttl = *self.state().clients.entry(client).or_insert(request.ttl());
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, now, done| {
            let id = request.id();
            if let Some(permits) = request.permits() {
                (rules.notes_limit)(entry, permits);
            }
            entry.past.newest = Some((request.ttl(), request.label().to_string()));
            let place = entry.queue.iter().position(|place| place.id == id);
            let stood = place.map(|at| (entry.queue[at].since, entry.queue[at].expires));
            let begins = Begins { now, sent: now, ttl: request.ttl(), client_ttl, place: stood };
            let Entry { held, past, .. } = &mut *entry;
            if let Some(held) = held.iter_mut().find(|held| (rules.replays)(held, client, id)) {
                if rules.replay_extends {
                    held.renew(rules, past, &begins);
                }
                return Answer::Granted(held.granted());
            }
            if let Some(token) = (rules.replayed)(entry, id) {
                return Answer::Granted(Granted::unheard(token));
            }
            let over = entry.recall(rules, now, id).is_some();
            let full = place.is_none() && ask != Ask::Now && entry.queue.len() >= rules.queue_takes;
            if over || full || (ask == Ask::Again && place.is_none()) {
                return Answer::Gone;
            }
            let mut tell = |what, token| {
                done.push(Done { what, client, token, now, ttl: request.ttl() });
            };
            let (kind, next) = (request.kind(), (rules.next)(entry));
            let turn = Turn { ask, kind, client, now, place, next };
            if (rules.free)(entry, request.kind()) && (rules.turn)(entry, &turn) {
                if let Some(place) = place.filter(|_| rules.grant_ends_place) {
                    entry.queue.remove(place);
                }
                let granted = entry.grant(rules, client, &begins, request);
                tell(What::Granted, Some(granted.token));
                return Answer::Granted(granted);
            }
            let queues = ask != Ask::Now || rules.refusal_queues;
            let wake = queues.then(|| entry.stand(rules, &turn, request));
            if !queues {
                (rules.at_refusal)(entry);
                tell(What::Refused, None);
            }
            let (holder, free_at) = (entry.holders(now).next(), entry.free_at());
            let poll = rules.polled_every.map(|every| now.saturating_add(every));
            Answer::Held(Waiting { holder, wake, free_at, poll })
        })
    }

    /// One more ttl for this grant; `false` once it has ended. The client sent it at `sent`.
    pub(crate) fn renew(
        &self,
        client: u64,
        request: &Request,
        token: FencingToken,
        sent: Instant,
    ) -> bool {
        let client_ttl = self.state().clients.get(&client).copied().unwrap_or(request.ttl());
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, now, done| {
            let ttl = request.ttl();
            let caller = Caller { client, id: request.id(), token, now };
            let begins = Begins { now, sent, ttl, client_ttl, place: None };
            let Entry { held, past, .. } = &mut *entry;
            let is_held = !held.is_empty();
            let renewed = match held.iter_mut().find(|held| (rules.renews)(held, &caller)) {
                Some(held) => {
                    held.renew(rules, past, &begins);
                    true
                }
                None if is_held => false,
                None => {
                    let again = (rules.renewal_creates)(entry);
                    again.then(|| entry.grant(rules, client, &begins, request)).is_some()
                }
            };
            if renewed {
                let token = Some(token);
                done.push(Done { what: What::Renewed, client, token, now, ttl });
            }
            renewed
        })
    }

    /// Raises this grant; `None` once it has ended.
    pub(crate) fn raise(
        &self,
        client: u64,
        request: &Request,
        token: FencingToken,
        to: FencingToken,
    ) -> Option<bool> {
        self.step(request.name(), request.clock(), |entry, now, _| {
            let caller = Caller { client, id: request.id(), token, now };
            (self.rules.raises)(entry, &caller, to)
        })
    }

    /// Ends this grant; `false` if it had ended before.
    pub(crate) fn release(&self, client: u64, request: &Request, token: FencingToken) -> bool {
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, now, done| {
            let caller = Caller { client, id: request.id(), token, now };
            let meant = |held: &Held| (rules.releases)(held, &caller);
            let ended = entry.end(rules, now, Ended::Released, meant).is_some();
            if ended {
                entry.remember(rules, now, request.id(), Ended::Released);
                let (what, token) = (What::Ended(Ended::Released), Some(token));
                done.push(Done { what, client, token, now, ttl: request.ttl() });
            }
            ended
        })
    }

    /// Ends this grant for its holder, and keeps the name for so long; `false` if it had ended before.
    pub(crate) fn rest(
        &self,
        client: u64,
        request: &Request,
        token: FencingToken,
        rest: Duration,
    ) -> bool {
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, now, _| {
            let (id, until) = (request.id(), now.saturating_add(rest));
            let caller = Caller { client, id, token, now };
            if entry.held.is_empty() && rules.rest_creates {
                let ttl = request.ttl();
                let begins = Begins { now, sent: now, ttl, client_ttl: ttl, place: None };
                entry.grant(rules, client, &begins, request);
                entry.held.iter_mut().for_each(|held| held.token = token);
            }
            let meant = entry.held.iter_mut().find(|held| (rules.rests)(held, &caller));
            let Some(held) = meant else { return false };
            held.rest(rules, until);
            if rules.rest_ends_request {
                entry.remember(rules, now, id, Ended::Released);
            }
            if rules.rest_wakes {
                let next = (rules.next)(entry).and_then(|next| entry.queue.get(next));
                next.iter().for_each(|next| next.wake());
            }
            true
        })
    }

    /// Whether this request was granted and has released its grant.
    pub(crate) fn was_released(&self, request: &Request) -> bool {
        self.step(request.name(), request.clock(), |entry, now, _| {
            entry.recall(&self.rules, now, request.id()) == Some(Ended::Released)
        })
    }

    /// Removes every trace of `request`.
    pub(crate) fn withdraw(&self, client: u64, request: &Request) {
        let (rules, id) = (&self.rules, request.id());
        self.step(request.name(), request.clock(), |entry, now, done| {
            for place in (0..entry.queue.len()).rev() {
                if (rules.withdraws_place)(&entry.queue[place], client, id) {
                    (rules.leaves)(&mut entry.queue, place);
                }
            }
            let meant = |held: &Held| (rules.withdraws)(held, client, id);
            entry.end(rules, now, Ended::Withdrawn, meant);
            entry.remember(rules, now, id, Ended::Withdrawn);
            (rules.at_withdrawal)(entry);
            let what = What::Withdrew;
            done.push(Done { what, client, token: None, now, ttl: request.ttl() });
        });
    }

    /// Ends the grant with this token.
    pub(crate) fn revoke(&self, name: &LockName, token: FencingToken) -> bool {
        let clock = self.state().clock.clone();
        let rules = &self.rules;
        self.step(name, &clock, |entry, now, done| {
            let meant = |held: &Held| (rules.revokes)(held, token);
            let ended = entry.end(rules, now, Ended::Revoked, meant);
            let (token, ttl) = (Some(token), Duration::ZERO);
            done.push(Done { what: What::Revokes, client: 0, token, now, ttl });
            if let Some(client) = ended {
                let what = What::Ended(Ended::Revoked);
                done.push(Done { what, client, token, now, ttl });
            }
            ended.is_some()
        })
    }

    /// Ends whatever grant there is, as somebody with the store's own tools would.
    pub(crate) fn remove(&self, name: &LockName) {
        let clock = self.state().clock.clone();
        self.step(name, &clock, |entry, now, done| {
            let ended = entry.end(&self.rules, now, Ended::Removed, |_| true);
            if let Some(client) = ended {
                let (what, ttl) = (What::Ended(Ended::Removed), Duration::ZERO);
                done.push(Done { what, client, token: None, now, ttl });
            }
        });
    }

    /// Loses all that it keeps of the name, the last token too.
    pub(crate) fn forget(&self, name: &LockName) {
        self.state().names.remove(&self.key(name));
    }

    pub(crate) fn inspect(&self, name: &LockName) -> Inspection {
        self.see(name, self.rules.inspection_expires)
    }

    pub(crate) fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Vec<Inspection> {
        let names: BTreeSet<_> =
            self.state().names.values().map(|entry| entry.name.clone()).collect();
        let seen = names.iter().map(|name| self.see(name, self.rules.list_expires)).collect();
        (self.rules.page)(seen, prefix, after, limit)
    }

    /// What an operator sees of the name, once what has expired is gone.
    fn see(&self, name: &LockName, expires: bool) -> Inspection {
        let clock = self.state().clock.clone();
        if expires {
            return self.step(name, &clock, |entry, now, _| (self.rules.inspects)(entry, now));
        }
        let (key, now) = (self.key(name), clock.now());
        let entry = self.state().names.get(&key).map(|entry| entry.inspect(now));
        entry.unwrap_or_else(|| Inspection::new(name.clone(), Vec::new(), Some(0)))
    }

    /// What the store writes a name down as.
    fn key(&self, name: &LockName) -> (Family, String) {
        ((self.rules.family)(name.family()), (self.rules.stored_as)(name.as_str()))
    }

    /// Notes the limit that a counted request says, and tells it the one that applies.
    pub(crate) fn check_limit(&self, request: &Request) -> Result<()> {
        let Some(permits) = request.permits() else { return Ok(()) };
        let limit = self.step(request.name(), request.clock(), |entry, _, _| {
            (self.rules.notes_limit)(entry, permits);
            entry.limit
        });
        (self.rules.checks_limit)(request, limit)
    }

    /// Changes the limit of a semaphore, and tells the one before.
    pub(crate) fn resize(&self, name: &LockName, permits: Permits) -> u32 {
        let clock = self.state().clock.clone();
        self.step(name, &clock, |entry, _, _| {
            let before = entry.limit;
            if (self.rules.resizes)(entry, permits.wished()) {
                entry.queue.iter().for_each(Place::wake);
            }
            before
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the store on `name`: time passes first, and a free name wakes its next waiter.
    fn step<T>(
        &self,
        name: &LockName,
        clock: &Clock,
        step: impl FnOnce(&mut Entry, Instant, &mut Vec<Done>) -> T,
    ) -> T {
        let (rules, now, mut done) = (&self.rules, clock.now(), Vec::new());
        let mut state = self.state();
        state.clock.clone_from(clock);
        let entry =
            state.names.entry(self.key(name)).or_insert_with(|| Entry::new(name.clone(), now));
        let count = entry.held.len();
        entry.queue.retain(|place| now < place.expires);
        if let Some(client) = entry.end(rules, now, Ended::Expired, |held| now >= held.expires) {
            let (what, ttl) = (What::Ended(Ended::Expired), Duration::ZERO);
            done.push(Done { what, client, token: None, now, ttl });
        }
        if entry.held.is_empty() && entry.queue.is_empty() {
            (rules.at_idleness)(entry, now.saturating_since(entry.past.used));
        }
        entry.past.used = now;
        let newest = |entry: &Entry| entry.held.last().map(|held| held.token);
        let first = |entry: &Entry| entry.queue.first().map(|place| place.id);
        let (before, head) = (newest(entry), first(entry));
        let answer = step(entry, now, &mut done);
        // Behind a new holder the next waiter has to know by when that one is gone, and may hold beside it.
        // The head may be gone that kept it out. A permit that was given back is for a waiter.
        let is_fewer = entry.held.len() < count.max(1);
        let is_new = is_fewer || newest(entry) != before || first(entry) != head;
        if is_new && (rules.wakes)(entry) {
            let next = (rules.next)(entry).and_then(|next| entry.queue.get(next));
            next.iter().for_each(|next| next.wake());
        }
        if let Some(elsewhere) = rules.elsewhere {
            for entry in state.names.values_mut().filter(|entry| entry.name != *name) {
                done.iter().for_each(|done| elsewhere(entry, done));
            }
        }
        answer
    }
}
