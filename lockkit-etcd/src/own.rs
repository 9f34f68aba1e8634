//! A request's own key, and the transactions on it.

use etcd_client::{Compare, CompareOp, GetOptions, GetResponse, PutOptions, Txn, TxnOp};
use lockkit_core::Request;

use crate::mark::Mark;
use crate::protocol::{Directory, Keys, Seen, value};
use crate::slots::{Removal, Slot};

/// A request's key, and the guard of its puts.
#[derive(Debug)]
pub(crate) struct Own {
    pub(crate) slot: Slot,
    pub(crate) key: Vec<u8>,
    guard: Vec<u8>,
    /// No other use of the key has this one.
    value: String,
    lease: i64,
}

/// What lies at a request's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Nothing,
    /// Its own key, created at this revision.
    Own(i64),
    /// What a backup has brought back or an operator has put, created at this revision.
    Stray(i64),
}

impl Own {
    pub(crate) fn new(keys: &Keys, lease: i64, slot: Slot, request: &Request) -> Self {
        Self {
            slot,
            key: keys.directory(request.name()).key(lease, slot.key),
            guard: keys.guard(lease, slot.guard),
            value: value(slot.serial, request.kind(), request.label()),
            lease,
        }
    }

    /// Refused once a removal has touched the guard since `revision`, where the key is there already, and by a
    /// cluster that has not this mark.
    fn guards(&self, revision: i64, mark: &Mark) -> Vec<Compare> {
        vec![
            Compare::mod_revision(&*self.guard, CompareOp::Equal, revision),
            Compare::create_revision(&*self.key, CompareOp::Equal, 0),
            mark.is_there(),
        ]
    }

    fn put(&self) -> TxnOp {
        TxnOp::put(&*self.key, &*self.value, Some(PutOptions::new().with_lease(self.lease)))
    }

    fn see(&self, mark: &Mark) -> Vec<TxnOp> {
        let keys_only = Some(GetOptions::new().with_keys_only());
        vec![TxnOp::get(&*self.key, None), TxnOp::get(&*self.guard, keys_only), mark.read()]
    }

    /// What a read of the key found.
    pub(crate) fn find(&self, found: &GetResponse) -> Found {
        match found.kvs().first() {
            None => Found::Nothing,
            Some(kv) if kv.value() == self.value.as_bytes() && kv.lease() == self.lease => {
                Found::Own(kv.create_revision())
            }
            Some(kv) => Found::Stray(kv.create_revision()),
        }
    }

    /// Joins the queue, and counts the keys in it.
    pub(crate) fn enter(&self, at: &Directory, mark: &Mark, revision: i64) -> Txn {
        let place = vec![self.put(), at.some(1)];
        Txn::new().when(self.guards(revision, mark)).and_then(place).or_else(self.see(mark))
    }

    /// Takes the name if nothing is below it, or only what was there at `known`, which is stray, or shares with it;
    /// reads what is there if not.
    pub(crate) fn take(
        &self,
        at: &Directory,
        mark: &Mark,
        revision: i64,
        known: Option<i64>,
        read: TxnOp,
    ) -> Txn {
        let mut guards = self.guards(revision, mark);
        guards.push(at.is_free(known));
        let mut see = self.see(mark);
        see.push(read);
        Txn::new().when(guards).and_then(vec![self.put()]).or_else(see)
    }

    /// Checks that the key is there: etcd serves a transaction that reads nothing from old state.
    pub(crate) fn check(&self, created: i64) -> Txn {
        let read = TxnOp::get(&*self.key, Some(GetOptions::new().with_keys_only()));
        Txn::new().when([is_there(&self.key, created)]).or_else([read])
    }

    /// Deletes what is in the slot, and has refused what may still come; `None`: there is nothing to send.
    pub(crate) fn remove(&self, removal: Removal) -> Option<Txn> {
        match removal {
            Removal::Nothing => None,
            Removal::Exact(created) => Some(delete(&self.key, created)),
            Removal::ByValue { touches } => {
                let on_lease = || Some(PutOptions::new().with_lease(self.lease));
                let touch = || touches.then(|| TxnOp::put(&*self.guard, "", on_lease()));
                let delete = TxnOp::delete(&*self.key, None);
                let is_own = Compare::value(&*self.key, CompareOp::Equal, &*self.value);
                let txn = Txn::new().when([is_own]);
                let txn = txn.and_then([delete].into_iter().chain(touch()).collect::<Vec<_>>());
                Some(txn.or_else(touch().into_iter().collect::<Vec<_>>()))
            }
        }
    }
}

fn is_there(key: &[u8], created: i64) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, created)
}

/// Deletes a key if this revision created it.
pub(crate) fn delete(key: &[u8], created: i64) -> Txn {
    Txn::new().when([is_there(key, created)]).and_then([TxnOp::delete(key, None)])
}

/// Runs `take` unless this contender is still there: then nothing more is compared or read, however long the
/// queue is.
pub(crate) fn unless_there((key, revision): &Seen, take: Txn) -> Txn {
    let is_there = Compare::mod_revision(&**key, CompareOp::Equal, *revision);
    Txn::new().when([is_there]).or_else([TxnOp::txn(take)])
}
