//! The conformance suite on a cluster of three, with elections for slow machines: its least ttl is 5 s.

#![allow(clippy::unwrap_used)]

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{Fixture, Hook, main as suite};
use lockkit_core::{Applied, Error, LockName, LockProvider, Result, async_trait};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::{EtcdCluster, EtcdServer};

fn main() -> ExitCode {
    suite(Three::default())
}

/// One cluster for all cases, started at the first connection.
#[derive(Default)]
struct Three(OnceLock<EtcdCluster>);

impl Three {
    fn cluster(&self) -> &EtcdCluster {
        let start = || {
            let slow = EtcdServer::builder().argument("--heartbeat-interval=300");
            slow.argument("--election-timeout=3000").start_cluster(3).unwrap()
        };
        self.0.get_or_init(start)
    }
}

#[async_trait]
impl Fixture for Three {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        self.join(&self.address().unwrap()).await
    }

    fn hooks(&self) -> &[Hook] {
        &[Hook::Remove, Hook::Processes]
    }

    async fn remove(&self, name: &LockName) -> Result<()> {
        let removed = self.cluster().cli(0, &["del", "--prefix", &format!("lockkit/{name}/")]);
        removed.map(drop).map_err(|error| Error::unavailable(Applied::No, error))
    }

    fn address(&self) -> Option<String> {
        let ports =
            self.cluster().addresses().into_iter().map(|address| address.port().to_string());
        Some(ports.collect::<Vec<_>>().join(","))
    }

    async fn join(&self, address: &str) -> Result<Arc<dyn LockProvider>> {
        let members = address.split(',').map(|port| ("127.0.0.1", port.parse().unwrap()));
        Ok(Arc::new(EtcdProvider::connect(EtcdConfig::new(members)).await?))
    }
}
