//! The task that keeps a session's lease alive, and sweeps what requests without a driver have left.

use std::future::Future;
use std::result::Result as StdResult;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lockkit_core::kit::{Alive, within};
use lockkit_core::{Applied, Clock, Error, Instant, LossReason, Result, Term};
use tokio::sync::Notify;

use crate::endpoints::Endpoints;
use crate::error::Failure;
use crate::member_client::MemberClient;
use crate::requests::{Orphan, Requests, orphans};
use crate::session::Session;

/// How long an unused session is kept for the next lock.
const IDLE: Duration = Duration::from_secs(60);
/// A driver that waits for an outage to end replays its request sooner than this.
const ORPHANED: Duration = Duration::from_secs(3);
/// How many keep-alives may be under way for each member; each is a stream of its own, dropped once
/// one is answered.
const AT_ONCE: usize = 4;
/// Between two attempts to end a lease that a backup has brought back.
const REST: Duration = Duration::from_millis(100);

/// What the keepers of a client's sessions work with.
#[derive(Debug)]
pub(crate) struct Keepers {
    endpoints: Arc<Endpoints>,
    /// Weak, because the requests hold sessions.
    requests: Weak<Requests>,
}

impl Keepers {
    pub(crate) fn new(endpoints: &Arc<Endpoints>, requests: &Arc<Requests>) -> Self {
        Self { endpoints: Arc::clone(endpoints), requests: Arc::downgrade(requests) }
    }
}

impl Session {
    /// Keeps the lease alive in the current runtime, unless a task that lives does so.
    ///
    /// # Errors
    /// `NoRuntime`: called outside a tokio runtime.
    pub(crate) fn keep(self: &Arc<Self>, keepers: &Keepers) -> Result<()> {
        if self.state().ended {
            return Ok(());
        }
        self.keeper.ensure(|alive| Keeper::new(self, keepers, alive).run())
    }

    /// Keeps the lease alive, and completes when it has ended; level-triggered.
    pub(crate) async fn ended(self: &Arc<Self>, keepers: &Keepers) {
        if self.until(keepers, || self.has_ended().then_some(())).await.is_err() {
            // Outside a runtime no task can tell.
            std::future::pending::<()>().await;
        }
    }

    /// Keeps the lease alive, and completes with what `pick` finds, now or after the next changes. Once
    /// the session has ended, `pick` must find something.
    ///
    /// # Errors
    /// `NoRuntime`: called outside a tokio runtime.
    async fn until<R>(
        self: &Arc<Self>,
        keepers: &Keepers,
        pick: impl Fn() -> Option<R>,
    ) -> Result<R> {
        loop {
            // Made before the check, so that no change between the two is missed.
            let changed = self.changed.notified();
            if let Some(found) = pick() {
                return Ok(found);
            }
            self.keep(keepers)?;
            tokio::select! {
                () = changed => {}
                () = self.keeper.lapsed() => {}
            }
            // A runtime that ends refuses the task, and polls this one no more.
            tokio::task::yield_now().await;
        }
    }

    /// The term of a keep-alive that was sent at most `age` ago, or is now.
    pub(crate) async fn renewed(
        self: &Arc<Self>,
        keepers: &Keepers,
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
        self.wanted.notify_one();
        let acked = self.until(keepers, || {
            let state = self.state();
            if state.ended || self.is_past() {
                return Some(Err(Error::lost(LossReason::SessionEnded)));
            }
            (state.acked >= since).then(|| Ok(self.term_from(clock, state.acked)))
        });
        match within(clock, limit, acked).await {
            Some(term) => term?,
            None => {
                let why = self.state().failure.clone();
                let silence =
                    || format!("{} gave no answer within {limit:.1?}", keepers.endpoints.names());
                let why = why.unwrap_or_else(silence);
                Err(Error::unavailable(Applied::Maybe, why))
            }
        }
    }
}

/// The task that sends keep-alives: each on a stream of its own, none waits for another.
struct Keeper {
    session: Weak<Session>,
    alive: Alive,
    endpoints: Arc<Endpoints>,
    requests: Weak<Requests>,
    clock: Clock,
    wanted: Arc<Notify>,
    lease: i64,
    age: u64,
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
    /// No request needs the session any more, or it is of a history that is over.
    LetGo(Arc<Session>),
    End,
}

