//! Where the kernel's file lock keeps others from reading the file: refused, with a way out.

use std::convert::Infallible;

use lockkit_core::{
    Error, Grant, Guarantees, LockProvider, Operator, Request, Result, async_trait,
};

use crate::FileConfig;

/// The file store; on this system it cannot be connected.
#[derive(Clone, Debug)]
pub struct FileProvider(Infallible);

impl FileProvider {
    /// Refuses: file locks are mandatory here, so no process could read who holds a name.
    ///
    /// # Errors
    /// `Rejected`: always.
    #[allow(clippy::unused_async)] // the same signature on every system
    pub async fn connect(config: FileConfig) -> Result<Self> {
        Err(Error::rejected(
            format!("the file store in {} on this system", config.directory().display()),
            "it runs on Linux and macOS; here take a store with a server (redis, etcd, postgres), \
             or `memory:` within one process",
        ))
    }
}

#[async_trait]
impl LockProvider for FileProvider {
    fn guarantees(&self) -> Guarantees {
        match self.0 {}
    }

    async fn try_acquire(&self, _: &Request) -> Result<Option<Grant>> {
        match self.0 {}
    }

    async fn acquire(&self, _: &Request) -> Result<Grant> {
        match self.0 {}
    }

    async fn withdraw(&self, _: &Request) -> Result<()> {
        match self.0 {}
    }

    fn operator(&self) -> Option<&dyn Operator> {
        match self.0 {}
    }

    async fn close(&self) -> Result<()> {
        match self.0 {}
    }
}
