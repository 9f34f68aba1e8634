//! The task that keeps a session's lease alive, and clears up behind requests that nobody ended.

use std::future::Future;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use lockkit_core::kit::{Alive, call_limit};
use lockkit_core::{Clock, Instant};
use tokio::sync::Notify;

use crate::endpoints::Endpoints;
use crate::failure::Failure;
use crate::line::Line;
use crate::seat::Sweeping;
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

/// The task that sends keep-alives: each on a stream of its own, none waits for another.
pub(crate) struct Keeper {
    session: Weak<Session>,
    alive: Alive,
    endpoints: Arc<Endpoints>,
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
    pub(crate) fn new(session: &Arc<Session>, endpoints: &Arc<Endpoints>, alive: Alive) -> Self {
        Self {
            session: Arc::downgrade(session),
            alive,
            endpoints: Arc::clone(endpoints),
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

    pub(crate) async fn run(mut self) {
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
            // Slow is not lost: the next one goes to another member, the older ones stay. Whoever
            // wants a newer one has it once this one is answered, or its time to be is over.
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

    fn send(&mut self) -> impl Future<Output = (Instant, Result<(), Failure>)> + Send + use<> {
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
            let keep = |line: Line| async move {
                line.client.lease_client().keep_alive(lease).await.map(drop)
            };
            (sent, endpoints.once(member, &clock, patience, limit, keep).await)
        }
    }

    /// What is left of requests whose drivers ended without a word would live as long as the lease.
    fn orphans(&self) -> Vec<impl Future<Output = ()> + Send + use<>> {
        let Some(session) = self.session.upgrade() else { return Vec::new() };
        let Some(seats) = session.seats.upgrade() else { return Vec::new() };
        let orphans = seats.orphans(self.lease, self.ttl.max(ORPHANED)).into_iter();
        let sweep = |sweeping: Sweeping| {
            let (session, seats) = (Arc::clone(&session), Arc::clone(&seats));
            let (endpoints, clock) = (Arc::clone(&self.endpoints), self.clock.clone());
            async move {
                let (limit, seat) = (call_limit(session.ttl), &sweeping.seat);
                if let Ok(is_gone) = session.sweep(&endpoints, &clock, limit, seat).await {
                    if is_gone {
                        seats.is_clear(seat);
                    }
                    sweeping.answered();
                }
            }
        };
        orphans.map(sweep).collect()
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
                // The next one waits for no answer that will not come.
                self.newest = self.newest.filter(|(newest, _)| *newest != sent);
                session.state().failure = Some(failure.text());
                false
            }
        }
    }
}
