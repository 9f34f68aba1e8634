//! The conformance suite on a real ZooKeeper.

#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lockkit_core::conformance::{Fixture, Hook, Linked, Served, main as suite};
use lockkit_core::{Applied, Error, LockName, LockProvider, Result, async_trait};
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::{Link, ZkBuilder, ZkServer};
use zookeeper_client::Client;

fn main() -> ExitCode {
    suite(Zk::default())
}

/// One server for all cases, started at the first connection.
#[derive(Default)]
struct Zk(OnceLock<Arc<ZkServer>>);

/// The unit of the servers' time.
const TICK: Duration = Duration::from_millis(500);

/// The suite has more clients than one host may usually have.
fn server() -> ZkBuilder {
    ZkServer::builder().tick(TICK).line("maxClientCnxns=0")
}

/// A server that looks for empty queues all the time, and not once in a minute, so that a case of its own
/// meets names whose queue has been removed. At the link that would cost calls round trips.
fn tidy_server() -> testbed::Result<ZkServer> {
    server().property("znode.container.checkIntervalMs", "100").start()
}

impl Zk {
    fn server(&self) -> &ZkServer {
        self.0.get_or_init(|| Arc::new(server().start().unwrap()))
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
        &[Hook::Remove, Hook::Processes, Hook::Link, Hook::Server]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        let servers = self.server().address().to_string();
        let client = Client::connect(&servers).await.unwrap();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let element: String = name
            .as_str()
            .bytes()
            .map(|byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") })
            .collect();
        let parent = format!("/lockkit/{element}");
        let nodes = client.list_children(&parent).await.unwrap();
        // All are of one form, and their sequences stand last.
        let first = nodes.iter().min_by_key(|node| &node[node.len() - 10..]).unwrap();
        client.delete(&format!("{parent}/{first}"), None).await.unwrap();
        Ok(())
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
        let server = Arc::new(tidy_server().map_err(failed)?);
        Ok(Served::new(Self(OnceLock::from(Arc::clone(&server))), server))
    }
}

fn failed(error: testbed::Error) -> Error {
    Error::unavailable(Applied::No, error)
}
