//! Fences in etcd: a key with the newest tokens, compared in the transaction of the write, by the crate `etcd-client`.
//!
//! It serves locks from any store. A lock in the same etcd needs no fence key: `lockkit_etcd::EtcdGrant::held` is a compare that holds while the
//! lock does.
//!
//! ```no_run
//! # async fn write(client: etcd_client::Client, token: lockkit_fence::FencingToken) -> lockkit_fence::Result<()> {
//! use etcd_client::TxnOp;
//! use lockkit_fence::etcd::EtcdFence;
//!
//! let fence = EtcdFence::new(client, "app/ledger/fence")?;
//! fence.raise(token).await?; // before the first read
//! fence.write(token, vec![TxnOp::put("app/ledger", "95", None)]).await
//! # }
//! ```

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use etcd_client::{Client, Compare, CompareOp, GetResponse, Txn, TxnOp, TxnOpResponse};

use crate::cell::{parsed, text};
use crate::name::checked_name;
use crate::{Access, Error, Fencing, Result, Seen};

/// The fence of one resource at a key of etcd; slots of a semaphore have keys below it.
pub struct EtcdFence {
    client: Client,
    key: String,
    /// What each key held at last, and the revision of its last change: it spares the read before a write.
    known: Mutex<BTreeMap<String, Cell>>,
}

/// A key's content; revision 0: there is no such key.
#[derive(Clone, Copy, Debug, Default)]
struct Cell {
    seen: Seen,
    revision: i64,
}

impl EtcdFence {
    /// The fence at this key, which nothing else may write.
    ///
    /// # Errors
    /// `Invalid`: the key is empty, longer than 255 bytes, or has a control character.
    pub fn new(client: Client, key: &str) -> Result<Self> {
        Ok(Self { client, key: checked_name(key)?.to_owned(), known: Mutex::default() })
    }

    /// Raises the fence, before the new holder reads. Upholds C14.
    ///
    /// # Errors
    /// `Stale`: a newer token has been seen. `Invalid`: the key holds something else. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// As [`Fencing::raise`].
    pub async fn raise(&self, access: impl Into<Access> + Send) -> Result<()> {
        self.write(access, Vec::new()).await
    }

    /// Runs these operations in one transaction with the check of the fence, and raises it.
    ///
    /// # Errors
    /// As [`raise`](Self::raise); none of them ran after `Stale` and `Invalid`. After `Unavailable` all may have run, or none.
    ///
    /// # Cancel safety
    /// Dropped midway, the operations may have run or not.
    pub async fn write(
        &self,
        access: impl Into<Access> + Send,
        operations: Vec<TxnOp>,
    ) -> Result<()> {
        let access = access.into();
        let key = self.key_of(access);
        let mut cell = match self.known(&key) {
            Some(cell) => cell,
            None => self.read(&key).await?,
        };
        loop {
            let mut raised = cell.seen;
            raised.raise(access)?;
            let is_new = raised != cell.seen;
            let put = is_new.then(|| TxnOp::put(&*key, text(raised), None));
            let unchanged = Compare::mod_revision(&*key, CompareOp::Equal, cell.revision);
            let run: Vec<_> = put.into_iter().chain(operations.iter().cloned()).collect();
            let txn = Txn::new().when([unchanged]).and_then(run).or_else([TxnOp::get(&*key, None)]);
            let answer = self.client.kv_client().txn(txn).await.map_err(Error::unavailable)?;
            if answer.succeeded() {
                let at = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
                self.remember(
                    key,
                    Cell { seen: raised, revision: if is_new { at } else { cell.revision } },
                );
                return Ok(());
            }
            let found = answer.op_responses().into_iter().find_map(|response| match response {
                TxnOpResponse::Get(found) => Some(found),
                _ => None,
            });
            cell = self.cell(
                &key,
                &found.ok_or_else(|| Error::unavailable("etcd answered without the key"))?,
            )?;
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
        Ok(self.read(&self.key_of(access)).await?.seen.check(access)?)
    }

    fn key_of(&self, access: Access) -> String {
        access.slot().map_or_else(|| self.key.clone(), |slot| format!("{}/slot/{slot}", self.key))
    }

    async fn read(&self, key: &str) -> Result<Cell> {
        let found = self.client.kv_client().get(key, None).await.map_err(Error::unavailable)?;
        self.cell(key, &found)
    }

    fn cell(&self, key: &str, found: &GetResponse) -> Result<Cell> {
        let Some(pair) = found.kvs().first() else { return Ok(Cell::default()) };
        let seen = parsed(pair.value()).ok_or_else(|| {
            let what = format!("the key {key:?} of etcd holds no fence");
            Error::invalid(what, "take a key that only fences use")
        })?;
        let cell = Cell { seen, revision: pair.mod_revision() };
        self.remember(key.to_owned(), cell);
        Ok(cell)
    }

    fn known(&self, key: &str) -> Option<Cell> {
        self.all().get(key).copied()
    }

    /// Keeps the newer one: answers may come in any order.
    fn remember(&self, key: String, cell: Cell) {
        let mut all = self.all();
        let kept = all.entry(key).or_insert(cell);
        if kept.revision < cell.revision {
            *kept = cell;
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Cell>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for EtcdFence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdFence").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Fencing for EtcdFence {
    async fn raise(&self, access: Access) -> Result<()> {
        Self::raise(self, access).await
    }

    async fn check(&self, access: Access) -> Result<()> {
        Self::check(self, access).await
    }

    /// A majority of the members has it on the disk.
    fn is_durable(&self) -> bool {
        true
    }
}
