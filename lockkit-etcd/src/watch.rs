//! One stream per provider: a watch of each name that is waited for, which keeps a replica of its queue in step, and
//! one of the key of each hold that lasts, which tells its holder. The first one of all, of the cluster's mark, keeps
//! the stream open.
//!
//! All are opened at "now", so they are always in step: a watch that is opened at a past revision falls behind once,
//! into a loop of the server that runs every 100 ms. When the stream ends, the next one begins at "now" too, and each
//! holder that has a key in sight, and one waiter of each name, reads once: what was deleted between may have been
//! compacted away, some servers without saying so (<https://github.com/etcd-io/etcd/issues/19179>).

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{
    WatchFilterType, WatchOptions, WatchRequestSender, WatchResponse, WatchResponseStream,
};
use lockkit_core::kit::{Alive, Backoff, LONGEST_CALL, Service};
use lockkit_core::{Clock, Error, LockName, Result};
use tokio::sync::Notify;

use crate::endpoints::Endpoints;
use crate::member_client::MemberClient;
use crate::protocol::Keys;
use crate::replica::Replica;
use crate::sight::Sight;
#[cfg(test)]
use crate::sight::View;

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
/// After so long a silence a stream that a caller needs is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(2);
/// How long it has to answer: etcd does so from memory.
const PROBE: Duration = Duration::from_secs(1);
/// The number of the watch of the mark, the first one of its stream.
const FIRST: i64 = 0;
/// How long at least a name is watched after its last waiter: the next one finds the replica in step. The watch of a
/// hold ends as long after it at most.
const LINGER: Duration = Duration::from_secs(5);

/// The stream, and what it has told.
#[derive(Debug)]
pub(crate) struct Watch {
    keys: Keys,
    state: Mutex<State>,
    changed: Notify,
    /// A replica or a sight is to be opened.
    asked: Notify,
    /// The stream is to be asked whether it lives.
    doubted: Notify,
    /// The task that follows the stream.
    service: Service,
}

#[derive(Debug, Default)]
struct State {
    /// Of the names that are waited for, or were of late.
    replicas: HashMap<LockName, Arc<Replica>>,
    /// Of the holds that last, those that are not watched yet.
    sights: Vec<Weak<Sight>>,
    /// What is watched, by the number of the watch on this stream.
    watched: HashMap<i64, Watched>,
    /// Those that no caller wants any more, until etcd says that they have ended.
    ended: HashSet<i64>,
    /// Whether there is a stream now.
    is_up: bool,
    /// Whether every member was tried in vain since there was one.
    is_away: bool,
}

#[derive(Clone, Debug)]
enum Watched {
    Queue(LockName, Arc<Replica>),
    Key(Weak<Sight>),
}

impl Watch {
    pub(crate) fn new(keys: Keys) -> Arc<Self> {
        let [changed, asked, doubted] = [Notify::new(), Notify::new(), Notify::new()];
        let (state, service) = (Mutex::default(), Service::default());
        Arc::new(Self { keys, state, changed, asked, doubted, service })
    }

    /// The replica of this name's queue, which is kept in step from now on.
    pub(crate) fn replica(&self, name: &LockName) -> Arc<Replica> {
        let mut state = self.state();
        let made = || {
            self.asked.notify_one();
            Arc::new(Replica::new(self.keys.directory(name)))
        };
        Arc::clone(state.replicas.entry(name.clone()).or_insert_with(made))
    }

    /// Keeps in sight the incarnation of this key that `created` made.
    pub(crate) fn sight(&self, key: &[u8], created: i64) -> Arc<Sight> {
        let sight = Arc::new(Sight::new(key, created));
        self.state().sights.push(Arc::downgrade(&sight));
        self.asked.notify_one();
        sight
    }

