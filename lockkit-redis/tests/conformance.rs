//! The conformance suite on a real Redis.

#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{Fixture, Hook, main as suite};
use lockkit_core::{LockName, LockProvider, Result, async_trait};
use lockkit_redis::{RedisConfig, RedisProvider};
use testbed::RedisServer;

fn main() -> ExitCode {
    suite(Redis::default())
}

/// One server for all cases, started at the first connection.
#[derive(Default)]
struct Redis(OnceLock<RedisServer>);

impl Redis {
    fn server(&self) -> &RedisServer {
        self.0.get_or_init(|| RedisServer::start().unwrap())
    }

    fn delete(&self, keys: &[&str]) {
        self.server().cli(&[&["DEL"], keys].concat()).unwrap();
    }
}

#[async_trait]
impl Fixture for Redis {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        let port = self.server().port();
        self.join(&port.to_string()).await
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove, Hook::Forget, Hook::Processes]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        self.delete(&[name.as_str()]);
        Ok(())
    }

    async fn forget(&self, name: &LockName) -> Result<()> {
        let parts: Vec<_> = "qwxf".chars().map(|part| format!("{{{name}}}:{part}")).collect();
        self.delete(
            &[&[name.as_str()], &*parts.iter().map(String::as_str).collect::<Vec<_>>()].concat(),
        );
        Ok(())
    }

    fn address(&self) -> Option<String> {
        Some(self.server().port().to_string())
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        let config = RedisConfig::tcp("127.0.0.1", address.parse().unwrap());
        Ok(Arc::new(RedisProvider::connect(config).await?))
    }
}
