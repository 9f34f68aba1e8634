//! The nodes that locks lie below: made on demand, and gone when no lock needs them.

use lockkit_core::{Result, kit};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::error::{Outcome, to_error};

/// What the data of the base begins with; the layout of what lies below follows.
const MARK: &str = "lockkit-layout ";
/// The layout that this version makes, the newest that it can share.
const LAYOUT: u32 = 1;

/// Makes the node and all above it, as containers where the servers have them; a base that is made
/// carries the mark of the layout.
///
/// Servers remove an empty container sooner or later, so a client that creates below it may have to ask
/// again.
pub(crate) async fn make(client: &Client, base: &str, path: &str, acls: Acls<'_>) -> Outcome<()> {
    match make_as(CreateMode::Container, client, base, path, acls).await {
        Err(Error::Unimplemented) => {
            make_as(CreateMode::Persistent, client, base, path, acls).await
        }
        outcome => outcome,
    }
}

async fn make_as(
    mode: CreateMode,
    client: &Client,
    base: &str,
    path: &str,
    acls: Acls<'_>,
) -> Outcome<()> {
    let options = mode.with_acls(acls);
    match client.create(path, &[], &options).await {
        Ok(_) | Err(Error::NodeExists) => return Ok(()),
        Err(Error::NoNode) => {}
        Err(error) => return Err(error),
    }
    match base.rsplit_once('/') {
        None | Some(("", _)) => {}
        Some((above, _)) => client.mkdir(above, &options).await?,
    }
    // A base that is there belongs to the client that made it, and stays as it is.
    match client.create(base, format!("{MARK}{LAYOUT}").as_bytes(), &options).await {
        Ok(_) | Err(Error::NodeExists) => client.mkdir(path, &options).await,
        Err(error) => Err(error),
    }
}

/// Refuses a base below which a newer layout is kept; its data are another client's, or the mark.
fn check_layout(data: &[u8]) -> Result<()> {
    let number = std::str::from_utf8(data).ok().and_then(|data| data.strip_prefix(MARK));
    kit::check_layout("the base in ZooKeeper", number.map(str::trim_end), LAYOUT, "base")
}

/// Refuses what a look at the base shows: no right to it, or a newer layout.
pub(crate) async fn check(client: &Client, base: &str) -> Result<()> {
    // Both are sent at once.
    let (listed, read) = tokio::join!(client.list_children(base), client.get_data(base));
    match listed {
        Ok(_) | Err(Error::NoNode) => {}
        Err(error) => return Err(to_error(&error)),
    }
    match read {
        Ok((data, _)) => check_layout(&data),
        Err(Error::NoNode) => Ok(()),
        Err(error) => Err(to_error(&error)),
    }
}