    /// Has the stream followed; completes with the error of a caller outside a tokio runtime.
    pub(crate) async fn serve(self: &Arc<Self>, endpoints: &Arc<Endpoints>) -> Error {
        loop {
            if let Err(error) = self.run(endpoints) {
                return error;
            }
            self.service.lapsed().await;
            // A runtime that ends refuses the task, and polls this one no more.
            tokio::task::yield_now().await;
        }
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
            let stream = client.driver.watch_client().watch(self.keys.mark(), None).await?;
            Ok((client, stream))
        };
        let (clock, member) = (Clock::system(), endpoints.current());
        let opened = endpoints.once(member, &clock, LONGEST_CALL, LONGEST_CALL, open).await;
        let Ok((client, stream)) = opened else { return false };
        let (sender, mut stream) = stream.split();
        let asking = self.ask(sender);
        tokio::pin!(asking);
        let mut is_up = false;
        loop {
            let message = tokio::select! {
                message = self.next(&mut stream, &client, endpoints) => message,
                () = &mut asking => None,
                () = endpoints.given_up(&client) => None,
                () = alive.stopped() => return true,
            };
            match message {
                Some(message) if endpoints.compare(client.member, message.header()).is_err() => {
                    endpoints.drop_client(&client);
                    return is_up;
                }
                Some(message) if message.canceled() && !self.has_ended(message.watch_id()) => {
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

    /// Asks the stream for what callers want of it; ends where it has ended.
    async fn ask(&self, mut sender: WatchRequestSender) {
        let mut newest = FIRST;
        let mut look_around = tokio::time::interval(LINGER);
        loop {
            for (watch, watched) in self.unwatched(&mut newest) {
                let options = WatchOptions::new().with_watch_id(watch);
                let (key, options) = match watched {
                    Watched::Queue(_, replica) => {
                        (replica.at.range().as_bytes().to_vec(), options.with_prefix())
                    }
                    Watched::Key(sight) => {
                        let Some(sight) = sight.upgrade() else { continue };
                        (sight.key.clone(), options.with_filters([WatchFilterType::NoPut]))
                    }
                };
                if sender.watch(key, Some(options)).await.is_err() {
                    return;
                }
            }
            let asked = tokio::select! {
                () = self.asked.notified() => Ok(()),
                () = self.doubted.notified() => sender.request_progress().await,
                _ = look_around.tick() => {
                    let mut outcome = Ok(());
                    for watch in self.unused() {
                        outcome = outcome.and(sender.cancel(watch).await);
                    }
                    outcome
                }
            };
            if asked.is_err() {
                return;
            }
        }
    }

    /// What no watch was asked for on this stream, by the number that its watch gets; it counts as asked for.
    fn unwatched(&self, newest: &mut i64) -> Vec<(i64, Watched)> {
        let mut state = self.state();
        let sights = std::mem::take(&mut state.sights).into_iter().map(Watched::Key);
        let closed = state.replicas.iter().filter(|(_, replica)| replica.asks());
        let queue = |(name, it): (&LockName, &Arc<_>)| Watched::Queue(name.clone(), Arc::clone(it));
        let number = |watched: Watched| {
            *newest += 1;
            (*newest, watched)
        };
        let unwatched: Vec<_> = sights.chain(closed.map(queue)).map(number).collect();
        state.watched.extend(unwatched.iter().cloned());
        unwatched
    }

    /// The watches of holds that have ended, and of names that had no waiter since this was last asked, which are
    /// forgotten.
    fn unused(&self) -> Vec<i64> {
        let mut state = self.state();
        let State { replicas, watched, ended, .. } = &mut *state;
        let is_over = |watched: &Watched| match watched {
            // Held by the two maps; a waiter gets its copy while this is locked.
            Watched::Queue(_, replica) => replica.is_unused(Arc::strong_count(replica) > 2),
            Watched::Key(sight) => sight.strong_count() == 0,
        };
        let over = watched.iter().filter(|(_, watched)| is_over(watched));
        let over: Vec<i64> = over.map(|(watch, _)| *watch).collect();
        for watch in &over {
            if let Some(Watched::Queue(name, _)) = watched.remove(watch) {
                replicas.remove(&name);
            }
            ended.insert(*watch);
        }
        over
    }

    /// Whether this watch was ended because no caller wants it any more.
    fn has_ended(&self, watch: i64) -> bool {
        self.state().ended.remove(&watch)
    }

    /// The next message; `None` where the stream ends, or is silent when asked whether it lives.
    async fn next(
        &self,
        stream: &mut WatchResponseStream,
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
            if !state.is_up || !state.watched.is_empty() {
                break;
            }
        }
        let before = endpoints.progress(client.member);
        self.doubted.notify_one();
        if let Ok(message) = tokio::time::timeout(PROBE, stream.message()).await {
            return unless_ended(message);
        }
        endpoints.silent(client.member, before, true);
        None
    }

    fn take(&self, message: &WatchResponse) {
        let watched = {
            let mut state = self.state();
            if message.watch_id() == FIRST {
                (state.is_up, state.is_away) = (true, false);
            }
            state.watched.get(&message.watch_id()).cloned()
        };
        match watched {
            Some(Watched::Queue(_, replica)) => {
                if message.created() {
                    replica.stands();
                }
                replica.tell(message.events());
            }
            Some(Watched::Key(sight)) => {
                let Some(sight) = sight.upgrade() else { return };
                if message.created() {
                    sight.stands();
                }
                let deleted = message.events().iter().filter_map(etcd_client::Event::kv);
                deleted.for_each(|kv| sight.deleted(kv.mod_revision()));
            }
            None => {}
        }
    }

    fn down(&self, is_away: bool) {
        let mut state = self.state();
        (state.is_up, state.is_away) = (false, state.is_away || is_away);
        drop(state);
        self.changed.notify_waiters();
    }

    /// Forgets all that was told: each key in sight, and each queue that is waited in, must be read.
    fn forget(&self) {
        let mut state = self.state();
        state.ended.clear();
        state.is_up = false;
        for watched in std::mem::take(&mut state.watched).into_values() {
            if let Watched::Key(sight) = watched {
                sight.upgrade().inspect(|sight| sight.close());
                state.sights.push(sight);
            }
        }
        state.sights.retain(|sight| sight.strong_count() > 0);
        // A waiter gets its copy while this is locked.
        state.replicas.retain(|_, replica| Arc::strong_count(replica) > 1);
        state.replicas.values().for_each(|replica| replica.close());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
impl Watch {
    /// Whether a key in sight is still to be read.
    pub(crate) fn has_an_unread_key(&self) -> bool {
        let is_unread = |watched: &Watched| match watched {
            Watched::Key(sight) => {
                sight.upgrade().is_some_and(|sight| matches!(sight.view(), View::Unread { .. }))
            }
            Watched::Queue(..) => false,
        };
        self.state().watched.values().any(is_unread)
    }
}
