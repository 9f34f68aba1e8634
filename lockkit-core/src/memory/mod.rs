//! The memory provider: the reference for backends, and what users test their own code with.

mod provider;
pub(crate) mod store;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use crate::{
    Applied, Clock, Error, FencingToken, Instant, Kind, LockName, LossReason, Request, RequestId,
    Result,
};
use store::{Asker, Granted, Message, Notice, Reply, Store};

/// A store in the memory of this process: fair, push-woken, with a ttl on the request's clock.
///
/// Clones share one store. Its hooks make a lock fail the way real stores do, so that code that
/// uses locks can be tested against it: [`expire`](Self::expire) a name,
/// [`hold`](Self::hold) one as another client, an [`outage`](Self::outage).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> lockkit_core::Result<()> {
/// use lockkit_core::{Locks, Memory};
///
/// let store = Memory::new();
/// let locks = Locks::new(store.clone());
/// let guard = locks.lock("billing/nightly").acquire().await?;
///
/// store.expire("billing/nightly");
/// guard.lost().await;
/// assert!(!guard.is_held());
/// # Ok(()) }
/// ```
#[derive(Clone, Debug)]
pub struct Memory(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    state: Mutex<State>,
    token_base: u64,
}

#[derive(Debug)]
struct State {
    store: Store,
    /// Where the notices for waiting requests and held leases go.
    slots: HashMap<RequestId, Slot>,
    /// The clock of the newest request: hooks have none of their own.
    clock: Clock,
    outage: Option<Instant>,
    /// Wakes observers: a name was granted.
    granted: Arc<Notify>,
}

/// What one request is told, once.
#[derive(Debug, Default)]
struct Slot {
    news: News,
    /// How many calls and leases of the request there are.
    parties: usize,
    /// Made by the first that waits for news.
    changed: Option<Arc<Notify>>,
}

#[derive(Clone, Copy, Debug, Default)]
enum News {
    #[default]
    None,
    Granted(Granted),
    /// The grant with this token has ended; withdrawn without one, a request has none.
    Ended(Option<FencingToken>, LossReason),
}

impl Memory {
    /// A new, empty store.
    pub fn new() -> Self {
        Self::with_token_base(0)
    }

    /// A new, empty store whose tokens start above `token_base`.
    ///
    /// Tokens of two stores do not compare; a base above the last token of the old store keeps
    /// their order across a move.
    pub fn with_token_base(token_base: u64) -> Self {
        let state = State {
            store: Store::new(token_base),
            slots: HashMap::new(),
            clock: Clock::system(),
            outage: None,
            granted: Arc::default(),
        };
        Self(Arc::new(Inner { state: Mutex::new(state), token_base }))
    }

    /// The store of this name, shared by all of this process, for its whole life.
    ///
    /// # Errors
    /// `Invalid`: it exists with another `token_base`.
    pub fn shared(name: &str, token_base: u64) -> Result<Self> {
        static SHARED: Mutex<Option<HashMap<String, Memory>>> = Mutex::new(None);
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let store = shared
            .get_or_insert_default()
            .entry(name.to_owned())
            .or_insert_with(|| Self::with_token_base(token_base));
        if store.0.token_base != token_base {
            return Err(Error::invalid(
                format!("token_base {token_base} for the memory store {name:?}"),
                format!("it was opened with {}: use that, or another name", store.0.token_base),
            ));
        }
        Ok(store.clone())
    }

    /// Ends whatever grant `name` has, as if its ttl had passed; its token, if there was a grant.
    pub fn expire(&self, name: &str) -> Option<FencingToken> {
        let name = LockName::new(name).ok()?;
        match self.0.hook(&name, Message::Expire) {
            Reply::Ended(token) => Some(token),
            _ => None,
        }
    }

    /// Takes a free name as another client called `label`, until the answer is dropped.
    ///
    /// # Errors
    /// `TimedOut`: it is held. `Invalid`: it is not a name.
    pub fn hold(&self, name: &str, label: &str) -> Result<HeldElsewhere> {
        let name = LockName::new(name)?;
        let id = RequestId::random()?;
        let (label, kind) = (label.into(), Kind::Exclusive);
        let asker = Asker { id, label, ttl: None, kind, permits: None, floor: None };
        match self.0.hook(&name, Message::TryAcquire(asker)) {
            Reply::Granted(granted) => {
                let clock = self.0.state().clock.clone();
                let mut entry = Presence::new(&self.0, name, id, clock);
                entry.token = Some(granted.token);
                Ok(HeldElsewhere { token: granted.token, _entry: entry })
            }
            Reply::Held(holder) => Err(Error::timed_out(Some(holder))),
            _ => Err(exhausted()),
        }
    }

