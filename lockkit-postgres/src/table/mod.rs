//! Strategy "table": a row for each name, and functions that change it.

mod lease;
mod operator;
mod pool;
mod wake;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::{
    Applied, Clock, Error, Exclusion, Expiry, Fairness, FencingToken, Grant, Guarantees, Holder,
    Late, LockProvider, Operator, Request, RequestId, Result, StoreSays, Term, TtlRange, WakeUp,
};
use sqlx::postgres::PgConnectOptions;

use crate::PostgresConfig;
use crate::connection::{Columns, LIMIT, PATIENCE, Session, What};
use crate::protocol::{column, garbled, number, quoted, stored};
use crate::setup::look_around;
use lease::TableLease;
use pool::{Answered, Pool};
use wake::{Seat, Wake, Word};

/// The longest that a waiter lives in the queue without asking again.
const LONGEST_LIFE: Duration = Duration::from_secs(3);
/// The shortest: a waiter must not die of a busy machine.
const SHORTEST_LIFE: Duration = Duration::from_secs(1);
/// How often a waiter asks behind a pooler, where nobody can listen.
const POLL: Duration = Duration::from_millis(250);
/// What a statement begins with behind a pooler, whose connections may have settings of others.
const PREAMBLE: &str = "SET LOCAL transaction_isolation = 'read committed'; \
    SET LOCAL synchronous_commit = on; ";

#[derive(Debug)]
pub(crate) struct Table(Arc<Inner>);

pub(crate) struct Inner {
    pool: Pool,
    schema: String,
    token_base: u64,
    /// How the listener connects, and its channel; `None` behind a pooler.
    listener: Option<(PgConnectOptions, String)>,
    wake: Arc<Wake>,
    late: Late,
}

impl fmt::Debug for Inner {
    /// Without the options: they hold the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").field("pool", &self.pool).finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) async fn connect(config: PostgresConfig) -> Result<Self> {
        let address = RequestId::random()?.to_string()[..16].to_owned();
        let direct = config.options.clone().options([
            ("default_transaction_isolation", "read committed"),
            ("synchronous_commit", "on"),
            ("idle_session_timeout", "0"),
            ("client_connection_check_interval", "1000"),
        ]);
        let (options, is_direct) = match Session::open(&direct, PATIENCE, PATIENCE).await {
            Ok(session) if obeys(&session).await? => (direct, true),
            Ok(_) => (plain(&config.options), false),
            // What a pooler says to settings in the first message.
            Err(Error::Rejected { what, .. }) if what.contains("startup parameter") => {
                (plain(&config.options), false)
            }
            Err(error) => return Err(error),
        };
        let session = Session::open(&options, PATIENCE, PATIENCE).await?;
        look_around(&config, &session).await?;
        let preamble = if is_direct { "" } else { PREAMBLE };
        Ok(Self(Arc::new(Inner {
            pool: Pool::new(options.clone(), preamble, config.connections, session),
            schema: config.schema,
            token_base: config.token_base,
            listener: is_direct.then(|| (options, format!("lockkit_{address}"))),
            wake: Arc::default(),
            late: Late::default(),
        })))
    }
}

/// Whether the server took the settings of our first message from us: a pooler may swallow them.
async fn obeys(session: &Session) -> Result<bool> {
    let ask = "SELECT source = 'client' FROM pg_settings WHERE name = 'synchronous_commit'";
    let rows = session.ask(&Clock::system(), PATIENCE, What::Sql(ask.to_owned())).await?;
    Ok(rows.first().and_then(|row| column(row, 0)) == Some("t"))
}

/// How one connects through a pooler: with nothing in the first message that it does not know.
fn plain(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().extra_float_digits(None).statement_cache_capacity(0)
}

/// The answer to an acquire.
#[derive(Debug)]
enum Answer {
    Granted {
        token: u64,
    },
    /// Held by another, or another's turn; in how long one of us asks again.
    Held {
        ask_in: Option<Duration>,
        label: Option<String>,
    },
    Withdrawn,
}

impl Answer {
    fn of(rows: &[Columns]) -> Result<Self> {
        let row = rows.first().ok_or_else(|| garbled(rows))?;
        match column(row, 0) {
            Some("granted") => {
                Ok(Self::Granted { token: number(row, 1).ok_or_else(|| garbled(rows))? })
            }
            Some("held") => Ok(Self::Held {
                ask_in: number(row, 1).map(Duration::from_millis),
                label: column(row, 2).map(str::to_owned),
            }),
            Some("withdrawn") => Ok(Self::Withdrawn),
            _ => Err(garbled(rows)),
        }
    }
}

impl Inner {
    /// Calls one of our functions about this request's lock.
    async fn call(&self, request: &Request, function: &str, more: &str) -> Result<Answered> {
        let name = quoted(&stored(request.name().as_str()));
        let (schema, id) = (&self.schema, request.id());
        let sql = format!("SELECT * FROM {schema}.{function}({name}, '{id}'{more})");
        // Sooner than the driver turns away (a third, 2 s): a stuck connection is then given up before
        // the withdrawal, or the next caller, would be sent over it.
        let limit = (request.ttl() * 3 / 10).clamp(LIMIT / 20, LIMIT * 9 / 10);
        self.pool.run(request.clock(), limit, &sql).await
    }

