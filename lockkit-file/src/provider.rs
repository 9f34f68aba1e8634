//! The file store's client: local queues before the kernel's locks.

use std::path::PathBuf;
use std::sync::Arc;

use lockkit_core::{
    Error, Exclusion, Expiry, Fairness, Finding, Grant, Guarantees, Kind, LockName, LockProvider,
    LossReason, Operator, Request, Result, WakeUp, async_trait,
};
use tokio::runtime::Handle;

use crate::client::Client;
use crate::config::FileConfig;
use crate::error::failed;
use crate::events::POLL;
use crate::files::{self, LockFiles};
use crate::{acquire, network};

/// The file store: names are locked files of one directory, and a holder that dies has let go.
///
/// Clones are one provider; two providers of one directory exclude each other, in one process too.
/// Requests for one name wait in a queue, and its head waits for the kernel's word that the file
/// was closed. Every release goes through the kernel, so no process hands a name round among its
/// own tasks while others wait. Upholds C1 to C16 as its [`guarantees`](LockProvider::guarantees)
/// say.
#[derive(Clone, Debug)]
pub struct FileProvider(Arc<Client>);

impl FileProvider {
    /// What every store of this kind promises, known before one is opened (C13); where the kernel
    /// does not tell of closed files, a waiter looks again every 10 ms instead.
    pub const fn declared() -> Guarantees {
        let mut guarantees = Guarantees::new(Exclusion::OneHost, Expiry::HolderDeath);
        guarantees.fairness = Fairness::Eventual;
        guarantees.wake_up = WakeUp::Push;
        guarantees.kinds = &[Kind::Exclusive, Kind::Shared, Kind::Counted];
        guarantees.token_survives.server_restart = true;
        guarantees.token_survives.data_loss = true;
        guarantees.belief_breaks_on = &[
            "removal of both files of a name (or of the directory, or of a permit's file) under a holder in \
             another process, until that holder has noticed; of one of them, while it is being told",
            "a revocation, until the holder is told",
            "a network file system that drops locks or keeps them to one host",
        ];
        guarantees
    }

    /// Opens the store, and creates its directory if the parent exists.
    ///
    /// Warns (event `network_file_system`) if the directory lies on the network.
    ///
    /// # Errors
    /// `Invalid`: the path is empty, or its parent does not exist. `Rejected`: the directory
    /// cannot be used, or this is not a Unix system. `NoRuntime`: called outside tokio.
    ///
    /// # Panics
    /// In a tokio runtime that was built without `enable_io`.
    ///
    /// # Cancel safety
    /// Cancel-safe: it leaves at most an empty directory.
    #[allow(clippy::unused_async)] // as every backend connects
    pub async fn connect(config: FileConfig) -> Result<Self> {
        Handle::try_current().map_err(|_| Error::NoRuntime)?;
        let wished = config.directory();
        if wished.as_os_str().is_empty() {
            return Err(Error::invalid(
                "an empty path for the file store",
                "give the path of a directory, for example /var/lib/<program>/locks",
            ));
        }
        let directory = files::prepare(wished).map_err(|error| match wished.parent() {
            Some(parent) if error.kind() == std::io::ErrorKind::NotFound && !parent.exists() => {
                Error::invalid(
                    format!("the store {}: {} does not exist", wished.display(), parent.display()),
                    "create it first, or correct the path",
                )
            }
            _ => failed("opening the store", wished, &error),
        })?;
        network::warn(&directory);
        let client = Client::new(directory.into(), config.base());
        client.events.run()?;
        Ok(Self(client))
    }

    /// The file that is locked for `name`, be it there yet or not (C3).
    pub fn file_of(&self, name: &LockName) -> PathBuf {
        LockFiles::of(&self.0.directory, name).file
    }
}

#[async_trait]
impl LockProvider for FileProvider {
    fn guarantees(&self) -> Guarantees {
        let mut guarantees = Self::declared();
        if !self.0.events.push() {
            guarantees.wake_up = WakeUp::Poll(POLL);
        }
        guarantees
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        acquire::at_once(&self.0, request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        acquire::waiting(&self.0, request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        if let Some(slot) = self.0.forget(request.id()) {
            slot.end(LossReason::Removed);
        }
        Ok(())
    }

    fn operator(&self) -> Option<&dyn Operator> {
        Some(&*self.0)
    }

    async fn examine(&self) -> Result<Vec<Finding>> {
        self.0.examine().await
    }

    async fn close(&self) -> Result<()> {
        self.0.close();
        Ok(())
    }
}