    /// Answers every call with `Unavailable` for `lasting` from now; what is held stays held.
    pub fn outage(&self, lasting: Duration) {
        let mut state = self.0.state();
        state.outage = Some(state.clock.now().saturating_add(lasting));
        state.wake_all();
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

/// A name that [`Memory::hold`] took; dropping it gives the name back.
#[derive(Debug)]
#[must_use = "dropping it gives the name back at once"]
pub struct HeldElsewhere {
    token: FencingToken,
    _entry: Presence,
}

impl HeldElsewhere {
    /// The token of this grant.
    pub const fn token(&self) -> FencingToken {
        self.token
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One step of the store, its notices delivered; refused during an outage.
    fn ask(&self, request: &Request, message: Message) -> Result<Reply> {
        let mut state = self.state();
        state.clock.clone_from(request.clock());
        let now = request.clock().now();
        state.check_outage(now)?;
        let reply = state.step(now, request.name(), message);
        if let Some(slot) = state.slots.get_mut(&request.id()) {
            match (&reply, slot.news) {
                // Every replay of this request has its grant too.
                (Reply::Granted(granted), _) => slot.news = News::Granted(*granted),
                // What became of an earlier grant of this request is no news any more.
                (Reply::Held(_), News::Ended(..)) => slot.news = News::None,
                _ => {}
            }
            slot.wake();
        }
        Ok(reply)
    }

    /// One step of the store by an operator or a dropped handle, on the clock last seen.
    fn hook(&self, name: &LockName, message: Message) -> Reply {
        let mut state = self.state();
        let now = state.clock.now();
        state.step(now, name, message)
    }
}

impl State {
    fn step(&mut self, now: Instant, name: &LockName, message: Message) -> Reply {
        let (reply, notices) = self.store.step(now, name, message);
        let mut is_granted = matches!(reply, Reply::Granted(_));
        for notice in notices {
            let (id, news) = match notice {
                Notice::Granted(id, granted) => {
                    is_granted = true;
                    (id, News::Granted(granted))
                }
                Notice::Ended(id, token, reason) => (id, News::Ended(Some(token), reason)),
            };
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.news = news;
                slot.wake();
            }
        }
        if is_granted {
            self.granted.notify_waiters();
        }
        reply
    }

    fn wake_all(&self) {
        self.slots.values().for_each(Slot::wake);
    }

    fn news(&self, id: RequestId) -> News {
        self.slots.get(&id).map(|slot| slot.news).unwrap_or_default()
    }

    /// The end of the outage that lasts at `now`.
    fn outage_at(&self, now: Instant) -> Option<Instant> {
        self.outage.filter(|end| now < *end)
    }

    fn check_outage(&self, now: Instant) -> Result<()> {
        match self.outage_at(now) {
            Some(_) => Err(Error::unavailable(Applied::No, "the memory store has an outage")),
            None => Ok(()),
        }
    }
}

impl Slot {
    fn wake(&self) {
        if let Some(changed) = &self.changed {
            changed.notify_waiters();
        }
    }
}

/// One request's trace in the store; dropping the last one removes the trace, since nothing else would.
#[derive(Debug)]
struct Presence {
    store: Arc<Inner>,
    name: LockName,
    id: RequestId,
    clock: Clock,
    /// Once granted, of this grant.
    token: Option<FencingToken>,
}

impl Presence {
    fn new(store: &Arc<Inner>, name: LockName, id: RequestId, clock: Clock) -> Self {
        store.state().slots.entry(id).or_default().parties += 1;
        Self { store: Arc::clone(store), name, id, clock, token: None }
    }

    fn news(&self) -> News {
        self.store.state().news(self.id)
    }

    /// What tells of news.
    fn changed(&self) -> Arc<Notify> {
        let mut state = self.store.state();
        Arc::clone(state.slots.entry(self.id).or_default().changed.get_or_insert_default())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        let mut state = self.store.state();
        let parties = state.slots.get_mut(&self.id).map_or(0, |slot| {
            slot.parties -= 1;
            slot.parties
        });
        // Another call of the request waits, or it has another lease.
        if parties > 0 {
            return;
        }
        // Told that its own grant has ended, the request has left nothing else.
        let last = state.slots.remove(&self.id).map(|slot| slot.news).unwrap_or_default();
        if matches!((last, self.token), (News::Ended(Some(ended), _), Some(token)) if ended == token)
        {
            return;
        }
        let now = self.clock.now();
        if let Some(token) = self.token {
            state.step(now, &self.name, Message::End(token, LossReason::Released));
        }
        // A replay may have got another grant since, and was dropped before.
        state.step(now, &self.name, Message::Withdraw(self.id));
    }
}

fn exhausted() -> Error {
    Error::rejected(
        "one more grant: the tokens of this name are used up",
        "lower token_base, or use another name",
    )
}
