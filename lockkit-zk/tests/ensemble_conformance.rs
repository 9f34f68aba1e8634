//! The conformance suite on an ensemble of three.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use lockkit_core::conformance::{Fixture, Hook, main as suite};
use lockkit_core::{LockProvider, Result, async_trait};
use lockkit_zk::{ZkConfig, ZkProvider};
use testbed::{ZkEnsemble, ZkServer};

fn main() -> ExitCode {
    suite(Three::default())
}

/// One ensemble for all cases, started at the first connection.
#[derive(Default)]
struct Three(OnceLock<ZkEnsemble>);

/// The unit of the servers' time.
const TICK: Duration = Duration::from_millis(500);

impl Three {
    fn ensemble(&self) -> &ZkEnsemble {
        self.0.get_or_init(|| {
            ZkServer::builder().tick(TICK).line("maxClientCnxns=0").start_ensemble(3).unwrap()
        })
    }
}

#[async_trait]
impl Fixture for Three {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        self.join(&self.address().unwrap()).await
    }

    fn store(&self) -> String {
        "zookeeper, three members".to_owned()
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Processes]
    }

    fn address(&self) -> Option<String> {
        let addresses = self.ensemble().addresses().into_iter().map(|address| address.to_string());
        Some(addresses.collect::<Vec<_>>().join(","))
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        let config = ZkConfig::new(address.split(',')).tick(TICK);
        Ok(Arc::new(ZkProvider::connect(config).await?))
    }
}