    /// Calls one that answers yes or no.
    async fn is_so(&self, request: &Request, function: &str, more: &str) -> Result<bool> {
        let rows = self.call(request, function, more).await?.rows;
        match rows.first().and_then(|row| column(row, 0)) {
            Some("t") => Ok(true),
            Some("f") => Ok(false),
            _ => Err(garbled(&rows)),
        }
    }

    async fn ask(&self, request: &Request, seat: &Seat, waits: bool) -> Result<Answer> {
        let attempt = self.late.sent(request.id(), request.clock());
        // Counted first: a withdrawal tells the seat before it looks for what may arrive, so that
        // either we see it, or it leaves a tombstone for us.
        if seat.is_withdrawn() {
            attempt.answered();
            return Ok(Answer::Withdrawn);
        }
        let (ttl, life) = (request.ttl().as_millis(), life(request.ttl()).as_millis());
        let wake = match &self.listener {
            Some((_, channel)) => format!("'{channel}'"),
            None => "NULL".to_owned(),
        };
        let label = quoted(&request.label().replace('\0', "\u{fffd}"));
        let more = format!(", {ttl}, {life}, {wake}, {label}, {waits}");
        let answer = self.call(request, "acquire", &more).await;
        let ambiguous = matches!(&answer, Err(Error::Unavailable { applied: Applied::Maybe, .. }));
        let replayed = answer.as_ref().is_ok_and(|answer| answer.replayed);
        if !ambiguous && !replayed {
            attempt.answered();
        }
        Answer::of(&answer?.rows)
    }

    /// Ends a request; whether it held the name.
    async fn leave(&self, request: &Request) -> Result<bool> {
        let tombstone = self.late.may_arrive(request.id());
        self.is_so(request, "leave", &format!(", {tombstone}")).await
    }

    fn grant(
        self: &Arc<Self>,
        request: &Request,
        seat: Arc<Seat>,
        term: Term,
        token: u64,
    ) -> Result<Grant> {
        let token = FencingToken::with_base(self.token_base, token)?;
        Ok(Grant::new(token, term, TableLease::new(Arc::clone(self), request.clone(), seat)))
    }

    /// A waiter listens from now on.
    fn listen(&self) {
        if let Some((options, channel)) = &self.listener {
            self.wake.listen(options, channel);
        }
    }
}

/// How long a waiter of this ttl lives without asking again.
fn life(ttl: Duration) -> Duration {
    ttl.clamp(SHORTEST_LIFE, LONGEST_LIFE)
}

fn withdrawn() -> Error {
    Error::unavailable(Applied::No, "the request was withdrawn")
}

/// What this strategy promises, where it can listen and where it cannot.
pub(crate) fn declared(listens: bool) -> Guarantees {
    let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Ttl(TtlRange::ANY));
    guarantees.fairness = Fairness::Fifo;
    guarantees.wake_up = if listens { WakeUp::Push } else { WakeUp::Poll(POLL) };
    guarantees.token_survives.server_restart = true;
    guarantees.belief_breaks_on = &[
        "a pause between a check and its use that outlasts the margin",
        "a jump of the server's clock",
        "a failover to a standby",
    ];
    guarantees
}

#[async_trait]
impl LockProvider for Table {
    fn guarantees(&self) -> Guarantees {
        declared(self.0.listener.is_some())
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let seat = self.0.wake.seat(request.id());
        let sent = Term { sent: request.clock().now(), ttl: Some(request.ttl()) };
        match self.0.ask(request, &seat, false).await? {
            Answer::Granted { token } => self.0.grant(request, seat, sent, token).map(Some),
            Answer::Held { .. } => Ok(None),
            Answer::Withdrawn => Err(withdrawn()),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let (seat, clock) = (self.0.wake.seat(request.id()), request.clock());
        let listens = self.0.listener.is_some();
        let heartbeat = if listens { life(request.ttl()) / 3 } else { POLL };
        loop {
            let sent = Term { sent: clock.now(), ttl: Some(request.ttl()) };
            let (ask_in, label) = match self.0.ask(request, &seat, true).await? {
                Answer::Granted { token } => return self.0.grant(request, seat, sent, token),
                Answer::Withdrawn => return Err(withdrawn()),
                Answer::Held { ask_in, label } => (ask_in, label),
            };
            request.report(StoreSays::Held(label.map(Holder::new)));
            self.0.listen();
            let next_heartbeat = clock.now().saturating_add(heartbeat);
            let just_after = |left: Duration| {
                clock.now().saturating_add(left + Duration::from_millis(1)).min(next_heartbeat)
            };
            let mut until = ask_in.map_or(next_heartbeat, just_after);
            loop {
                tokio::select! {
                    word = seat.news() => match word {
                        Word::AskIn(after) => until = until.min(just_after(after)),
                        Word::Ask | Word::Wait => break,
                        Word::Withdrawn | Word::Revoked => return Err(withdrawn()),
                    },
                    () = clock.sleep_until(until) => break,
                }
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        // Told before it is sent: a waiter that asked once more would come back behind it.
        if let Some(seat) = self.0.wake.taken(request.id()) {
            seat.tell(Word::Withdrawn);
        }
        self.0.leave(request).await.map(drop)
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn close(&self) -> Result<()> {
        self.0.wake.close();
        self.0.pool.close();
        Ok(())
    }
}
