//! What lies in the store, and the transactions on it.
//!
//! A contender's key is `<prefix>/<name>/<lease in hex>-<request in decimal>`, with its label as the
//! value; Go's clients leave `<lease in hex>`. Who was created first holds; the token is the
//! create revision. Beside the names lies a session key for each lease: `<prefix>/%/<lease in hex>`,
//! and the cluster's mark, `<prefix>/%/cluster`, which stays.

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, GetResponse, KeyValue, PutOptions, Txn,
    TxnOp, TxnOpResponse, TxnResponse,
};
use futures_util::future::BoxFuture;
use lockkit_core::{Applied, Error, LockName, RequestId, Result};

use crate::mark::Mark;

/// How many keys an attempt looks at first: only stray ones make it more.
pub(crate) const FEW: i64 = 4;

/// Where this deployment's keys lie.
#[derive(Clone, Debug)]
pub(crate) struct Keys(String);

/// A name's directory.
#[derive(Clone, Debug)]
pub(crate) struct Directory(String);

/// A contender's key, and its revision: as long as it has that one, its name is not free.
pub(crate) type Seen = (Vec<u8>, i64);

/// One that holds or waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Contender {
    pub(crate) key: Vec<u8>,
    /// The revision that created it: its place in the queue, and its token.
    pub(crate) created: i64,
    pub(crate) lease: i64,
    pub(crate) label: String,
    /// Whether a client of lockkit left it.
    pub(crate) is_ours: bool,
}

impl Keys {
    pub(crate) fn new(prefix: &str) -> Self {
        let prefix = prefix.trim_end_matches('/');
        Self(if prefix.is_empty() { String::new() } else { format!("{prefix}/") })
    }

    /// What all keys begin with.
    pub(crate) fn range(&self) -> &str {
        &self.0
    }

    /// The key of the cluster's mark: no lease has an id that reads like it.
    pub(crate) fn mark(&self) -> String {
        format!("{}%/cluster", self.range())
    }

    pub(crate) fn directory(&self, name: &LockName) -> Directory {
        Directory(format!("{}{}/", self.0, escape(name.as_str())))
    }

    /// What the directories of all names with this prefix begin with.
    pub(crate) fn directories(&self, prefix: &str) -> String {
        format!("{}{}", self.0, escape(prefix))
    }

    /// Where the directories of the names with this prefix that come after `after` begin, or before.
    pub(crate) fn directories_after(&self, prefix: &str, after: Option<&LockName>) -> String {
        let after = after.map_or("", LockName::as_str);
        let Some(below) = after.strip_prefix(prefix) else { return self.directories(prefix) };
        // Of `/` and what comes before it in names, only `%` and less comes before it here.
        match below.find(|c| ('&'..'/').contains(&c)) {
            Some(at) => self.directories(&format!("{prefix}{}/", &below[..at])),
            None => self.directories(after),
        }
    }

    /// No name is escaped to a bare `%`.
    pub(crate) fn session(&self, lease: i64) -> Vec<u8> {
        format!("{}%/{lease:x}", self.0).into_bytes()
    }

    /// The name and the contender that a key stands for; `None` for a key that is none of either.
    pub(crate) fn contender(&self, kv: &KeyValue) -> Option<(LockName, Contender)> {
        let below = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&self.0)?;
        let escaped = below.split('/').next()?;
        let name = LockName::new(unescape(escaped)?).ok()?;
        let contender = self.directory(&name).contender(kv)?;
        Some((name, contender))
    }
}

impl Directory {
    /// What all keys below the name begin with.
    pub(crate) fn range(&self) -> &str {
        &self.0
    }

    pub(crate) fn key(&self, lease: i64, request: RequestId) -> Vec<u8> {
        format!("{}{lease:x}-{}", self.0, u128::from_be_bytes(request.to_bytes())).into_bytes()
    }

    /// Only a lease's key directly below the name contends: a stray key blocks no request.
    pub(crate) fn contender(&self, kv: &KeyValue) -> Option<Contender> {
        let below = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&self.0)?;
        let is_ours = shape(below).filter(|_| kv.lease() != 0)?;
        Some(Contender {
            key: kv.key().to_vec(),
            created: kv.create_revision(),
            lease: kv.lease(),
            label: String::from_utf8_lossy(kv.value()).into_owned(),
            is_ours,
        })
    }

    /// Those among these keys that contend, in the order of the queue.
    pub(crate) fn contenders(&self, found: &GetResponse) -> Vec<Contender> {
        let mut queue: Vec<_> = found.kvs().iter().filter_map(|kv| self.contender(kv)).collect();
        queue.sort_unstable_by_key(|contender| contender.created);
        queue
    }

    /// All keys below the name, in no order: sorting is cheaper here than in the server.
    pub(crate) fn all(&self) -> TxnOp {
        TxnOp::get(self.0.as_str(), Some(GetOptions::new().with_prefix()))
    }

    /// A few of them, in no order, and how many there are. In no order this touches the server's index and as
    /// many keys, in any order all keys of the queue.
    fn some(&self, limit: i64) -> TxnOp {
        let options = GetOptions::new().with_prefix().with_limit(limit).with_keys_only();
        TxnOp::get(self.0.as_str(), Some(options))
    }
}

