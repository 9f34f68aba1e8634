//! The nodes that locks lie below: made on demand, and gone when no lock needs them.

use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::error::Outcome;

/// Makes the node and all above it, as containers where the servers have them.
///
/// Servers remove an empty container sooner or later, so a client that creates below it may have to ask
/// again.
pub(crate) async fn make(client: &Client, path: &str, acls: Acls<'_>) -> Outcome<()> {
    match client.mkdir(path, &CreateMode::Container.with_acls(acls)).await {
        Err(Error::Unimplemented) => {
            client.mkdir(path, &CreateMode::Persistent.with_acls(acls)).await
        }
        outcome => outcome,
    }
}
