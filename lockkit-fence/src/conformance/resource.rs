//! What the cases are about.

use std::future::Future;

use crate::{Access, Fencing, Result};

/// A fence, and a number that it stands before.
pub trait Resource: Fencing + Send + Sync {
    /// Begins as a new holder does: raises the fence, then reads the number, which is 0 at first.
    fn begin(&self, access: Access) -> impl Future<Output = Result<u64>> + Send;

    /// Writes the number, if the access is not stale; raises the fence too.
    fn write(&self, access: Access, value: u64) -> impl Future<Output = Result<()>> + Send;

    /// This resource after a restart: called where it says that it is durable.
    fn restarted(self) -> impl Future<Output = Self> + Send;
}
