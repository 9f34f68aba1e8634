//! A small store: what a server keeps of each name, and what it answers.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lockkit_core::{
    Applied, Clock, Error, FencingToken, Holder, Inspection, Instant, LockName, LossReason,
    Request, RequestId, Result,
};
use tokio::sync::watch;

use super::rules::Rules;

/// All names, behind the rules that every client lives by.
#[derive(Debug)]
pub(crate) struct Store {
    rules: Rules,
    state: Mutex<State>,
    server: watch::Sender<Server>,
}

/// How the server that keeps the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    Running,
    /// Calls get no answer.
    Paused,
    /// Calls are refused.
    Down,
}

#[derive(Debug)]
struct State {
    names: BTreeMap<String, Entry>,
    /// The clock of the newest request: operators bring none of their own.
    clock: Clock,
}

/// One name. It is kept for ever, so that its tokens never go back.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) name: LockName,
    pub(crate) last_token: u64,
    pub(crate) held: Option<Held>,
    pub(crate) queue: Vec<Place>,
    /// How the requests ended that are over for good.
    over: HashMap<RequestId, LossReason>,
}

/// A grant that is live.
#[derive(Debug)]
pub(crate) struct Held {
    pub(crate) id: RequestId,
    pub(crate) client: u64,
    pub(crate) token: FencingToken,
    pub(crate) expires: Instant,
    label: String,
    since: Instant,
    ended: watch::Sender<Option<LossReason>>,
}

/// A place in the queue. Its waiter keeps it alive by asking again.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) id: RequestId,
    expires: Instant,
    wake: watch::Sender<()>,
}

/// How a request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ask {
    /// For the name at once, or not at all.
    Now,
    /// For the name, or a place in the queue.
    Queue,
    /// Again, from the place it has.
    Again,
}

#[derive(Debug)]
pub(crate) enum Answer {
    Granted(Granted),
    Held(Waiting),
    /// The place is gone: withdrawn, or not kept alive.
    Gone,
}

#[derive(Debug)]
pub(crate) struct Granted {
    pub(crate) token: FencingToken,
    /// Tells when and how the grant ended.
    pub(crate) ended: watch::Receiver<Option<LossReason>>,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) holder: Option<Holder>,
    /// Changes, or closes, once it is worth asking again; `None` without a place.
    pub(crate) wake: Option<watch::Receiver<()>>,
    /// When whoever stands before the request is gone unless heard of.
    pub(crate) free_at: Option<Instant>,
}

impl Store {
    pub(crate) fn new(rules: Rules) -> Self {
        let state = State { names: BTreeMap::new(), clock: Clock::system() };
        Self { rules, state: Mutex::new(state), server: watch::Sender::new(Server::Running) }
    }

    /// Returns once the server answers, or with why it does not; `limit` is what one call may take.
    pub(crate) async fn answers(&self, clock: &Clock, limit: Duration) -> Result<()> {
        let mut server = self.server.subscribe();
        let answer = tokio::select! {
            biased;
            server = server.wait_for(|server| *server != Server::Paused) => server.ok().map(|at| *at),
            () = clock.sleep(limit) => None,
        };
        match answer {
            Some(Server::Running) => Ok(()),
            Some(_) => Err(Error::unavailable(Applied::No, "the server is down")),
            None => Err(Error::unavailable(Applied::No, "the server does not answer")),
        }
    }

