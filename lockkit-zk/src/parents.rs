//! The nodes that locks lie below: made on demand, and gone when no lock needs them.

use lockkit_core::{Result, kit};
use zookeeper_client::{Acls, Client, CreateMode, Error};

use crate::Layout;
use crate::error::{Outcome, to_error};

/// What the data of the base begins with; the layout of what lies below follows.
const MARK: &str = "lockkit-layout ";
/// The layout that this version makes, the newest that it can share. Layout 1 has no base of its tokens.
const LAYOUT: u32 = 2;

/// What the data of a base tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mark {
    /// The layout that this version makes.
    Ours,
    /// An older layout, or another program's data.
    Other,
}

/// What the data of the base tell of its layout.
pub(crate) fn mark(data: &[u8]) -> Mark {
    let is_ours = number(data).is_some_and(|number| number == LAYOUT.to_string());
    if is_ours { Mark::Ours } else { Mark::Other }
}

/// The data of a base that this version makes.
pub(crate) fn new_mark() -> String {
    format!("{MARK}{LAYOUT}")
}

/// Makes the node of a name and all above it; whether the base was made too.
///
/// Servers remove an empty container sooner or later, so a client that creates below it may have to ask
/// again. kazoo's `Lock` does not: under its layout the node stays.
pub(crate) async fn make(
    client: &Client,
    base: &str,
    path: &str,
    layout: Layout,
    acls: Acls<'_>,
) -> Outcome<bool> {
    let mode = match layout {
        Layout::Curator => CreateMode::Container,
        Layout::Kazoo | Layout::Both => CreateMode::Persistent,
    };
    match make_node(client, path, &[], mode, acls).await {
        Err(Error::NoNode) => {}
        outcome => return outcome.map(|()| false),
    }
    make_base(client, base, acls).await?;
    make_node(client, path, &[], mode, acls).await?;
    Ok(true)
}

/// Makes the base, with the mark of the layout, and all above it; a base that is there stays as it is.
pub(crate) async fn make_base(client: &Client, base: &str, acls: Acls<'_>) -> Outcome<()> {
    let mark = new_mark();
    let made =
        async || make_node(client, base, mark.as_bytes(), CreateMode::Persistent, acls).await;
    match made().await {
        Err(Error::NoNode) => {}
        outcome => return outcome,
    }
    if let Some((above, _)) = base.rsplit_once('/').filter(|(above, _)| !above.is_empty()) {
        client.mkdir(above, &CreateMode::Persistent.with_acls(acls)).await?;
    }
    made().await
}

async fn make_node(
    client: &Client,
    path: &str,
    data: &[u8],
    mode: CreateMode,
    acls: Acls<'_>,
) -> Outcome<()> {
    match client.create(path, data, &mode.with_acls(acls)).await {
        Ok(_) | Err(Error::NodeExists) => Ok(()),
        // A server without containers.
        Err(Error::Unimplemented) if mode == CreateMode::Container => {
            Box::pin(make_node(client, path, data, CreateMode::Persistent, acls)).await
        }
        Err(error) => Err(error),
    }
}

/// The layout that the data of a base name; its data are another client's, or the mark.
fn number(data: &[u8]) -> Option<&str> {
    let number = std::str::from_utf8(data).ok().and_then(|data| data.strip_prefix(MARK));
    number.map(str::trim_end)
}

/// Refuses what a look at the base shows: no right to it, or a newer layout.
pub(crate) async fn check(client: &Client, base: &str) -> Result<()> {
    // Both are sent at once.
    let (listed, read) = tokio::join!(client.list_children(base), client.get_data(base));
    match listed {
        Ok(_) | Err(Error::NoNode) => {}
        Err(error) => return Err(refused(base, &error)),
    }
    match read {
        Ok((data, _)) => kit::check_layout("the base in ZooKeeper", number(&data), LAYOUT, "base"),
        Err(Error::NoNode) => Ok(()),
        Err(error) => Err(refused(base, &error)),
    }
}

/// Why the base cannot be read.
fn refused(base: &str, error: &Error) -> lockkit_core::Error {
    match to_error(error) {
        lockkit_core::Error::Rejected { what, remedy, .. } => {
            lockkit_core::Error::rejected(format!("reading {base}: {what}"), remedy)
        }
        error => error,
    }
}
