//! What lies in the store, and the transactions on it.
//!
//! A contender's key is `<prefix>/<name>/<lease in hex>-<slot in decimal>`, with its label in the value; Go's
//! clients leave `<lease in hex>`, and older versions a number that is used once. Who was created first holds; the
//! token is the create revision. Beside the names lie guards, `<prefix>/%/<lease in hex>/<number>`, on their
//! leases, and the cluster's mark, `<prefix>/%/cluster`, which stays.

use etcd_client::{
    Client, Compare, CompareOp, GetOptions, GetResponse, KeyValue, Txn, TxnOp, TxnOpResponse,
    TxnResponse,
};
use futures_util::future::BoxFuture;
use lockkit_core::{Applied, Error, Kind, LockName, Result};

/// How many keys an attempt looks at first: only stray ones make it more.
pub(crate) const FEW: i64 = 4;
/// What begins the value of a key, before the serial number of its use, a space and the label.
const MARK: &str = "lockkit:";
/// What follows the serial number of a shared request. A key without it is that of an exclusive one: also of Go's
/// clients, and of versions before shared locks, which take all keys for such.
const SHARED: &str = ":s";

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
    pub(crate) kind: Kind,
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
    pub(crate) fn guard(&self, lease: i64, number: usize) -> Vec<u8> {
        format!("{}%/{lease:x}/{number}", self.0).into_bytes()
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

    pub(crate) fn key(&self, lease: i64, slot: usize) -> Vec<u8> {
        format!("{}{lease:x}-{slot}", self.0).into_bytes()
    }

    /// Only a lease's key directly below the name contends: a stray key blocks no request.
    pub(crate) fn contender(&self, kv: &KeyValue) -> Option<Contender> {
        let below = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&self.0)?;
        let is_ours = shape(below).filter(|_| kv.lease() != 0)?;
        let (kind, label) = told_by(kv.value());
        Some(Contender {
            key: kv.key().to_vec(),
            created: kv.create_revision(),
            lease: kv.lease(),
            label,
            kind,
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
    pub(crate) fn some(&self, limit: i64) -> TxnOp {
        let options = GetOptions::new().with_prefix().with_limit(limit).with_keys_only();
        TxnOp::get(self.0.as_str(), Some(options))
    }

    /// Nothing is below the name, or only what was there at `known`.
    pub(crate) fn is_free(&self, known: Option<i64>) -> Compare {
        let free = match known {
            None => Compare::create_revision(self.0.as_str(), CompareOp::Equal, 0),
            Some(known) => Compare::mod_revision(self.0.as_str(), CompareOp::Less, known + 1),
        };
        free.with_prefix()
    }
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

/// The value of a key, in a use of it with this serial number.
pub(crate) fn value(serial: u64, kind: Kind, label: &str) -> String {
    let kind = if kind == Kind::Shared { SHARED } else { "" };
    format!("{MARK}{serial:x}{kind} {label}")
}

/// The kind and the label in a key's value; other clients, and versions that did not use keys again, leave a label
/// alone.
fn told_by(value: &[u8]) -> (Kind, String) {
    let text = String::from_utf8_lossy(value);
    let marked = text.strip_prefix(MARK).and_then(|rest| rest.split_once(' '));
    let is_serial = |serial: &str| u64::from_str_radix(serial, 16).is_ok();
    if let Some((use_of_it, label)) = marked {
        let (kind, serial) = match use_of_it.strip_suffix(SHARED) {
            Some(serial) => (Kind::Shared, serial),
            None => (Kind::Exclusive, use_of_it),
        };
        if is_serial(serial) {
            return (kind, label.to_owned());
        }
    }
    (Kind::Exclusive, text.into_owned())
}

/// The kinds of these contenders.
pub(crate) fn kinds<'a>(
    contenders: impl IntoIterator<Item = &'a Contender>,
) -> impl Iterator<Item = Kind> {
    contenders.into_iter().map(|contender| contender.kind)
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
    fn a_value_tells_its_label_whoever_left_it() {
        for text in ["", "holder", "a b", "lockkit:1 x"] {
            for kind in [Kind::Exclusive, Kind::Shared] {
                let told = told_by(value(0x2f, kind, text).as_bytes());
                assert_eq!(told, (kind, text.to_owned()));
            }
        }
        for text in
            ["", "holder", "lockkit:", "lockkit:1", "lockkit: x", "lockkit:x y", "lockkit::s x"]
        {
            assert_eq!(told_by(text.as_bytes()), (Kind::Exclusive, text.to_owned()));
        }
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
