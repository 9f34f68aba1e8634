//! The provider: one of the two strategies.

use std::sync::Arc;

use async_trait::async_trait;
use lockkit_core::{Grant, Guarantees, LockProvider, Operator, Request, Result};

use crate::advisory::Advisory;
use crate::table::Table;
use crate::{PostgresConfig, Strategy};

/// A client of one PostgreSQL server, 14 or newer.
///
/// Its connections are its own, made when needed, and live in the runtime that made them. See the
/// page `docs/postgres.md` for the two strategies and their bounds.
#[derive(Clone, Debug)]
pub struct PostgresProvider(Arc<dyn LockProvider>);

impl PostgresProvider {
    /// Connects, looks whether the server is fit for locks, and makes our tables and functions where
    /// they are missing.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, the certificates, a server that is too
    /// old or a standby, a pooler under the strategy that does not live through one, or a role that
    /// may not make our objects; each says what to do. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: PostgresConfig) -> Result<Self> {
        config.check()?;
        Ok(Self(match config.strategy {
            Strategy::Advisory => Arc::new(Advisory::connect(config).await?),
            Strategy::Table => Arc::new(Table::connect(config).await?),
        }))
    }
}

#[async_trait]
impl LockProvider for PostgresProvider {
    fn guarantees(&self) -> Guarantees {
        self.0.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.0.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.0.acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.0.operator()
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}