    /// The same for an operator, who brings no clock.
    pub(crate) async fn answers_operator(&self) -> Result<()> {
        let clock = self.state().clock.clone();
        self.answers(&clock, Duration::from_secs(2)).await
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
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, now| {
            if let Some(held) =
                entry.held.as_mut().filter(|held| (rules.replays)(held, client, request.id()))
            {
                held.renew(rules, now, request.ttl());
                return Answer::Granted(held.granted());
            }
            let place = entry.queue.iter().position(|place| place.id == request.id());
            let over = entry.over.contains_key(&request.id());
            if over || (ask == Ask::Again && place.is_none()) {
                return Answer::Gone;
            }
            if (rules.free)(entry) && (rules.turn)(&entry.queue, place, ask) {
                if let Some(place) = place.filter(|_| rules.grant_ends_place) {
                    entry.queue.remove(place);
                }
                return Answer::Granted(entry.grant(rules, now, client, request));
            }
            let queues = ask != Ask::Now || rules.refusal_queues;
            let wake = queues.then(|| entry.stand(rules, now, place, request));
            Answer::Held(Waiting { holder: entry.holder(now), wake, free_at: entry.free_at() })
        })
    }

    /// One more ttl for this grant; `false` once it has ended.
    pub(crate) fn renew(&self, request: &Request, token: FencingToken) -> bool {
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, now| match &mut entry.held {
            Some(held) if (rules.renews)(held, request.id(), token) => {
                held.renew(rules, now, request.ttl());
                true
            }
            Some(_) => false,
            None => {
                let again = rules.renewal_creates.then(|| entry.grant(rules, now, 0, request));
                again.is_some()
            }
        })
    }

    /// Ends this grant; `false` if it had ended before.
    pub(crate) fn release(&self, request: &Request, token: FencingToken) -> bool {
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, _| {
            let meant = |held: &Held| (rules.releases)(held, request.id(), token);
            let ended = entry.end(rules, LossReason::Released, meant);
            if ended {
                entry.remember(rules, request, LossReason::Released);
            }
            ended
        })
    }

    /// Whether this request was granted and has released its grant.
    pub(crate) fn was_released(&self, request: &Request) -> bool {
        self.step(request.name(), request.clock(), |entry, _| {
            entry.over.get(&request.id()) == Some(&LossReason::Released)
        })
    }

    /// Removes every trace of `request`.
    pub(crate) fn withdraw(&self, request: &Request) {
        let rules = &self.rules;
        self.step(request.name(), request.clock(), |entry, _| {
            entry.queue.retain(|place| !(rules.withdraws_place)(place, request.id()));
            entry.end(rules, LossReason::Removed, |held| (rules.withdraws)(held, request.id()));
            entry.remember(rules, request, LossReason::Removed);
        });
    }

    /// Ends the grant with this token.
    pub(crate) fn revoke(&self, name: &LockName, token: FencingToken) -> bool {
        let clock = self.state().clock.clone();
        let rules = &self.rules;
        self.step(name, &clock, |entry, _| {
            entry.end(rules, LossReason::Revoked, |held| (rules.revokes)(held, token))
        })
    }

    /// Ends whatever grant there is, as somebody with the store's own tools would.
    pub(crate) fn remove(&self, name: &LockName) {
        let clock = self.state().clock.clone();
        self.step(name, &clock, |entry, _| {
            entry.end(&self.rules, LossReason::Removed, |_| true);
        });
    }

    /// Loses all that it keeps of the name, the last token too.
    pub(crate) fn forget(&self, name: &LockName) {
        self.state().names.remove(&(self.rules.stored_as)(name.as_str()));
    }

    pub(crate) fn inspect(&self, name: &LockName) -> Inspection {
        let clock = self.state().clock.clone();
        self.step(name, &clock, |entry, now| entry.inspect(now))
    }

    pub(crate) fn list(
        &self,
        prefix: &str,
        after: Option<&LockName>,
        limit: usize,
    ) -> Vec<Inspection> {
        let names: Vec<_> = self.state().names.values().map(|entry| entry.name.clone()).collect();
        names
            .iter()
            .filter(|name| name.as_str().starts_with(prefix))
            .filter(|name| after.is_none_or(|after| *name > after))
            .map(|name| self.inspect(name))
            .filter(|seen| !seen.holders.is_empty() || seen.waiters != Some(0))
            .take(limit)
            .collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the store on `name`: time passes first, and a free name wakes its next waiter.
    fn step<T>(
        &self,
        name: &LockName,
        clock: &Clock,
        step: impl FnOnce(&mut Entry, Instant) -> T,
    ) -> T {
        let mut state = self.state();
        state.clock.clone_from(clock);
        let now = clock.now();
        let entry = state
            .names
            .entry((self.rules.stored_as)(name.as_str()))
            .or_insert_with(|| Entry::new(name.clone()));
        entry.queue.retain(|place| now < place.expires);
        entry.end(&self.rules, LossReason::Removed, |held| now >= held.expires);
        let answer = step(entry, now);
        if entry.held.is_none() {
            (self.rules.wakes)(&entry.queue);
        }
        answer
    }
}

impl Entry {
    fn new(name: LockName) -> Self {
        Self { name, last_token: 0, held: None, queue: Vec::new(), over: HashMap::new() }
    }

    fn remember(&mut self, rules: &Rules, request: &Request, ended: LossReason) {
        if (rules.remembers)(ended) {
            self.over.entry(request.id()).or_insert(ended);
        }
    }

    fn grant(&mut self, rules: &Rules, now: Instant, client: u64, request: &Request) -> Granted {
        self.last_token = (rules.next_token)(self.last_token);
        let token = FencingToken::new(self.last_token).expect("a store this small never runs out");
        let held = self.held.insert(Held {
            id: request.id(),
            client,
            token,
            expires: now.saturating_add((rules.granted_for)(request.ttl())),
            label: request.label().to_string(),
            since: now,
            ended: watch::Sender::new(None),
        });
        held.granted()
    }

    /// Keeps the request's place alive, at the end of the queue if it has none yet.
    fn stand(
        &mut self,
        rules: &Rules,
        now: Instant,
        place: Option<usize>,
        request: &Request,
    ) -> watch::Receiver<()> {
        let expires = now.saturating_add((rules.place_lasts)(request.ttl()));
        let place = place.unwrap_or_else(|| {
            self.queue.push(Place { id: request.id(), expires, wake: watch::Sender::new(()) });
            self.queue.len() - 1
        });
        self.queue[place].expires = expires;
        self.queue[place].wake.subscribe()
    }

    fn end(
        &mut self,
        rules: &Rules,
        reason: LossReason,
        meant: impl FnOnce(&Held) -> bool,
    ) -> bool {
        let Some(held) = self.held.take_if(|held| meant(held)) else { return false };
        held.ended.send_replace(Some(reason));
        if (rules.forgets)(reason) {
            self.last_token = 0;
        }
        true
    }

    fn free_at(&self) -> Option<Instant> {
        let holder = self.held.as_ref().map(|held| held.expires);
        holder.or_else(|| self.queue.first().map(|head| head.expires))
    }

    fn inspect(&self, now: Instant) -> Inspection {
        let holders = self.holder(now).into_iter().collect();
        Inspection::new(self.name.clone(), holders, Some(self.queue.len()))
    }

    fn holder(&self, now: Instant) -> Option<Holder> {
        let held = self.held.as_ref()?;
        let holder = Holder::new(&*held.label)
            .with_token(held.token)
            .with_age(now.saturating_since(held.since))
            .with_expires_in(held.expires.saturating_since(now));
        Some(holder)
    }
}

impl Held {
    fn renew(&mut self, rules: &Rules, now: Instant, ttl: Duration) {
        self.expires = now.saturating_add((rules.renewed_for)(ttl));
        self.token = (rules.renewed_token)(self.token);
    }

    fn granted(&self) -> Granted {
        Granted { token: self.token, ended: self.ended.subscribe() }
    }
}

impl Place {
    pub(crate) fn wake(&self) {
        self.wake.send_replace(());
    }
}
