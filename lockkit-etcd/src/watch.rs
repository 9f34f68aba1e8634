//! Deletions: one watch per provider over all its keys, opened at the first need.
//!
//! It is opened at "now" and stays, so it is always in step: a watch that is opened for each wait, or
//! at a past revision, falls behind once, into a loop of the server that runs every 100 ms. When its
//! stream ends, the next one begins at "now" too, and each caller that has a key in sight reads it once: what
//! was deleted between may have been compacted away, some servers without saying so
//! (<https://github.com/etcd-io/etcd/issues/19179>).

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{EventType, WatchFilterType, WatchOptions, WatchResponse, WatchStream};
use lockkit_core::kit::{Alive, Backoff, LONGEST_CALL, Service};
use lockkit_core::{Clock, Result};
use tokio::sync::Notify;

use crate::endpoints::Endpoints;
use crate::member_client::MemberClient;
use crate::protocol::Keys;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// After so long a silence a stream that a caller needs is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(2);
/// How long it has to answer: etcd does so from memory.
const PROBE: Duration = Duration::from_secs(1);
/// How many deletions are kept for answers that come after them.
const KEPT: usize = 1024;

/// The deletions below a prefix.
#[derive(Debug)]
pub(crate) struct Watch {
    keys: Keys,
    state: Mutex<State>,
    changed: Notify,
    /// The task that follows the stream.
    service: Service,
}

#[derive(Debug, Default)]
struct State {
    /// Every deletion after this revision is kept, or will be told; `None`: nothing is known.
    since: Option<i64>,
    kept: HashMap<Vec<u8>, i64>,
    order: VecDeque<(Vec<u8>, i64)>,
    sights: HashMap<Vec<u8>, Vec<Weak<Sight>>>,
    /// Whether there is a stream now.
    is_up: bool,
    /// Whether every member was tried in vain since there was one.
    is_away: bool,
}

/// One incarnation of a key, kept in sight.
#[derive(Debug)]
pub(crate) struct Sight {
    watch: Arc<Watch>,
    key: Vec<u8>,
    /// Its create revision: another incarnation of the same key is another one.
    created: i64,
    state: Mutex<KeyState>,
    changed: Notify,
}

/// What is known of a key in sight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyState {
    /// Nothing new.
    There,
    /// It was deleted.
    Gone,
    /// It may have been deleted unseen: it must be read.
    Unsure,
}

impl Watch {
    pub(crate) fn new(keys: Keys) -> Arc<Self> {
        let service = Service::default();
        Arc::new(Self { keys, state: Mutex::default(), changed: Notify::new(), service })
    }

    /// Keeps in sight the incarnation of `key` that `created` made and that was there at `known`.
    pub(crate) fn sight(self: &Arc<Self>, key: &[u8], created: i64, known: i64) -> Arc<Sight> {
        let mut state = self.state();
        let key_state = match state.kept.get(key) {
            Some(deleted) if *deleted > created => KeyState::Gone,
            _ if state.since.is_some_and(|since| since <= known) => KeyState::There,
            _ => KeyState::Unsure,
        };
        let sight = Arc::new(Sight {
            watch: Arc::clone(self),
            key: key.to_vec(),
            created,
            state: Mutex::new(key_state),
            changed: Notify::new(),
        });
        if key_state == KeyState::There {
            state.sights.entry(key.to_vec()).or_default().push(Arc::downgrade(&sight));
        }
        sight
    }

    /// Completes when what is read from now on can be kept in sight; never once closed.
    ///
    /// # Errors
    /// `NoRuntime`: called outside a tokio runtime.
    pub(crate) async fn up(self: &Arc<Self>, endpoints: &Arc<Endpoints>) -> Result<()> {
        loop {
            let changed = self.changed.notified();
            if self.state().since.is_some() {
                return Ok(());
            }
            self.run(endpoints)?;
            tokio::select! {
                () = changed => {}
                () = self.service.lapsed() => {}
            }
            // A runtime that ends refuses the task, and polls this one no more.
            tokio::task::yield_now().await;
        }
    }

    /// Whether deletions are told now; while they are not, a renewal reads.
    pub(crate) fn is_up(&self) -> bool {
        self.state().is_up
    }

    /// Completes while no member can be reached; level-triggered.
    pub(crate) async fn away(&self) {
        loop {
            let changed = self.changed.notified();
            if self.state().is_away {
                return;
            }
            changed.await;
        }
    }

    /// Follows the stream in the current runtime, unless a task that lives does so.
    ///
    /// # Errors
    /// `NoRuntime`: called outside a tokio runtime.
    pub(crate) fn run(self: &Arc<Self>, endpoints: &Arc<Endpoints>) -> Result<()> {
        self.service.ensure(|alive| {
            let follower = Follower { watch: Arc::downgrade(self), alive };
            follower.run(Arc::clone(endpoints))
        })
    }

    /// Ends the stream; nothing more is told.
    pub(crate) fn close(&self) {
        self.service.stop();
    }

