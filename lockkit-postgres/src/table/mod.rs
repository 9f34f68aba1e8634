//! Strategy "table": a row for each name, a queue of rows that never change, and functions of ours on both.
//!
//! A request asks once (`client`). Where it must wait, its client beats (`beating`), it enters the queue, and
//! the release before it grants: the grant comes as a notice.

mod beating;
mod beats;
mod client;
mod operator;
mod pool;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::wait;
use lockkit_core::{
    Applied, Clock, Error, Exclusion, Expiry, Fairness, Grant, Guarantees, Holder, Kind,
    LockProvider, Operator, Request, RequestId, Result, StoreSays, Term, TtlRange, WakeUp,
};
use sqlx::postgres::PgConnectOptions;

use crate::PostgresConfig;
use crate::connection::{PATIENCE, Session};
use crate::line::LIMIT;
use crate::protocol::{Columns, column};
use crate::setup::{Asks, Over, check_server};
use beats::{Beats, Granted, Shared};
use client::{Answer, Client, grant};
use pool::Pool;

/// How often a waiter asks behind a pooler, through which no connection can listen.
const POLL: Duration = Duration::from_millis(250);
/// How often a waiter asks where it is told of its grant: only in case that word is lost.
const RARELY: Duration = Duration::from_secs(300);
/// What a statement begins with behind a pooler, whose connections may have settings of others.
const PREAMBLE: &str = "SET LOCAL transaction_isolation = 'read committed'; \
    SET LOCAL synchronous_commit = off; SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; \
    SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off; ";

#[derive(Debug)]
pub(crate) struct Table(Arc<Client>);

impl Table {
    pub(crate) async fn connect(config: PostgresConfig, address: &Arc<str>) -> Result<Self> {
        let id = RequestId::random()?;
        let direct = config.options.clone().options([
            ("default_transaction_isolation", "read committed"),
            // What must outlive a crash of the server says so itself.
            ("synchronous_commit", "off"),
            // No plan may read all versions of a row, or all rows; and none is made twice, since to plan the search
            // for the next waiter takes longer than the search.
            ("enable_seqscan", "off"),
            ("enable_bitmapscan", "off"),
            ("plan_cache_mode", "force_generic_plan"),
            ("jit", "off"),
            ("idle_session_timeout", "0"),
            ("client_connection_check_interval", "1000"),
        ]);
        let (options, is_direct) = match Session::open(&direct, LIMIT, PATIENCE).await {
            Ok(session) if obeys(&session).await? => (direct, true),
            Ok(_) => (plain(&config.options), false),
            // What a pooler says to settings in the first message.
            Err(Error::Rejected { what, .. }) if what.contains("startup parameter") => {
                (plain(&config.options), false)
            }
            Err(error) => return Err(error),
        };
        let session = Session::open(&options, LIMIT, PATIENCE).await?;
        check_server(&config, Over::Ours(&session)).await?;
        let preamble = if is_direct { "" } else { PREAMBLE };
        let shared = Shared {
            pool: Pool::new(options.clone(), preamble, config.connections, session),
            schema: config.schema,
            address: Arc::clone(address),
            listener: is_direct.then_some(options),
            waiters: Arc::default(),
            beats: Beats::new(id),
            barrier: config.barrier,
        };
        Ok(Self(Arc::new(Client::new(shared, config.token_base))))
    }
}

impl Table {
    /// Whether no pooler is between.
    pub(crate) fn is_direct(&self) -> bool {
        self.0.listener.is_some()
    }
}

#[async_trait]
impl Asks for Table {
    async fn ask(&self, limit: Duration, sql: &str) -> Result<Vec<Columns>> {
        Ok(self.0.pool.run(&Clock::system(), limit, sql).await?.rows)
    }
}

/// Whether the server took the settings of our first message from us: a pooler may swallow them.
async fn obeys(session: &Session) -> Result<bool> {
    let ask = "SELECT source = 'client' FROM pg_settings WHERE name = 'synchronous_commit'";
    let rows = session.first(ask.to_owned()).await?;
    Ok(rows.first().and_then(|row| column(row, 0)) == Some("t"))
}

/// How one connects through a pooler: with nothing in the first message that it does not know.
fn plain(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().extra_float_digits(None).statement_cache_capacity(0)
}

/// What this strategy promises, where it can listen and where it cannot.
pub(crate) fn declared(listens: bool) -> Guarantees {
    let mut guarantees = Guarantees::new(Exclusion::OneServer, Expiry::Ttl(TtlRange::ANY));
    guarantees.kinds = &[Kind::Exclusive, Kind::Shared];
    guarantees.fairness = Fairness::Fifo;
    guarantees.wake_up = if listens { WakeUp::Push } else { WakeUp::Poll(POLL) };
    guarantees.token_survives.server_restart = true;
    guarantees.belief_breaks_on = &[
        "a pause between a check and its use that outlasts the margin",
        "a jump of the server's clock",
        "a failover to a standby while the old primary goes on, or of a ttl above `barrier`",
    ];
    guarantees
}

/// After a crash of the server, or a promotion, nothing is granted for as long as a grant may live that was
/// lost with it.
fn closed(opens_in: Duration) -> Error {
    let why = format!("PostgreSQL has crashed or was promoted: it grants again in {opens_in:?}");
    Error::unavailable(Applied::No, why)
}

#[async_trait]
impl LockProvider for Table {
    fn guarantees(&self) -> Guarantees {
        declared(self.is_direct())
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let entry = self.0.waiters.enter(request);
        let term = request.term();
        match self.0.ask(&entry, false).await? {
            Answer::Granted { token } => grant(&self.0, entry, term, token).map(Some),
            Answer::Held { .. } => Ok(None),
            Answer::Closed { opens_in } => Err(closed(opens_in)),
            Answer::Withdrawn => Err(Error::withdrawn()),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let entry = self.0.waiters.enter(request);
        let heartbeat = if self.0.listener.is_some() { RARELY } else { POLL };
        let waiter = self.0.beats.enter(request);
        loop {
            // A waiter of a client that does not beat counts as dead: it only tries.
            let is_beating = waiter.is_beating();
            let term = request.term();
            match self.0.ask(&entry, is_beating).await? {
                Answer::Granted { token } => return grant(&self.0, entry, term, token),
                Answer::Withdrawn => return Err(Error::withdrawn()),
                Answer::Closed { opens_in } => {
                    request.report(StoreSays::Unreachable);
                    waiter.look_in(opens_in);
                }
                Answer::Held { ends_in, label } => {
                    if is_beating {
                        request.report(StoreSays::Held(label.map(Holder::new)));
                    }
                    if let Some(ends_in) = ends_in {
                        waiter.look_in(ends_in);
                    }
                }
            }
            if !is_beating {
                tokio::select! {
                    biased;
                    () = entry.withdrawn() => return Err(Error::withdrawn()),
                    beats = self.0.beat_for(&waiter) => beats?,
                }
                continue;
            }
            self.0.beat()?;
            let granted = tokio::select! {
                biased;
                granted = wait(&entry, None, heartbeat) => granted?,
                () = self.0.lapsed() => None,
            };
            if let Some(Granted { token, sent }) = granted {
                let term = Term { sent, ttl: Some(request.ttl()) };
                return grant(&self.0, entry, term, token);
            }
        }
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        let entry = self.0.waiters.enter(request);
        // Before it is sent: a waiter that asked once more would come back behind it.
        entry.withdraw();
        self.0.leave(&entry).await.map(drop)
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn close(&self) -> Result<()> {
        self.0.close();
        Ok(())
    }
}
