//! The conformance suite on a real ZooKeeper.

#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lockkit_core::conformance::{Fixture, Hook, Linked, Served, main as suite};
use lockkit_core::{Applied, Error, LockProvider, Result, async_trait};
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::{Link, ZkServer};

fn main() -> ExitCode {
    suite(Zk::default())
}

/// One server for all cases, started at the first connection.
#[derive(Default)]
struct Zk(OnceLock<Arc<ZkServer>>);

/// The unit of the servers' time.
const TICK: Duration = Duration::from_millis(500);

/// The suite has more clients than one host may usually have.
fn start() -> testbed::Result<ZkServer> {
    ZkServer::builder().tick(TICK).line("maxClientCnxns=0").start()
}

impl Zk {
    fn server(&self) -> &ZkServer {
        self.0.get_or_init(|| Arc::new(start().unwrap()))
    }
}

#[async_trait]
impl Fixture for Zk {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        let port = self.server().port();
        self.join(&port.to_string()).await
    }

    fn store(&self) -> String {
        "zookeeper".to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Processes, Hook::Link, Hook::Server]
    }

    fn address(&self) -> Option<String> {
        Some(self.server().port().to_string())
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        let config = ZkConfig::new([format!("127.0.0.1:{address}")]).tick(TICK);
        Ok(Arc::new(ZkProvider::connect(config).await?))
    }

    async fn linked(&self) -> Result<Linked> {
        let link = Link::to(self.server().address()).map_err(failed)?;
        let client = self.join(&link.port().to_string()).await?;
        Ok(Linked::new(client, link))
    }

    async fn served(&self) -> Result<Served> {
        let server = Arc::new(start().map_err(failed)?);
        Ok(Served::new(Self(OnceLock::from(Arc::clone(&server))), server))
    }
}

fn failed(error: testbed::Error) -> Error {
    Error::unavailable(Applied::No, error)
}
