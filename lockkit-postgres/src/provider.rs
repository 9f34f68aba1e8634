//! The provider: one of the two strategies, and what it does inside a caller's transaction.

use std::sync::Arc;

use async_trait::async_trait;
use lockkit_core::{Grant, Guarantees, LockProvider, Operator, Request, Result};

use crate::advisory::Advisory;
use crate::table::Table;
use crate::{PostgresConfig, Strategy, TransactionLocks};

/// A client of one PostgreSQL server, 14 or newer.
///
/// Its connections are its own, made when needed, and live in the runtime that made them. See the
/// page `docs/postgres.md` for the two strategies and their bounds.
#[derive(Clone, Debug)]
pub struct PostgresProvider {
    pub(crate) strategy: Connected,
    pub(crate) transactions: TransactionLocks,
}

#[derive(Clone, Debug)]
pub(crate) enum Connected {
    Advisory(Arc<Advisory>),
    Table(Arc<Table>),
}

impl PostgresProvider {
    /// Connects, checks that the server is fit for locks, and makes our tables and functions where
    /// they are missing.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, the certificates, a server that is too
    /// old or a standby, a pooler under the strategy that does not live through one, or a role that
    /// may not make our objects; each says what to do. `Unavailable`: no answer for 10 s.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: PostgresConfig) -> Result<Self> {
        config.check()?;
        // One of the driver's modes asks for the process's provider, and panics where two are linked
        // and none was chosen; a choice made before is respected.
        #[cfg(feature = "tls")]
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let transactions = TransactionLocks::of(&config);
        let strategy = match config.strategy {
            Strategy::Advisory => Connected::Advisory(Arc::new(Advisory::connect(config).await?)),
            Strategy::Table => Connected::Table(Arc::new(Table::connect(config).await?)),
        };
        Ok(Self { strategy, transactions })
    }

    /// What this strategy promises, straight to the server; the table behind a pooler wakes by
    /// polling.
    pub fn declared(strategy: Strategy) -> Guarantees {
        match strategy {
            Strategy::Advisory => crate::advisory::declared(),
            Strategy::Table => crate::table::declared(true),
        }
    }

    /// What the table strategy promises where it cannot listen: behind a pooler, its waiters poll.
    #[must_use]
    pub fn declared_through_a_pooler() -> Guarantees {
        crate::table::declared(false)
    }

    fn strategy(&self) -> &dyn LockProvider {
        match &self.strategy {
            Connected::Advisory(advisory) => &**advisory,
            Connected::Table(table) => &**table,
        }
    }
}

#[async_trait]
impl LockProvider for PostgresProvider {
    fn guarantees(&self) -> Guarantees {
        self.strategy().guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.strategy().try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.strategy().acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.strategy().withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.strategy().operator()
    }

    async fn close(&self) -> Result<()> {
        self.strategy().close().await
    }
}