    /// Follows one stream until it ends; whether there was one.
    async fn follow(&self, alive: &mut Alive, endpoints: &Endpoints) -> bool {
        self.forget();
        let open = |client: MemberClient| async move {
            let options = WatchOptions::new().with_prefix().with_filters([WatchFilterType::NoPut]);
            let stream =
                client.driver.watch_client().watch(self.keys.range(), Some(options)).await?;
            Ok((client, stream))
        };
        let (clock, member) = (Clock::system(), endpoints.current());
        let opened = endpoints.once(member, &clock, LONGEST_CALL, LONGEST_CALL, open).await;
        let Ok((client, mut stream)) = opened else { return false };
        let mut is_up = false;
        loop {
            let message = tokio::select! {
                message = self.next(&mut stream, &client, endpoints) => message,
                () = endpoints.given_up(&client) => None,
                () = alive.stopped() => return true,
            };
            match message {
                Some(message) if endpoints.compare(client.member, message.header()).is_err() => {
                    endpoints.drop_client(&client);
                    return is_up;
                }
                Some(message) if message.canceled() => {
                    // A login that has expired, which a stream does not renew and a new client does; or a
                    // right that was taken away, which a new login does not bring back.
                    if !endpoints.lacks_a_right(&client).await {
                        endpoints.drop_client(&client);
                    }
                    return is_up;
                }
                Some(message) => {
                    is_up = true;
                    self.take(&message);
                }
                None => return is_up,
            }
        }
    }

    /// The next message; `None` where the stream ends, or is silent when asked whether it lives.
    async fn next(
        &self,
        stream: &mut WatchStream,
        client: &MemberClient,
        endpoints: &Endpoints,
    ) -> Option<WatchResponse> {
        let unless_ended = |message| match message {
            Ok(Some(message)) => Some(message),
            _ => {
                endpoints.drop_client(client);
                None
            }
        };
        loop {
            if let Ok(message) = tokio::time::timeout(SILENCE, stream.message()).await {
                return unless_ended(message);
            }
            let state = self.state();
            if state.since.is_none() || !state.sights.is_empty() {
                break;
            }
        }
        let before = endpoints.progress(client.member);
        let asked = async {
            stream.request_progress().await?;
            stream.message().await
        };
        if let Ok(message) = tokio::time::timeout(PROBE, asked).await {
            return unless_ended(message);
        }
        endpoints.silent(client.member, before, true);
        None
    }

    fn take(&self, message: &WatchResponse) {
        if message.created() {
            let mut state = self.state();
            if state.since.is_none() {
                let now = message.header().map_or(0, etcd_client::ResponseHeader::revision);
                (state.since, state.is_up, state.is_away) = (Some(now), true, false);
                drop(state);
                self.changed.notify_waiters();
            }
        }
        for event in message.events() {
            if let (EventType::Delete, Some(kv)) = (event.event_type(), event.kv()) {
                let in_sight = self.state().deleted(kv.key(), kv.mod_revision());
                for sight in in_sight {
                    sight.deleted(kv.mod_revision());
                }
            }
        }
    }

    fn down(&self, is_away: bool) {
        let mut state = self.state();
        (state.is_up, state.is_away) = (false, state.is_away || is_away);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Forgets all deletions: each key in sight must be read.
    fn forget(&self) {
        let was = {
            let mut state = self.state();
            let is_away = state.is_away;
            std::mem::replace(&mut *state, State { is_away, ..State::default() })
        };
        for sight in was.sights.into_values().flatten().filter_map(|sight| sight.upgrade()) {
            sight.tell(KeyState::Unsure);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Notes a deletion. Returns the sights of that key, to be told once the state is unlocked.
    fn deleted(&mut self, key: &[u8], revision: i64) -> Vec<Arc<Sight>> {
        self.kept.insert(key.to_vec(), revision);
        self.order.push_back((key.to_vec(), revision));
        if self.order.len() > KEPT
            && let Some((oldest, at)) = self.order.pop_front()
        {
            if self.kept.get(&oldest) == Some(&at) {
                self.kept.remove(&oldest);
            }
            self.since = self.since.map(|since| since.max(at));
        }
        self.sights.get(key).into_iter().flatten().filter_map(Weak::upgrade).collect()
    }
}

impl Sight {
    /// Completes when it is no longer known to be there; level-triggered.
    pub(crate) async fn news(&self) -> KeyState {
        loop {
            let changed = self.changed.notified();
            let state = *self.state();
            if state != KeyState::There {
                return state;
            }
            changed.await;
        }
    }

    /// Only this incarnation counts: a later one's end is another's.
    fn deleted(&self, revision: i64) {
        if self.created < revision {
            self.tell(KeyState::Gone);
        }
    }

    fn tell(&self, news: KeyState) {
        *self.state() = news;
        self.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, KeyState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Sight {
    fn drop(&mut self) {
        let mut state = self.watch.state();
        if let Some(sights) = state.sights.get_mut(&self.key) {
            sights.retain(|sight| sight.strong_count() > 0);
            if sights.is_empty() {
                state.sights.remove(&self.key);
            }
        }
    }
}

/// The task that follows the stream, and opens the next one when it ends.
struct Follower {
    watch: Weak<Watch>,
    alive: Alive,
}

impl Follower {
    async fn run(mut self, endpoints: Arc<Endpoints>) {
        let (mut backoff, mut in_vain) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), 0);
        while let Some(watch) = self.watch.upgrade().filter(|_| !self.alive.is_stopped()) {
            if watch.follow(&mut self.alive, &endpoints).await {
                backoff.reset();
                in_vain = 0;
            } else {
                in_vain += 1;
            }
            watch.down(in_vain >= endpoints.count());
            drop(watch);
            tokio::select! {
                () = backoff.pause() => {}
                () = self.alive.stopped() => return,
            }
        }
    }
}

impl Drop for Follower {
    /// Before `alive` is dropped: the callers that have a key in sight open a stream in a runtime that
    /// lives, and what that one tells must stay.
    fn drop(&mut self) {
        if let Some(watch) = self.watch.upgrade() {
            watch.forget();
        }
    }
}
