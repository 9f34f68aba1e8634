//! The provider: one of the two strategies, and locks and fences inside a caller's transaction.

use std::sync::Arc;

use async_trait::async_trait;
use lockkit_core::{
    Error, FencingToken, Finding, Grant, Guarantees, LockName, LockProvider, Operator, Request,
    Result,
};
use sqlx::PgConnection;
use tokio::runtime::Handle;

use crate::advisory::Advisory;
use crate::error::{address_of, at};
use crate::examine::examine;
use crate::table::Table;
use crate::transaction::{FenceError, TransactionLocks};
use crate::{PostgresConfig, Strategy};

/// A client of one PostgreSQL server, 14 or newer.
///
/// Its connections are its own, made when needed, and live in the runtime that made them. See the
/// page `docs/postgres.md` for the two strategies and their bounds.
#[derive(Clone, Debug)]
pub struct PostgresProvider {
    strategy: Connected,
    transactions: TransactionLocks,
    config: Arc<PostgresConfig>,
    /// The server's, for errors.
    address: Arc<str>,
}

#[derive(Clone, Debug)]
enum Connected {
    Advisory(Arc<Advisory>),
    Table(Arc<Table>),
}

impl PostgresProvider {
    /// Connects, checks that the server is fit for locks, and makes our tables and functions where
    /// they are missing.
    ///
    /// # Errors
    /// `Invalid`: the configuration. `Rejected`: the login, the certificates, a server that is too
    /// old, a standby, or takes no writes, a pooler under the strategy that does not live through one, or a role that
    /// may not make our objects; each says what to do. `Unavailable`: no connection within 2 s, or then no answer
    /// for 10 s. `NoRuntime`: called outside a tokio runtime.
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn connect(config: PostgresConfig) -> Result<Self> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        config.check()?;
        // One of the driver's modes asks for the process's provider, and panics where two are linked
        // and none was chosen; a choice made before is respected.
        #[cfg(feature = "tls")]
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let (transactions, address) = (TransactionLocks::of(&config), address_of(&config.options));
        let kept = Arc::new(config.clone());
        let connected = match config.strategy {
            Strategy::Advisory => Advisory::connect(config, &address)
                .await
                .map(|client| Connected::Advisory(client.into())),
            Strategy::Table => {
                Table::connect(config, &address).await.map(|client| Connected::Table(client.into()))
            }
        };
        let strategy = connected.map_err(|error| at(&address, error))?;
        Ok(Self { strategy, transactions, config: kept, address })
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

impl PostgresProvider {
    /// As [`TransactionLocks::lock_in`], with the configuration of this provider.
    ///
    /// ```no_run
    /// # async fn pay(provider: lockkit_postgres::PostgresProvider, connection: &mut sqlx::PgConnection)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// use sqlx::Connection;
    ///
    /// let mut transaction = connection.begin().await?;
    /// let token = provider.lock_in(&mut transaction, &"billing".parse()?).await?;
    /// // The work, in the same transaction.
    /// transaction.commit().await?;
    /// # drop(token); Ok(()) }
    /// ```
    ///
    /// # Errors
    /// `Invalid`: the strategy is another one. Others as [`TransactionLocks::lock_in`]; after a crash of the
    /// server this enters by itself.
    ///
    /// # Cancel safety
    /// As [`TransactionLocks::lock_in`].
    pub async fn lock_in(
        &self,
        transaction: &mut PgConnection,
        name: &LockName,
    ) -> Result<FencingToken> {
        let advisory = self.advisory()?;
        match self.transactions.lock(transaction, name).await? {
            Some(token) => self.transactions.token(token),
            None => self.entered(advisory, transaction).await,
        }
    }

    /// The same without waiting: `None` where another holds the name. Upholds C1 and C4.
    ///
    /// ```no_run
    /// # async fn pay(provider: lockkit_postgres::PostgresProvider, connection: &mut sqlx::PgConnection)
    /// # -> Result<(), Box<dyn std::error::Error>> {
    /// use sqlx::Connection;
    ///
    /// let mut transaction = connection.begin().await?;
    /// match provider.try_lock_in(&mut transaction, &"billing".parse()?).await? {
    ///     Some(token) => println!("ours until the transaction ends, by {token}"),
    ///     None => println!("another process is at work"),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`lock_in`](Self::lock_in).
    ///
    /// # Cancel safety
    /// As [`TransactionLocks::lock_in`].
    pub async fn try_lock_in(
        &self,
        transaction: &mut PgConnection,
        name: &LockName,
    ) -> Result<Option<FencingToken>> {
        let advisory = self.advisory()?;
        match self.transactions.try_lock(transaction, name).await? {
            None => Ok(None),
            Some(Some(token)) => self.transactions.token(token).map(Some),
            Some(None) => self.entered(advisory, transaction).await.map(Some),
        }
    }

    /// As [`TransactionLocks::fence_in`], under both strategies.
    ///
    /// ```no_run
    /// # async fn write(provider: lockkit_postgres::PostgresProvider, guard: lockkit_core::Guard,
    /// #     connection: &mut sqlx::PgConnection) -> Result<(), Box<dyn std::error::Error>> {
    /// use lockkit_postgres::FenceError;
    /// use sqlx::Connection;
    ///
    /// let mut transaction = connection.begin().await?;
    /// match provider.fence_in(&mut transaction, "ledger", guard.token()).await {
    ///     Ok(()) => {
    ///         // The write, in the same transaction.
    ///         transaction.commit().await?;
    ///     }
    ///     Err(FenceError::Stale(stale)) => println!("lost to {}: nothing is written", stale.newest),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    /// As [`TransactionLocks::fence_in`].
    ///
    /// # Cancel safety
    /// As [`TransactionLocks::lock_in`].
    pub async fn fence_in(
        &self,
        transaction: &mut PgConnection,
        resource: &str,
        token: FencingToken,
    ) -> Result<(), FenceError> {
        self.transactions.fence_in(transaction, resource, token).await
    }

    fn advisory(&self) -> Result<&Advisory> {
        match &self.strategy {
            Connected::Advisory(advisory) => Ok(advisory),
            Connected::Table(_) => Err(Error::invalid(
                "a lock inside a transaction under the strategy \"table\"",
                "use TransactionLocks, which excludes the strategy \"advisory\": a lease outlives the \
                 transactions that change it",
            )),
        }
    }

    /// The token of a name that is locked, once we have entered.
    async fn entered(
        &self,
        advisory: &Advisory,
        transaction: &mut PgConnection,
    ) -> Result<FencingToken> {
        advisory.enter().await?;
        self.transactions.next_token(transaction).await
    }
}

#[async_trait]
impl LockProvider for PostgresProvider {
    fn guarantees(&self) -> Guarantees {
        self.strategy().guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.strategy().try_acquire(request).await.map_err(|error| at(&self.address, error))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.strategy().acquire(request).await.map_err(|error| at(&self.address, error))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.strategy().withdraw(request).await.map_err(|error| at(&self.address, error))
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.strategy().operator()
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        let found = match &self.strategy {
            Connected::Advisory(advisory) => examine(&self.config, &**advisory, true).await,
            Connected::Table(table) => examine(&self.config, &**table, table.is_direct()).await,
        };
        found.map_err(|error| at(&self.address, error))
    }

    async fn close(&self) -> Result<()> {
        self.strategy().close().await
    }
}