/// A request's key, and the session that it lives on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) lease: i64,
    pub(crate) session: &'a [u8],
}

impl Own<'_> {
    /// Refused once anybody has touched the session key since `revision`, where the key is there
    /// already: a replay, and by a cluster that has not this mark.
    fn guards(&self, revision: i64, mark: &Mark) -> Vec<Compare> {
        vec![
            self.is_untouched_since(revision),
            Compare::create_revision(self.key, CompareOp::Equal, 0),
            mark.is_there(),
        ]
    }

    fn is_untouched_since(&self, revision: i64) -> Compare {
        Compare::mod_revision(self.session, CompareOp::Equal, revision)
    }

    fn put(&self, label: &str) -> TxnOp {
        TxnOp::put(self.key, label, Some(PutOptions::new().with_lease(self.lease)))
    }

    fn see(&self, mark: &Mark) -> Vec<TxnOp> {
        let keys_only = Some(GetOptions::new().with_keys_only());
        vec![self.read(), TxnOp::get(self.session, keys_only), mark.read()]
    }

    /// Touches the session key, so that what was sent before is refused when it comes.
    fn touch(&self) -> TxnOp {
        TxnOp::put(self.session, "", Some(PutOptions::new().with_lease(self.lease)))
    }

    /// Joins the queue, and counts the keys in it.
    pub(crate) fn enter(&self, at: &Directory, mark: &Mark, revision: i64, label: &str) -> Txn {
        let place = vec![self.put(label), at.some(1)];
        Txn::new().when(self.guards(revision, mark)).and_then(place).or_else(self.see(mark))
    }

    /// Takes the name if nothing is below it, or only what was there at `known`, which is stray.
    pub(crate) fn take(
        &self,
        at: &Directory,
        mark: &Mark,
        revision: i64,
        label: &str,
        known: Option<i64>,
        limit: i64,
    ) -> Txn {
        let free = match known {
            None => Compare::create_revision(at.0.as_str(), CompareOp::Equal, 0),
            Some(known) => Compare::mod_revision(at.0.as_str(), CompareOp::Less, known + 1),
        };
        let mut guards = self.guards(revision, mark);
        guards.push(free.with_prefix());
        let mut see = self.see(mark);
        see.push(at.some(limit));
        Txn::new().when(guards).and_then(vec![self.put(label)]).or_else(see)
    }

    fn is_there(&self, created: i64) -> Compare {
        Compare::create_revision(self.key, CompareOp::Equal, created)
    }

    fn read(&self) -> TxnOp {
        TxnOp::get(self.key, Some(GetOptions::new().with_keys_only()))
    }

    /// Checks that the key is there: etcd serves a transaction that reads nothing from old state.
    pub(crate) fn check(&self, created: i64) -> Txn {
        Txn::new().when(vec![self.is_there(created)]).or_else(vec![self.read()])
    }

    /// Deletes the key if that revision created it.
    pub(crate) fn delete(&self, created: i64, touch: bool) -> Txn {
        let delete = TxnOp::delete(self.key, None);
        let touched = || touch.then(|| self.touch());
        Txn::new()
            .when(vec![self.is_there(created)])
            .and_then([delete].into_iter().chain(touched()).collect::<Vec<_>>())
            .or_else(touched().into_iter().collect::<Vec<_>>())
    }

    /// Deletes the key whenever it was created: only this request ever has it.
    pub(crate) fn withdraw(&self, touch: bool) -> Txn {
        let delete = TxnOp::delete(self.key, Some(DeleteOptions::new()));
        let touched = touch.then(|| self.touch());
        Txn::new().and_then([delete].into_iter().chain(touched).collect::<Vec<_>>())
    }

    /// Deletes the key unless the session key was touched since `revision`, and touches it.
    ///
    /// A copy that comes later finds it touched: an attempt that comes back to this request touches the
    /// session key first where this one had no answer.
    pub(crate) fn sweep(&self, revision: i64) -> Txn {
        let keys_only = Some(GetOptions::new().with_keys_only());
        Txn::new()
            .when([self.is_untouched_since(revision)])
            .and_then([TxnOp::delete(self.key, None), self.touch()])
            .or_else([TxnOp::get(self.session, keys_only)])
    }

    /// Has refused what was sent before.
    pub(crate) fn bar(&self) -> Txn {
        Txn::new().and_then([self.touch()])
    }
}

