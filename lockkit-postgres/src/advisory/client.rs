//! The client: how a request takes its lock, waits for it, and leaves.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::{Entry, Requests, call_limit, within};
use lockkit_core::{
    Applied, Clock, Error, Exclusion, Expiry, FencingToken, Grant, Guarantees, Holder, Instant,
    Kind, LockProvider, LossReason, Operator, Request, Result, StoreSays, TtlRange, WakeUp,
};

use super::budget::Budget;
use super::lease::{Asked, Held, Life, Trace, grant};
use super::names::{Group, Names, Stage, Turn};
use super::session::{Lives, Use};
use super::sessions::Sessions;
use crate::PostgresConfig;
use crate::connection::{PATIENCE, Session};
use crate::line::{Command, LIMIT};
use crate::protocol::{Columns, garbled, number};
use crate::setup::{Asks, Over, check_server};

/// The longest that one statement waits: for so long an index build may wait for it.
const SLICE: Duration = Duration::from_secs(2);
/// The first wait for a name that was contended a moment ago; it says whether the name is held.
const FIRST_SLICE: Duration = Duration::from_millis(50);
/// The longest that one statement waits while other requests want its connection.
const CROWDED_SLICE: Duration = Duration::from_millis(200);
/// A part of the ttl: a term that began longer ago is renewed before it is handed out.
const RECENT: u32 = 3;
/// How soon a request tries again while every connection that may wait does: at first, and later.
const TRY_AGAIN: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(1)];
/// How often the server is told to end a wait, until it has.
const CANCEL_AGAIN: Duration = Duration::from_millis(20);

/// How long a try waits for one answer: less than the call lasts, so that the session is known to be silent when the
/// call ends.
fn answer_limit(ttl: Duration) -> Duration {
    call_limit(ttl) * 7 / 8
}

#[derive(Debug)]
pub(crate) struct Advisory {
    sessions: Arc<Sessions>,
    names: Arc<Names>,
    requests: Arc<Requests<Asked>>,
    budget: Arc<Budget>,
    token_base: u64,
}

/// What the server said to a request that tried.
enum Tried {
    Granted(Grant),
    Held(Turn),
}

impl Advisory {
    pub(crate) async fn connect(config: PostgresConfig, address: &Arc<str>) -> Result<Self> {
        let session = Session::open(&config.options, LIMIT, PATIENCE).await?;
        let server = check_server(&config, Over::Ours(&session)).await?;
        drop(session);
        let sessions = Sessions::new(&config.options, address, config.connections);
        sessions.warm().await?;
        Ok(Self {
            sessions,
            names: Names::new(config.keys),
            requests: Arc::default(),
            budget: Arc::new(Budget::new(config.budget, server.lock_table, server.locks)),
            token_base: config.token_base,
        })
    }

    /// Begins an epoch of tokens where a crash of the server has ended the last one.
    pub(crate) async fn enter(&self) -> Result<()> {
        let enter = "SELECT lockkit.enter()";
        self.sessions.control(&Clock::system(), LIMIT, enter).await.map(drop)
    }

    /// Tries over a session that other locks share.
    async fn ask(&self, entry: &Entry<Asked>, turn: Turn) -> Result<Tried> {
        let (request, kind, key) = (entry.request(), turn.kind(), turn.key());
        let (clock, limit) = (request.clock(), answer_limit(request.ttl()));
        if kind == Kind::Shared
            && let Some(group) =
                turn.join(|session| session.ttl() == request.ttl() && session.is_good_for_others())
        {
            return self.join(entry, turn, group).await;
        }
        let session = self.sessions.holder(request.ttl()).await?;
        // A session that holds the key already would take it again at once.
        if kind == Kind::Shared && turn.is_held_on(&session) {
            let group = turn.join(|other| std::ptr::eq(other, &**session.session()));
            let left = || Error::unavailable(Applied::No, "those that shared the lock have left");
            return self.join(entry, turn, group.ok_or_else(left)?).await;
        }
        let reserved = self.budget.take();
        if self.budget.is_stale() {
            let count = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted";
            let rows = session.run(clock, limit, count.to_owned(), Command::Sql).await?;
            let locks = rows.first().and_then(|row| number(row, 0));
            self.budget.saw(locks.ok_or_else(|| garbled(&rows))?);
        }
        self.budget.check()?;
        let life = Life::begin(entry, turn, session, reserved)?;
        let sent = clock.now();
        if let Some(token) = life.session().try_lock(clock, limit, kind, key).await? {
            life.open();
            return self.granted(entry, life, token, sent).map(Tried::Granted);
        }
        life.settled().map(Tried::Held).ok_or_else(Error::withdrawn)
    }

