//! Strategy "table": a row for each name, and functions that change it.

mod client;
mod lease;
mod operator;
mod pool;
mod wake;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use lockkit_core::kit::{Service, wait, waiter_life};
use lockkit_core::{
    Clock, Error, Exclusion, Expiry, Fairness, Grant, Guarantees, Holder, LockProvider, Operator,
    Request, RequestId, Result, StoreSays, TtlRange, WakeUp,
};
use sqlx::postgres::PgConnectOptions;

use crate::PostgresConfig;
use crate::connection::{Command, PATIENCE, Session};
use crate::protocol::column;
use crate::setup::check_server;
use client::{Answer, Client};
use lease::grant;
use pool::Pool;

/// How often a waiter asks behind a pooler, through which no connection can listen.
const POLL: Duration = Duration::from_millis(250);
/// What a statement begins with behind a pooler, whose connections may have settings of others.
const PREAMBLE: &str = "SET LOCAL transaction_isolation = 'read committed'; \
    SET LOCAL synchronous_commit = on; ";

#[derive(Debug)]
pub(crate) struct Table(Arc<Client>);

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
        check_server(&config, &session).await?;
        let preamble = if is_direct { "" } else { PREAMBLE };
        Ok(Self(Arc::new(Client {
            pool: Pool::new(options.clone(), preamble, config.connections, session),
            schema: config.schema,
            token_base: config.token_base,
            listener: is_direct.then(|| (options, format!("lockkit_{address}"))),
            waiters: Arc::default(),
            listening: Service::default(),
        })))
    }
}

/// Whether the server took the settings of our first message from us: a pooler may swallow them.
async fn obeys(session: &Session) -> Result<bool> {
    let ask = "SELECT source = 'client' FROM pg_settings WHERE name = 'synchronous_commit'";
    let rows = session.ask(&Clock::system(), PATIENCE, Command::Sql(ask.to_owned())).await?;
    Ok(rows.first().and_then(|row| column(row, 0)) == Some("t"))
}

/// How one connects through a pooler: with nothing in the first message that it does not know.
fn plain(options: &PgConnectOptions) -> PgConnectOptions {
    options.clone().extra_float_digits(None).statement_cache_capacity(0)
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
        let entry = self.0.waiters.enter(request);
        let term = request.term();
        match self.0.ask(&entry, false).await? {
            Answer::Granted { token } => grant(&self.0, entry, term, token).map(Some),
            Answer::Held { .. } => Ok(None),
            Answer::Withdrawn => Err(Error::withdrawn()),
        }
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        let entry = self.0.waiters.enter(request);
        let listens = self.0.listener.is_some();
        let heartbeat = if listens { waiter_life(request.ttl()) / 3 } else { POLL };
        loop {
            let term = request.term();
            let (ask_in, label) = match self.0.ask(&entry, true).await? {
                Answer::Granted { token } => return grant(&self.0, entry, term, token),
                Answer::Withdrawn => return Err(Error::withdrawn()),
                Answer::Held { ask_in, label } => (ask_in, label),
            };
            request.report(StoreSays::Held(label.map(Holder::new)));
            self.0.listen()?;
            wait(&entry, ask_in, heartbeat).await?;
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
        self.0.listening.stop();
        self.0.pool.close();
        Ok(())
    }
}
