//! A lease for each ttl, shared by the locks of one provider, and what keeps it alive.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use etcd_client::{Client, PutOptions, Txn, TxnOp};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lockkit_core::{Applied, Clock, Error, Instant, LossReason, Result, Term};
use tokio::sync::Notify;

use crate::endpoints::{Endpoints, LIMIT, call_limit};
use crate::failure::Failure;
use crate::protocol::{Keys, Own, revision_of, send};
use crate::seat::{Seat, Seats};

/// How long an unused session is kept for the next lock.
const IDLE: Duration = Duration::from_secs(60);
/// A driver that waits for an outage to end replays its request sooner than this.
const ORPHANED: Duration = Duration::from_secs(3);
/// How many keep-alives may be under way; each is a stream of its own, dropped once it is answered.
const AT_ONCE: usize = 4;

/// A lease that the locks of equal ttl live on.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) lease: i64,
    /// As granted.
    pub(crate) ttl: Duration,
    /// The session key: compared by whoever enters, touched by whoever withdraws in doubt.
    pub(crate) key: Vec<u8>,
    /// Its newest revision, as far as we know.
    revision: AtomicI64,
    clock: Clock,
    state: Mutex<State>,
    changed: Notify,
    wanted: Arc<Notify>,
    seats: Weak<Seats>,
}

#[derive(Debug)]
struct State {
    /// When the newest acknowledged keep-alive was sent, or the lease asked for.
    acked: Instant,
    /// A keep-alive sent from here on is wanted.
    wanted: Instant,
    failure: Option<String>,
    ended: bool,
    /// Whether a task keeps it alive.
    kept: bool,
    /// Copied by each user.
    users: Arc<()>,
}

/// A session in use: as long as one of these exists, it is kept alive.
#[derive(Clone, Debug)]
pub(crate) struct Use {
    session: Arc<Session>,
    _user: Arc<()>,
}

impl std::ops::Deref for Use {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Session {
    /// Asks for a lease, and puts the session key on it.
    pub(crate) async fn open(
        endpoints: &Arc<Endpoints>,
        keys: &Keys,
        seats: &Arc<Seats>,
        clock: &Clock,
        ttl: Duration,
    ) -> Result<Use> {
        let limit = call_limit(ttl);
        let end = clock.now().saturating_add(limit);
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let sent = Mutex::new(clock.now());
        let grant = |client: Client| {
            // Counted from the sending that is answered, not from one before it.
            *sent.lock().unwrap_or_else(PoisonError::into_inner) = clock.now();
            async move { client.lease_client().grant(seconds, None).await }
        };
        // One that is granted twice expires by itself: there is nothing on it.
        let nothing = |failure: Failure| failure.into_error(false);
        let granted = endpoints.call(clock, limit, grant).await.value.map_err(nothing)?;
        let acked = *sent.lock().unwrap_or_else(PoisonError::into_inner);
        let (lease, granted) = (granted.id(), u64::try_from(granted.ttl()).unwrap_or(0));
        let key = keys.session(lease);
        let put = |client: Client| {
            let put = TxnOp::put(&*key, "", Some(PutOptions::new().with_lease(lease)));
            async move { client.kv_client().txn(Txn::new().and_then([put])).await }
        };
        let left = end.saturating_since(clock.now());
        // Put twice, it refuses once who asks in between: they ask again.
        let put = endpoints.call(clock, left, put).await.value.map_err(nothing)?;
        let revision = revision_of(&put)?;
        let state = State {
            acked,
            wanted: acked,
            failure: None,
            ended: false,
            kept: false,
            users: Arc::default(),
        };
        let session = Arc::new(Self {
            lease,
            ttl: Duration::from_secs(granted),
            key,
            revision: AtomicI64::new(revision),
            clock: clock.clone(),
            state: Mutex::new(state),
            changed: Notify::new(),
            wanted: Arc::default(),
            seats: Arc::downgrade(seats),
        });
        session.keep(endpoints);
        let open = session.join();
        open.ok_or_else(|| Error::unavailable(Applied::No, "the session's lease has ended"))
    }

    /// Uses it; `None` where it has ended.
    pub(crate) fn join(self: &Arc<Self>) -> Option<Use> {
        let state = self.state();
        (!state.ended).then(|| Use { session: Arc::clone(self), _user: Arc::clone(&state.users) })
    }

    /// The newest revision of the session key that we know.
    pub(crate) fn revision(&self) -> i64 {
        self.revision.load(Ordering::SeqCst)
    }

    /// The session key has this revision now.
    pub(crate) fn touched(&self, revision: i64) {
        self.revision.fetch_max(revision, Ordering::SeqCst);
    }

    /// The store no longer has the lease.
    pub(crate) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_waiters();
        self.wanted.notify_one();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Completes when the lease has ended; level-triggered.
    pub(crate) async fn ended(&self) {
        loop {
            let changed = self.changed.notified();
            if self.has_ended() {
                return;
            }
            changed.await;
        }
    }

