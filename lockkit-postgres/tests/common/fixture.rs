//! A real PostgreSQL for the conformance suite.

use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{Fixture, Hook, Linked, Served};
use lockkit_core::{Applied, Error, LockName, LockProvider, Result, async_trait};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy, key};
use testbed::{Link, PostgresServer};

/// One server for all cases, started at the first connection.
pub(crate) struct Postgres {
    strategy: Strategy,
    server: OnceLock<Arc<PostgresServer>>,
}

impl Postgres {
    pub(crate) fn new(strategy: Strategy) -> Self {
        Self { strategy, server: OnceLock::new() }
    }

    fn server(&self) -> &PostgresServer {
        self.server.get_or_init(|| Arc::new(start().unwrap()))
    }
}

/// The cases of the suite run side by side, each with many clients.
fn start() -> testbed::Result<PostgresServer> {
    PostgresServer::builder().setting("max_connections", 400).start()
}

fn of_name(name: &LockName) -> String {
    format!("name = '{}'", name.as_str().replace('\'', "''"))
}

/// The condition that a row of `pg_locks` is about the lock of this name.
fn of_key(name: &LockName) -> String {
    let key = key(name);
    format!("locktype = 'advisory' AND (classid::bigint << 32) | objid::bigint = {key}")
}

#[async_trait]
impl Fixture for Postgres {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        self.join(&self.server().url()).await
    }

    fn store(&self) -> String {
        match self.strategy {
            Strategy::Table => "postgres, table",
            _ => "postgres, advisory",
        }
        .to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        const ALL: &[Hook] =
            &[Hook::Remove, Hook::Processes, Hook::Link, Hook::Server, Hook::ServerLoss];
        match self.strategy {
            Strategy::Table => {
                &[Hook::Remove, Hook::Forget, Hook::Processes, Hook::Link, Hook::Server]
            }
            _ => ALL,
        }
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        let sql = match self.strategy {
            Strategy::Table => {
                format!("UPDATE lockkit.lease SET request = NULL WHERE {}", of_name(name))
            }
            _ => format!(
                "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE granted AND {}",
                of_key(name)
            ),
        };
        self.server().sql(&sql).map(drop).map_err(failed)
    }

    async fn forget(&self, name: &LockName) -> Result<()> {
        let sql = format!("DELETE FROM lockkit.lease WHERE {}", of_name(name));
        self.server().sql(&sql).map(drop).map_err(failed)
    }

    async fn residue(&self, name: &LockName) -> Result<Option<String>> {
        let sql = format!("SELECT count(*) FROM pg_locks WHERE {}", of_key(name));
        let rows = self.server().sql(&sql).map_err(failed)?;
        Ok((rows != "0").then(|| format!("{rows} rows of pg_locks")))
    }

    fn address(&self) -> Option<String> {
        Some(self.server().url())
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        let config = PostgresConfig::from_url(address)?.strategy(self.strategy);
        Ok(Arc::new(PostgresProvider::connect(config).await?))
    }

    async fn linked(&self) -> Result<Linked> {
        let server = self.server();
        let link = Link::to(server.address()).map_err(failed)?;
        let client = self.join(&server.url_at(link.address())).await?;
        Ok(Linked::new(client, link))
    }

    async fn served(&self) -> Result<Served> {
        let server = Arc::new(start().map_err(failed)?);
        let fixture = Self { strategy: self.strategy, server: OnceLock::from(Arc::clone(&server)) };
        Ok(Served::new(fixture, server))
    }
}

fn failed(error: testbed::Error) -> Error {
    Error::unavailable(Applied::No, error)
}
