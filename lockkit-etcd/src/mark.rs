//! The mark that the first client of all leaves in a cluster, to stay.

use etcd_client::{Compare, CompareOp, GetResponse, Txn, TxnOp};
use lockkit_core::{Error, RequestId, Result, kit};

/// The layout of what this version puts, the newest that it can share.
const LAYOUT: u32 = 2;
/// What the base of a cluster's tokens is at most: room for as many revisions as no cluster will ever reach.
pub(crate) const MOST_BASE: u64 = 1 << 62;

/// What tells one cluster from another, the layout of its keys, and the base of its tokens: `2:`, a random
/// text, `:` and the base in decimal, put once to stay.
///
/// etcd's own cluster id does not tell: it follows from the members' addresses and a token, so that two
/// servers with default settings share one.
///
/// A cluster that was in use before there were bases has none: its mark is `1:` and the random text, or that
/// alone, and stays as it is.
#[derive(Clone, Debug)]
pub(crate) struct Mark {
    key: Vec<u8>,
    value: Vec<u8>,
    base: u64,
}

impl Mark {
    /// The mark of a cluster that has none yet, with the base of its tokens.
    pub(crate) fn new(key: String, base: u64) -> Result<Self> {
        let random = u128::from_be_bytes(RequestId::random()?.to_bytes());
        let value = format!("{LAYOUT}:{random:032x}:{base}").into_bytes();
        Ok(Self { key: key.into_bytes(), value, base })
    }

    /// The cluster's mark with this text, whose layout was checked.
    pub(crate) fn found(key: String, value: &[u8]) -> Result<Self> {
        let parts: Vec<_> = value.split(|byte| *byte == b':').collect();
        let base = match parts[..] {
            [b"2", _, base] => {
                let base = std::str::from_utf8(base).ok().and_then(|base| base.parse().ok());
                base.filter(|base| *base <= MOST_BASE)
            }
            [b"2", ..] => None,
            _ => Some(0),
        };
        let base = base.ok_or_else(|| {
            Error::rejected(
                format!(
                    "the mark {key}, {:?}, names no base of tokens",
                    String::from_utf8_lossy(value)
                ),
                "restore its text from a backup, or use another prefix",
            )
        })?;
        Ok(Self { key: key.into_bytes(), value: value.to_vec(), base })
    }

    /// What is added to the cluster's revisions, which are the tokens.
    pub(crate) const fn base(&self) -> u64 {
        self.base
    }

    pub(crate) fn key(&self) -> &[u8] {
        &self.key
    }

    /// Whether this is what a read of the mark found; `None`: there was none.
    pub(crate) fn is_in(&self, found: &GetResponse) -> Option<bool> {
        found.kvs().first().map(|kv| kv.value() == self.value)
    }

    /// Refuses a cluster whose mark, as a read found it, is of a newer layout.
    pub(crate) fn check_layout(found: &GetResponse, of: &str) -> Result<()> {
        let mark = found.kvs().first().and_then(|kv| std::str::from_utf8(kv.value()).ok());
        let number = mark.and_then(|mark| mark.split_once(':')).map(|(number, _)| number);
        kit::check_layout(of, number, LAYOUT, "prefix")
    }

    pub(crate) fn is_there(&self) -> Compare {
        Compare::value(&*self.key, CompareOp::Equal, &*self.value)
    }

    pub(crate) fn read(&self) -> TxnOp {
        TxnOp::get(&*self.key, None)
    }

    /// Puts the mark unless there is one, which it reads.
    pub(crate) fn put(&self) -> Txn {
        Txn::new()
            .when([Compare::create_revision(&*self.key, CompareOp::Equal, 0)])
            .and_then([TxnOp::put(&*self.key, &*self.value, None)])
            .or_else([self.read()])
    }
}