    /// From when, and for how long, the lease is granted, on the clock of a request.
    pub(crate) fn term(&self, clock: &Clock) -> Term {
        self.term_from(clock, self.state().acked)
    }

    /// On another clock an instant is as long ago as on ours, or longer.
    fn term_from(&self, clock: &Clock, acked: Instant) -> Term {
        let now = clock.now();
        let ago = self.clock.now().saturating_since(acked);
        Term { sent: now.saturating_sub(ago), ttl: Some(self.ttl) }
    }

    /// The term of a keep-alive that was sent at most `age` ago, or is now.
    pub(crate) async fn renewed(
        self: &Arc<Self>,
        endpoints: &Arc<Endpoints>,
        clock: &Clock,
        age: Duration,
        limit: Duration,
    ) -> Result<Term> {
        let since = {
            let now = self.clock.now();
            let since = now.saturating_sub(age);
            let mut state = self.state();
            if state.acked < since {
                state.wanted = state.wanted.max(since);
            }
            since
        };
        self.keep(endpoints);
        self.wanted.notify_one();
        let acked = async {
            loop {
                let changed = self.changed.notified();
                {
                    let state = self.state();
                    if state.ended {
                        return Err(Error::lost(LossReason::SessionEnded));
                    }
                    if state.acked >= since {
                        return Ok(state.acked);
                    }
                }
                changed.await;
            }
        };
        tokio::select! {
            biased;
            acked = acked => acked.map(|acked| self.term_from(clock, acked)),
            () = clock.sleep(limit) => {
                let why = self.state().failure.clone();
                let why = why.unwrap_or_else(|| format!("etcd gave no answer within {limit:?}"));
                Err(Error::unavailable(Applied::Maybe, why))
            }
        }
    }

    /// Has the store end the lease, and with it all that lives on it.
    pub(crate) async fn revoke(&self, endpoints: &Endpoints) -> Result<()> {
        self.end();
        let lease = self.lease;
        let revoke = |client: Client| async move { client.lease_client().revoke(lease).await };
        match endpoints.call(&self.clock, LIMIT, revoke).await.value {
            Ok(_) | Err(Failure::NoLease) => Ok(()),
            Err(failure) => Err(failure.into_error(true)),
        }
    }

    /// Removes what a request has in the store, and has refused what may still come of it.
    pub(crate) async fn clear(
        &self,
        endpoints: &Endpoints,
        clock: &Clock,
        limit: Duration,
        seat: &Seat,
        key: &[u8],
    ) -> Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        let own = Own { key, lease: self.lease, session: &self.key };
        let touch = seat.may_arrive();
        let answer = endpoints.call(clock, limit, send(&own.withdraw(touch))).await;
        match answer.value {
            Ok(answer) if touch => {
                self.touched(revision_of(&answer)?);
                seat.settled();
            }
            Ok(_) => {}
            // The key was on that lease.
            Err(Failure::NoLease) => self.end(),
            Err(failure) => return Err(failure.into_error(true)),
        }
        Ok(())
    }

    /// Keeps the lease alive in the current runtime, unless a task that lives does so.
    pub(crate) fn keep(self: &Arc<Self>, endpoints: &Arc<Endpoints>) {
        {
            let mut state = self.state();
            if state.kept || state.ended {
                return;
            }
            state.kept = true;
        }
        let kept = Kept(Arc::downgrade(self));
        let keeper = Keeper::new(self, endpoints);
        #[allow(clippy::disallowed_methods)] // it waits for the server: no lock lives in it
        tokio::spawn(async move {
            let _kept = kept;
            keeper.run().await;
        });
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // Its keeper ends.
        self.wanted.notify_one();
    }
}

/// Says that the keeper lives, until its runtime drops it.
struct Kept(Weak<Session>);

impl Drop for Kept {
    fn drop(&mut self) {
        if let Some(session) = self.0.upgrade() {
            session.state().kept = false;
        }
    }
}

/// The task that sends keep-alives: each on a stream of its own, none waits for another.
struct Keeper {
    session: Weak<Session>,
    endpoints: Arc<Endpoints>,
    clock: Clock,
    wanted: Arc<Notify>,
    lease: i64,
    ttl: Duration,
    /// The newest keep-alive under way, and where it was sent.
    newest: Option<(Instant, usize)>,
    /// Nothing is sent before, after a failure.
    rests_until: Instant,
    unused_since: Option<Instant>,
}

/// What a keeper does next.
enum Step {
    Send,
    Wait(Instant),
    /// Nobody needs the session any more.
    LetGo(Arc<Session>),
    End,
}

