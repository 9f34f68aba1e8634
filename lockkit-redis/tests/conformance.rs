//! The conformance suite on a real Redis.

#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{Fixture, Hook, Linked, Served, main as suite};
use lockkit_core::{Applied, Error, Family, LockName, LockProvider, Result, async_trait};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::{Link, RedisServer};

fn main() -> ExitCode {
    suite(Redis::default())
}

/// One server for all cases, started at the first connection.
#[derive(Default)]
struct Redis(OnceLock<Arc<RedisServer>>);

impl Redis {
    fn server(&self) -> &RedisServer {
        self.0.get_or_init(|| Arc::new(RedisServer::start().unwrap()))
    }

    fn delete(&self, keys: &[&str]) {
        self.server().cli(&[&["DEL"], keys].concat()).unwrap();
    }

    fn delete_beside(&self, name: &LockName, parts: &[&str]) {
        for part in parts {
            self.delete(&[&format!("{{{name}}}:{part}")]);
        }
    }
}

#[async_trait]
impl Fixture for Redis {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        let port = self.server().port();
        self.join(&port.to_string()).await
    }

    fn store(&self) -> String {
        "redis".to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove, Hook::Forget, Hook::Processes, Hook::Link, Hook::Server, Hook::ServerLoss]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        if name.family() == Family::Semaphore {
            // Its grants; the limit and the queue stay.
            self.delete_beside(name, &["ps", "pm", "po"]);
        } else {
            self.delete(&[name.as_str()]);
        }
        Ok(())
    }

    async fn forget(&self, name: &LockName) -> Result<()> {
        if name.family() == Family::Semaphore {
            self.delete_beside(name, &["p", "pn", "pd", "ps", "pm", "po"]);
        } else {
            self.delete(&[name.as_str()]);
            self.delete_beside(name, &["n", "d", "t", "s", "m"]);
        }
        Ok(())
    }

    fn address(&self) -> Option<String> {
        Some(self.server().port().to_string())
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        let config = RedisConfig::tcp("127.0.0.1", address.parse().unwrap());
        Ok(Arc::new(RedisProvider::connect(config).await?))
    }
    async fn linked(&self) -> Result<Linked> {
        let link = Link::to(self.server().address()).map_err(failed)?;
        let client = self.join(&link.port().to_string()).await?;
        Ok(Linked::new(client, link))
    }

    async fn served(&self) -> Result<Served> {
        let server = Arc::new(RedisServer::builder().appendonly().start().map_err(failed)?);
        Ok(Served::new(Self(OnceLock::from(Arc::clone(&server))), server))
    }
}

fn failed(error: testbed::Error) -> Error {
    Error::unavailable(Applied::No, error)
}