    /// Joins those of our requests that share the lock, unless another client waits to hold it alone: another session
    /// is told so, since the one that holds the lock would be let in.
    async fn join(&self, entry: &Entry<Asked>, turn: Turn, group: Arc<Group>) -> Result<Tried> {
        let (request, key) = (entry.request(), turn.key());
        let (clock, limit) = (request.clock(), answer_limit(request.ttl()));
        let mut life = Life::joined(entry, turn, group)?;
        let other = self.sessions.beside(|session| life.turn().is_held_on(session)).await?;
        let sent = clock.now();
        let (token, term) =
            tokio::join!(other.join(clock, limit, key), life.session().ping(clock, limit));
        let token = token?;
        term?;
        if let Some(token) = token {
            return self.granted(entry, life, token, sent).map(Tried::Granted);
        }
        // The others may have left it to this request meanwhile.
        life.unlock(clock, limit).await?;
        life.settled().map(Tried::Held).ok_or_else(Error::withdrawn)
    }

    /// Waits in the server's queue, and tries now and then while no connection is left to wait on.
    async fn wait(&self, entry: &Entry<Asked>, mut turn: Turn) -> Result<Grant> {
        let request = entry.request();
        let [mut pause, longest] = TRY_AGAIN;
        let mut slice = FIRST_SLICE;
        loop {
            // Kept over the tries, for its place among those that want to wait.
            let mut may_wait = Box::pin(self.sessions.may_wait());
            let (session, _permit) = loop {
                if !turn.is_contended() || turn.kind() == Kind::Shared {
                    turn = match self.ask(entry, turn).await? {
                        Tried::Granted(grant) => return Ok(grant),
                        Tried::Held(turn) => turn,
                    };
                    turn.enter(Stage::HeldElsewhere);
                    request.report(StoreSays::Held(None));
                    slice = SLICE;
                }
                tokio::select! {
                    biased;
                    permit = &mut may_wait => {
                        let permit = permit?;
                        if let Some(session) = self.sessions.waiter(request.ttl()).await? {
                            break (session, permit);
                        }
                        may_wait = Box::pin(self.sessions.may_wait());
                        request.clock().sleep(pause).await;
                    }
                    () = request.clock().sleep(pause) => {}
                }
                pause = (pause * 2).min(longest);
                turn.contended(false);
            };
            turn = match self.queue(entry, turn, session, slice).await? {
                Tried::Granted(grant) => return Ok(grant),
                Tried::Held(turn) => turn,
            };
        }
    }

    /// Waits in the server's queue, in slices, on a session that holds the lock afterwards; until other requests
    /// want to wait on it.
    async fn queue(
        &self,
        entry: &Entry<Asked>,
        turn: Turn,
        session: Use,
        first: Duration,
    ) -> Result<Tried> {
        let (request, lock) = (entry.request(), (turn.kind(), turn.key()));
        let (clock, limit) = (request.clock(), call_limit(request.ttl()));
        let life = Life::begin(entry, turn, session, self.budget.take())?;
        // Not all waiters of an index build at once.
        let jitter = 90 + u32::from(request.id().to_bytes()[15] % 10);
        let mut longest = first;
        let (token, mut sent) = loop {
            let is_wanted = self.sessions.is_wanted();
            let slice = longest.min(if is_wanted { CROWDED_SLICE } else { SLICE });
            let sent = clock.now();
            let waiting = Waiting::begin(&self.sessions, clock, &life);
            let slice = slice * jitter / 100;
            let (token, is_contended) = life.session().wait(clock, limit, lock, slice).await?;
            waiting.over();
            life.turn().contended(is_contended);
            if let Some(token) = token {
                break (token, sent);
            }
            if entry.is_withdrawn() {
                return Err(Error::withdrawn());
            }
            life.turn().enter(Stage::HeldElsewhere);
            request.report(StoreSays::Held(None));
            longest = SLICE;
            if self.sessions.is_wanted() {
                return life.settled().map(Tried::Held).ok_or_else(Error::withdrawn);
            }
        };
        if clock.now().saturating_since(sent) > request.ttl() / RECENT {
            sent = clock.now();
            life.session().ping(clock, limit).await?;
        }
        life.session().unblock();
        life.open();
        self.granted(entry, life, token, sent).map(Tried::Granted)
    }

    /// The grant; undone at once where the request was withdrawn meanwhile.
    fn granted(
        &self,
        entry: &Entry<Asked>,
        life: Life,
        token: u64,
        sent: Instant,
    ) -> Result<Grant> {
        let request = entry.request();
        let token = FencingToken::with_base(self.token_base, token)?;
        let mut asked = entry.data();
        if asked.is_withdrawn() {
            drop(asked);
            return Err(Error::withdrawn());
        }
        life.turn().holds(Holder::new(request.label().as_ref()).with_token(token));
        let held = Held::new(token, request.clock(), sent, life);
        asked.for_others().held = Some(Arc::clone(&held));
        drop(asked);
        let term = held.term();
        Ok(grant(&self.sessions, entry.clone(), held, term))
    }

    /// The same grant again, with a term that counts from now.
    async fn again(&self, entry: &Entry<Asked>, held: Arc<Held>) -> Result<Grant> {
        let term = held.renew().await?;
        Ok(grant(&self.sessions, entry.clone(), held, term))
    }

