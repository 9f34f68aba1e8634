//! The conformance suite on a real etcd server.

#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{Fixture, Hook, Linked, Served, main as suite};
use lockkit_core::{Applied, Error, LockName, LockProvider, Result, async_trait};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::{EtcdServer, Link};

fn main() -> ExitCode {
    suite(Etcd::default())
}

/// One server for all cases, started at the first connection.
#[derive(Default)]
struct Etcd(OnceLock<Arc<EtcdServer>>);

impl Etcd {
    fn server(&self) -> &EtcdServer {
        self.0.get_or_init(|| Arc::new(EtcdServer::start().unwrap()))
    }
}

#[async_trait]
impl Fixture for Etcd {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        let port = self.server().port();
        self.join(&port.to_string()).await
    }

    fn store(&self) -> String {
        "etcd".to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove, Hook::Processes, Hook::Link, Hook::Server]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        self.server().cli(&["del", "--prefix", &format!("lockkit/{name}/")]).map_err(failed)?;
        Ok(())
    }

    fn address(&self) -> Option<String> {
        Some(self.server().port().to_string())
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        let config = EtcdConfig::new([("127.0.0.1", address.parse().unwrap())]);
        Ok(Arc::new(EtcdProvider::connect(config).await?))
    }

    async fn linked(&self) -> Result<Linked> {
        let link = Link::to(self.server().address()).map_err(failed)?;
        let client = self.join(&link.port().to_string()).await?;
        Ok(Linked::new(client, link))
    }

    async fn served(&self) -> Result<Served> {
        let server = Arc::new(EtcdServer::start().map_err(failed)?);
        Ok(Served::new(Self(OnceLock::from(Arc::clone(&server))), server))
    }
}

fn failed(error: testbed::Error) -> Error {
    Error::unavailable(Applied::No, error)
}
