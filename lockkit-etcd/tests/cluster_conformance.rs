//! The conformance suite on a cluster of three.
#![cfg(unix)]
#![allow(clippy::unwrap_used)]

use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};

use lockkit_core::conformance::{Fixture, Hook, main as suite};
use lockkit_core::{Applied, Error, LockName, LockProvider, Result, async_trait};
use lockkit_etcd::{EtcdConfig, EtcdProvider};
use testbed::EtcdCluster;

/// One case at a time: three members write each step to one disk, and the cases have limits.
fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument.starts_with("--test-threads")) {
        return suite(Three::default());
    }
    let own = std::env::current_exe().unwrap();
    let error = Command::new(own).args(arguments).arg("--test-threads=1").exec();
    panic!("the suite does not start again: {error}");
}

/// One cluster for all cases, started at the first connection.
#[derive(Default)]
struct Three(OnceLock<EtcdCluster>);

impl Three {
    fn cluster(&self) -> &EtcdCluster {
        self.0.get_or_init(|| EtcdCluster::start(3).unwrap())
    }
}

#[async_trait]
impl Fixture for Three {
    async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
        self.join(&self.address().unwrap()).await
    }

    fn store(&self) -> String {
        "etcd, three members".to_owned()
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