    async fn attempt(&self, entry: &Entry<Asked>) -> Result<Option<Grant>> {
        let (visit, kind) = (self.names.visit(entry.request().name()), entry.request().kind());
        let taken = visit.clone();
        let turn = tokio::select! {
            biased;
            held = entry.wait_for(|asked| asked.live()) => {
                return self.again(entry, held).await.map(Some);
            }
            () = taken.taken(kind) => return Ok(None),
            turn = visit.turn(kind, None) => turn,
        };
        match self.ask(entry, turn).await? {
            Tried::Granted(grant) => Ok(Some(grant)),
            Tried::Held(_) => Ok(None),
        }
    }

    async fn attempt_and_wait(&self, entry: &Entry<Asked>) -> Result<Grant> {
        let request = entry.request();
        let visit = self.names.visit(request.name());
        let turn = tokio::select! {
            biased;
            held = entry.wait_for(|asked| asked.live()) => return self.again(entry, held).await,
            turn = visit.turn(request.kind(), Some(request)) => turn,
        };
        self.wait(entry, turn).await
    }
}

#[async_trait]
impl Asks for Advisory {
    async fn ask(&self, limit: Duration, sql: &str) -> Result<Vec<Columns>> {
        let clock = Clock::system();
        match self.sessions.control(&clock, limit, sql).await {
            // Sessions for locks are made of a primary alone, and the one that was there may have ended.
            Err(Error::Unavailable { .. }) => {
                let session = Session::open(&self.sessions.options, LIMIT, limit).await?;
                session.ask(&clock, limit, Command::Sql(sql.to_owned())).await
            }
            answer => answer,
        }
    }
}

/// What this strategy promises.
pub(crate) fn declared() -> Guarantees {
    let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Connection(TtlRange::ANY));
    guarantees.kinds = &[Kind::Exclusive, Kind::Shared];
    guarantees.wake_up = WakeUp::Push;
    guarantees.token_survives.server_restart = true;
    guarantees.belief_breaks_on = &[
        "a pause between a check and its use that outlasts the margin",
        "a session that the server or a proxy ends: the name is free at once, and the holder is told within a second",
        "a failover to a standby",
    ];
    guarantees
}

#[async_trait]
impl LockProvider for Advisory {
    fn guarantees(&self) -> Guarantees {
        declared()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let entry = self.requests.enter(request);
        tokio::select! {
            biased;
            () = entry.withdrawn() => Err(Error::withdrawn()),
            answer = self.attempt(&entry) => answer,
            () = request.clock().sleep(call_limit(request.ttl())) => {
                let silence = "PostgreSQL gave no answer in time";
                Err(Error::unavailable(Applied::Maybe, silence))
            }
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let entry = self.requests.enter(request);
        tokio::select! {
            biased;
            () = entry.withdrawn() => Err(Error::withdrawn()),
            granted = self.attempt_and_wait(&entry) => granted,
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let entry = self.requests.enter(request);
        entry.withdraw();
        let (held, mut traces) = {
            let asked = entry.data();
            (asked.held.clone(), asked.traces.clone())
        };
        traces.retain(|trace| !trace.is_settled());
        let asks = held.is_none() || request.kind() == Kind::Exclusive;
        if asks && !traces.is_empty() {
            // It is its turn: its call may hear of the withdrawal later than others try.
            self.names.visit(request.name()).reopen();
        }
        if let Some(held) = held {
            held.lose(LossReason::Released);
        }
        let settled = async {
            for trace in traces {
                trace.settled(&self.sessions, request.clock()).await?;
            }
            Ok(())
        };
        let settled = within(request.clock(), call_limit(request.ttl()), settled).await;
        settled.unwrap_or_else(|| {
            let silence = "PostgreSQL did not undo the request in time";
            Err(Error::unavailable(Applied::Maybe, silence))
        })
    }

    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    async fn close(&self) -> Result<()> {
        self.sessions.close();
        Ok(())
    }
}

/// A statement that waits; the server is told to end it where this is dropped before its answer.
struct Waiting<'a> {
    sessions: &'a Arc<Sessions>,
    clock: &'a Clock,
    trace: &'a Arc<Trace>,
    is_over: bool,
}

impl<'a> Waiting<'a> {
    fn begin(sessions: &'a Arc<Sessions>, clock: &'a Clock, life: &'a Life) -> Self {
        Self { sessions, clock, trace: life.trace(), is_over: false }
    }

    fn over(mut self) {
        self.is_over = true;
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        if self.is_over || self.trace.session.is_ended() {
            return;
        }
        let (sessions, clock, trace) =
            (Arc::clone(self.sessions), self.clock.clone(), Arc::clone(self.trace));
        #[allow(clippy::disallowed_methods)] // a clean-up that no caller waits for
        runtime.spawn(async move {
            // The statement may not have begun yet, and then does not hear of it.
            while !trace.is_settled() && !trace.session.is_ended() {
                sessions.cancel(&clock, &trace.session).await.ok();
                clock.sleep(CANCEL_AGAIN).await;
            }
        });
    }
}