impl Keeper {
    fn new(session: &Arc<Session>, keepers: &Keepers, alive: Alive) -> Self {
        Self {
            session: Arc::downgrade(session),
            alive,
            endpoints: Arc::clone(&keepers.endpoints),
            requests: Weak::clone(&keepers.requests),
            clock: session.clock.clone(),
            wanted: Arc::clone(&session.wanted),
            lease: session.lease,
            age: session.age,
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
                Step::LetGo(session) => return self.let_go(&session).await,
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
                () = self.alive.stopped() => return,
                () = self.endpoints.history.over(self.age) => {}
                () = self.clock.sleep_until(until) => {}
            }
            if under_way.is_empty() {
                self.newest = None;
            }
        }
    }

    /// Has the store end the lease. What a crash would leave too, it only ends sooner; but a lease
    /// that a backup has brought back has its whole ttl again, with keys that block their names.
    async fn let_go(&self, session: &Session) {
        let until = self.clock.now().saturating_add(self.ttl);
        while session.revoke(&self.endpoints).await.is_err()
            && session.is_past()
            && self.clock.now() < until
        {
            self.clock.sleep(REST).await;
        }
    }

    fn step(&mut self, under_way: usize) -> Step {
        let Some(session) = self.session.upgrade() else { return Step::End };
        if session.is_past() {
            return Step::LetGo(session);
        }
        let now = self.clock.now();
        let mut state = session.state();
        if state.ended {
            return Step::End;
        }
        if Arc::strong_count(&state.users) > 1 {
            self.unused_since = None;
        } else if state.retired {
            // What is still on it goes with it, and is to be removed until then.
            let gone = state.acked.saturating_add(self.ttl * 2);
            state.ended = gone <= now;
            return if state.ended { Step::End } else { Step::Wait(gone) };
        } else if now.saturating_since(*self.unused_since.get_or_insert(now)) >= IDLE {
            state.ended = true;
            drop(state);
            return Step::LetGo(session);
        }
        let is_wanted = state.acked < state.wanted;
        let due = match self.newest {
            // Slow is not lost: the next one goes to another member, the older ones stay. A caller that
            // needs a newer one waits until this one is answered or overdue.
            Some((sent, _)) => sent.saturating_add(self.pace(under_way)),
            None if is_wanted => now,
            None => state.acked.saturating_add(self.ttl / 3),
        };
        let due = due.max(self.rests_until);
        if under_way >= AT_ONCE * self.endpoints.count() || due > now {
            return Step::Wait(if due > now { due } else { now.saturating_add(self.patience()) });
        }
        Step::Send
    }

    /// How long a keep-alive has before its member counts as silent.
    fn patience(&self) -> Duration {
        (self.ttl / 6).max(Duration::from_millis(250))
    }

    /// How long after a keep-alive without an answer the next one is sent beside it.
    ///
    /// What was sent before an election is not answered after it: once one is overdue, each member
    /// is asked again within the patience.
    fn pace(&self, under_way: usize) -> Duration {
        let members = u32::try_from(self.endpoints.count()).unwrap_or(u32::MAX);
        if under_way > 1 { self.patience() / members } else { self.patience() }
    }

    fn send(&mut self) -> impl Future<Output = (Instant, StdResult<(), Failure>)> + Send + use<> {
        if let Some((_, member)) = self.newest {
            // It stands still, or we cannot hear it.
            self.endpoints.pass_over(member);
        }
        let sent = self.clock.now();
        let member = self.endpoints.current();
        self.newest = Some((sent, member));
        let (endpoints, clock, lease) =
            (Arc::clone(&self.endpoints), self.clock.clone(), self.lease);
        // A client that is silent is given up just before the next one is sent beside it.
        let (patience, limit) = (self.patience() * 9 / 10, self.ttl * 2 / 3);
        async move {
            let keep = |client: MemberClient| async move {
                client.driver.lease_client().keep_alive(lease).await.map(drop)
            };
            (sent, endpoints.once(member, &clock, patience, limit, keep).await)
        }
    }

    /// What is left of requests whose drivers ended without a word would live as long as the lease.
    fn orphans(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let Some(requests) = self.requests.upgrade() else { return Vec::new() };
        let sweep = |orphan: Orphan| {
            let (requests, endpoints) = (Arc::clone(&requests), Arc::clone(&self.endpoints));
            async move { orphan.sweep(&requests, &endpoints).await }
        };
        let orphans = orphans(&requests, self.lease, self.ttl.max(ORPHANED));
        orphans.into_iter().map(sweep).collect()
    }

    /// Takes in how a keep-alive ended; whether the others are of no more use.
    fn ended(&mut self, sent: Instant, outcome: StdResult<(), Failure>) -> bool {
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
                // The next one waits for no answer that will not come.
                self.newest = self.newest.filter(|(newest, _)| *newest != sent);
                session.state().failure = Some(failure.text());
                false
            }
        }
    }
}