/// Runs `take` unless this contender is still there: then nothing more is compared or read, however long the
/// queue is.
pub(crate) fn unless_there((key, revision): &Seen, take: Txn) -> Txn {
    let is_there = Compare::mod_revision(&**key, CompareOp::Equal, *revision);
    Txn::new().when([is_there]).or_else([TxnOp::txn(take)])
}

/// Sends a transaction, as often as it is called.
pub(crate) fn send(
    txn: &Txn,
) -> impl Fn(Client) -> BoxFuture<'static, Result<TxnResponse, etcd_client::Error>> {
    let txn = txn.clone();
    move |client| {
        let txn = txn.clone();
        Box::pin(async move { client.kv_client().txn(txn).await })
    }
}

/// The revision at which a transaction was answered.
pub(crate) fn revision_of(response: &TxnResponse) -> Result<i64> {
    response.header().map(etcd_client::ResponseHeader::revision).ok_or_else(garbled)
}

/// The answers to a transaction's reads, in their order.
pub(crate) fn reads(response: &TxnResponse) -> Vec<GetResponse> {
    let read = |answer| match answer {
        TxnOpResponse::Get(found) => Some(found),
        _ => None,
    };
    response.op_responses().into_iter().filter_map(read).collect()
}

pub(crate) fn garbled() -> Error {
    Error::unavailable(Applied::Maybe, "etcd left out a part of its answer")
}

/// Whether what lies below a name is of a client of lockkit, `hex-decimal`, or of another, `hex`;
/// `None`: of neither.
fn shape(below: &str) -> Option<bool> {
    let (lease, number) = match below.split_once('-') {
        Some((lease, number)) => (lease, Some(number)),
        None => (below, None),
    };
    let all = |text: &str, digit: fn(u8) -> bool| !text.is_empty() && text.bytes().all(digit);
    let hex = |digit: u8| digit.is_ascii_digit() || (b'a'..=b'f').contains(&digit);
    let known = all(lease, hex) && number.is_none_or(|number| all(number, |c| c.is_ascii_digit()));
    known.then_some(number.is_some())
}

fn escape(name: &str) -> String {
    name.replace('%', "%25").replace('/', "%2F")
}

/// The name of a directory; `None` for what no name is escaped to.
fn unescape(escaped: &str) -> Option<String> {
    let name = escaped.replace("%2F", "/").replace("%25", "%");
    (escape(&name) == escaped).then_some(name)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_and_directories_lead_to_each_other() {
        for name in ["a", "a/b", "%", "%2F", "%25", "/", "//", "..", "é", "\0", "a b", "%%/2F"] {
            let escaped = escape(name);
            assert!(!escaped.contains('/') && escaped != "%", "{escaped}");
            assert_eq!(unescape(&escaped).as_deref(), Some(name));
        }
        for none in ["%", "%2f", "a%", "%41"] {
            assert_eq!(unescape(none), None, "{none}");
        }
    }

    #[test]
    fn no_name_after_another_has_its_directory_before_where_they_are_looked_for() {
        let characters = ["", " ", "%", "&", "-", ".", "/", "0", "a", "é"];
        let two = characters.iter().flat_map(|a| characters.map(|b| format!("{a}{b}")));
        let three = two.flat_map(|two| characters.map(|c| format!("{two}{c}")));
        let names: BTreeSet<_> = three.filter_map(|name| LockName::new(name).ok()).collect();
        let keys = Keys::new("lockkit");
        for prefix in ["", "a", "-", "a-", "/"] {
            let fit = names.iter().filter(|name| name.as_str().starts_with(prefix));
            let fit: Vec<_> = fit.map(|name| (name, keys.directory(name).0)).collect();
            for after in &names {
                let from = keys.directories_after(prefix, Some(after));
                for (later, directory) in fit.iter().filter(|(name, _)| *name > after) {
                    assert!(*directory >= from, "{later} after {after}: {from}");
                }
            }
        }
        // Where nothing is out of order, nothing is read again.
        let after = LockName::new("nightly_7").ok();
        assert_eq!(keys.directories_after("", after.as_ref()), "lockkit/nightly_7");
    }

    #[test]
    fn only_the_keys_of_leases_contend() {
        for (below, ours) in [("694d7a1", false), ("694d7a1-0", true), ("0-12345678901", true)] {
            assert_eq!(shape(below), Some(ours), "{below}");
        }
        for below in ["", "config", "694D7A1", "a-", "-1", "a-b", "a-1-2", "b/694d7a1", "a-1/2"] {
            assert_eq!(shape(below), None, "{below}");
        }
    }
}