impl Keeper {
    fn new(session: &Arc<Session>, endpoints: &Arc<Endpoints>) -> Self {
        Self {
            session: Arc::downgrade(session),
            endpoints: Arc::clone(endpoints),
            clock: session.clock.clone(),
            wanted: Arc::clone(&session.wanted),
            lease: session.lease,
            ttl: session.ttl,
            newest: None,
            rests_until: session.clock.now(),
            unused_since: None,
        }
    }

    async fn run(mut self) {
        let mut under_way = FuturesUnordered::new();
        let mut cleaning = FuturesUnordered::new();
        loop {
            let until = match self.step(under_way.len()) {
                Step::Send => {
                    under_way.push(self.send());
                    continue;
                }
                Step::Wait(until) => until,
                Step::LetGo(session) => {
                    // What a crash would leave too, it only ends sooner.
                    drop(session.revoke(&self.endpoints).await);
                    return;
                }
                Step::End => return,
            };
            tokio::select! {
                Some((sent, outcome)) = under_way.next(), if !under_way.is_empty() => {
                    if self.ended(sent, outcome) {
                        under_way.clear();
                        if cleaning.is_empty() {
                            cleaning.extend(self.orphans());
                        }
                    }
                }
                Some(()) = cleaning.next(), if !cleaning.is_empty() => {}
                () = self.wanted.notified() => {}
                () = self.clock.sleep_until(until) => {}
            }
            if under_way.is_empty() {
                self.newest = None;
            }
        }
    }

    fn step(&mut self, under_way: usize) -> Step {
        let Some(session) = self.session.upgrade() else { return Step::End };
        let now = self.clock.now();
        let mut state = session.state();
        if state.ended {
            return Step::End;
        }
        if Arc::strong_count(&state.users) > 1 {
            self.unused_since = None;
        } else if now.saturating_since(*self.unused_since.get_or_insert(now)) >= IDLE {
            state.ended = true;
            drop(state);
            return Step::LetGo(session);
        }
        let is_wanted = state.acked < state.wanted;
        let due = match self.newest {
            // Slow is not lost: the next one goes to another member, the older ones stay.
            Some((sent, _)) if !is_wanted || sent >= state.wanted => {
                sent.saturating_add(self.patience())
            }
            _ if is_wanted => now,
            _ => state.acked.saturating_add(self.ttl / 3),
        };
        let due = due.max(self.rests_until);
        if under_way >= AT_ONCE || due > now {
            return Step::Wait(if due > now { due } else { now.saturating_add(self.patience()) });
        }
        Step::Send
    }

    /// How long a keep-alive has before the next one is sent beside it.
    fn patience(&self) -> Duration {
        (self.ttl / 6).max(Duration::from_millis(250))
    }

    fn send(&mut self) -> impl Future<Output = (Instant, Result<(), Failure>)> + Send + use<> {
        if let Some((_, member)) = self.newest {
            // It stands still, or we cannot hear it.
            self.endpoints.leave(member);
        }
        let sent = self.clock.now();
        self.newest = Some((sent, self.endpoints.current()));
        let (endpoints, clock, lease) =
            (Arc::clone(&self.endpoints), self.clock.clone(), self.lease);
        let limit = self.ttl * 2 / 3;
        async move {
            let keep = |client: Client| async move {
                client.lease_client().keep_alive(lease).await.map(drop)
            };
            (sent, endpoints.once(&clock, limit, keep).await)
        }
    }

    /// What is left of requests whose drivers ended without a word would live as long as the lease.
    fn orphans(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let Some(session) = self.session.upgrade() else { return Vec::new() };
        let Some(seats) = session.seats.upgrade() else { return Vec::new() };
        let orphans = seats.orphans(self.lease, self.ttl.max(ORPHANED)).into_iter();
        let clear = |seat: Arc<Seat>| {
            let (session, seats) = (Arc::clone(&session), Arc::clone(&seats));
            let (endpoints, clock) = (Arc::clone(&self.endpoints), self.clock.clone());
            async move {
                let Some((_, key)) = seat.place() else { return };
                let limit = call_limit(session.ttl);
                if session.clear(&endpoints, &clock, limit, &seat, &key).await.is_ok() {
                    seats.is_clear(&seat);
                }
            }
        };
        orphans.map(clear).collect()
    }

    /// Takes in how a keep-alive ended; whether the others are of no more use.
    fn ended(&mut self, sent: Instant, outcome: Result<(), Failure>) -> bool {
        let Some(session) = self.session.upgrade() else { return true };
        match outcome {
            Ok(()) => {
                let mut state = session.state();
                state.acked = state.acked.max(sent);
                state.failure = None;
                drop(state);
                session.changed.notify_waiters();
                true
            }
            Err(Failure::NoLease) => {
                session.end();
                true
            }
            Err(failure) => {
                let pause =
                    (self.ttl / 24).clamp(Duration::from_millis(20), Duration::from_millis(500));
                self.rests_until = self.clock.now().saturating_add(pause);
                session.state().failure = Some(failure.text());
                false
            }
        }
    }
}
