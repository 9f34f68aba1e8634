//! Fences in ZooKeeper: a node with the newest tokens, checked in the `multi` of the write, by the crate `zookeeper-client`.
//!
//! It serves locks from any store. A lock in the same ensemble needs no fence node: `lockkit_zk::ZkNode` tells the node that a `multi` checks while the
//! lock is held.
//!
//! ```no_run
//! # async fn write(client: zookeeper_client::Client, token: lockkit_fence::FencingToken) -> lockkit_fence::Result<()> {
//! use lockkit_fence::zookeeper::ZkFence;
//!
//! let fence = ZkFence::new(client, "/app/ledger-fence")?;
//! fence.raise(token).await?; // before the first read
//! fence.write(token, |multi| multi.add_set_data("/app/ledger", b"95", None)).await
//! # }
//! ```

use zookeeper_client::{Acls, Client, CreateMode, Error as ZkError, MultiWriteError, MultiWriter};

use crate::cell::{parsed, text};
use crate::name::checked_name;
use crate::{Access, Error, Fencing, Result, Seen};

/// The fence of one resource at a node of ZooKeeper; slots of a semaphore have nodes beside it.
#[derive(Clone, Debug)]
pub struct ZkFence {
    client: Client,
    path: String,
}

/// A node's content; no version: there is no such node.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    seen: Seen,
    version: Option<i32>,
}

impl ZkFence {
    /// The fence at this path, which nothing else may write. The node above it must be there.
    ///
    /// # Errors
    /// `Invalid`: the path does not begin with `/`, names no node, is longer than 255 bytes, or has a control character.
    pub fn new(client: Client, path: &str) -> Result<Self> {
        let path = checked_name(path)?;
        if !path.starts_with('/') || path.ends_with('/') {
            return Err(Error::invalid(
                format!("the path {path:?} of a fence"),
                "name a node, such as /app/ledger-fence",
            ));
        }
        Ok(Self { client, path: path.to_owned() })
    }

    /// Raises the fence, before the new holder reads. Upholds C14.
    ///
    /// # Errors
    /// `Stale`: a newer token has been seen. `Invalid`: the node holds something else, or the one above it is missing. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// As [`Fencing::raise`].
    pub async fn raise(&self, access: impl Into<Access> + Send) -> Result<()> {
        self.write(access, |_| Ok(())).await
    }

    /// Runs the operations that `add` adds in one `multi` with the check of the fence, and raises it. `add` is called again where another client
    /// raised the fence in between.
    ///
    /// # Errors
    /// As [`raise`](Self::raise). `Invalid` also: one of the operations failed. None of them ran after `Stale` and `Invalid`; after `Unavailable` all may
    /// have run, or none.
    ///
    /// # Cancel safety
    /// Dropped midway, the operations may have run or not.
    pub async fn write<A>(&self, access: impl Into<Access> + Send, add: A) -> Result<()>
    where
        A: Fn(&mut MultiWriter<'_>) -> std::result::Result<(), ZkError> + Send + Sync,
    {
        let access = access.into();
        let path = self.path_of(access);
        loop {
            let cell = self.read(&path).await?;
            let mut raised = cell.seen;
            raised.raise(access)?;
            let commit = {
                let mut multi = self.client.new_multi_writer();
                let fence = fence_operation(&mut multi, &path, cell, raised);
                fence.and_then(|()| add(&mut multi)).map_err(|error| refused(&error))?;
                multi.commit()
            };
            match commit.await {
                Ok(_) => return Ok(()),
                // Another client came first. The server of this one has it by now, or has it after a sync.
                Err(MultiWriteError::OperationFailed {
                    index: 0,
                    source: ZkError::BadVersion | ZkError::NodeExists | ZkError::NoNode,
                }) if self.has_parent(&path).await? => {
                    self.client.sync(&path).await.map_err(Error::unavailable)?;
                }
                Err(MultiWriteError::OperationFailed { source, .. }) => {
                    return Err(refused(&source));
                }
                Err(MultiWriteError::RequestFailed { source }) => {
                    return Err(Error::unavailable(source));
                }
            }
        }
    }

    /// Whether this access is not stale; remembers nothing.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn check(&self, access: impl Into<Access> + Send) -> Result<()> {
        let access = access.into();
        let path = self.path_of(access);
        self.client.sync(&self.path).await.map_err(Error::unavailable)?;
        Ok(self.read(&path).await?.seen.check(access)?)
    }

    fn path_of(&self, access: Access) -> String {
        access.slot().map_or_else(|| self.path.clone(), |slot| format!("{}-slot-{slot}", self.path))
    }

    async fn read(&self, path: &str) -> Result<Cell> {
        match self.client.get_data(path).await {
            Ok((data, stat)) => match parsed(&data) {
                Some(seen) => Ok(Cell { seen, version: Some(stat.version) }),
                None => Err(Error::invalid(
                    format!("the node {path} of ZooKeeper holds no fence"),
                    "take a node that only fences use",
                )),
            },
            Err(ZkError::NoNode) => Ok(Cell::default()),
            Err(error) => Err(Error::unavailable(error)),
        }
    }

    /// Whether the node above this one is there: without it no fence can be made.
    async fn has_parent(&self, path: &str) -> Result<bool> {
        let above = path.rsplit_once('/').map_or("", |(above, _)| above);
        if above.is_empty() {
            return Ok(true);
        }
        match self.client.check_stat(above).await.map_err(Error::unavailable)? {
            Some(_) => Ok(true),
            None => Err(Error::invalid(
                format!("the node {above} of ZooKeeper is missing"),
                "create it, then raise the fence",
            )),
        }
    }
}

/// The first operation: it fails where the fence is not as it was read.
fn fence_operation(
    multi: &mut MultiWriter<'_>,
    path: &str,
    cell: Cell,
    raised: Seen,
) -> std::result::Result<(), ZkError> {
    match cell.version {
        None => {
            let mode = CreateMode::Persistent.with_acls(Acls::anyone_all());
            multi.add_create(path, text(raised).as_bytes(), &mode)
        }
        Some(version) if raised == cell.seen => multi.add_check_version(path, version),
        Some(version) => multi.add_set_data(path, text(raised).as_bytes(), Some(version)),
    }
}

fn refused(error: &ZkError) -> Error {
    Error::invalid(
        format!("ZooKeeper refused an operation: {error}"),
        "correct it; none of the operations ran",
    )
}

impl Fencing for ZkFence {
    async fn raise(&self, access: Access) -> Result<()> {
        Self::raise(self, access).await
    }

    async fn check(&self, access: Access) -> Result<()> {
        Self::check(self, access).await
    }

    /// A majority of the servers has it on the disk.
    fn is_durable(&self) -> bool {
        true
    }
}
