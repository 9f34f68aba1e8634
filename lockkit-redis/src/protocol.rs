//! What goes over the wire: keys, scripts and their answers. The scripts themselves are in `lua/`.

use std::sync::LazyLock;
use std::time::Duration;

use lockkit_core::{Applied, Error, LockName, Request, RequestId, Result};
use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value};

/// The channels of wake-ups: one per provider, told apart by what follows.
pub(crate) const CHANNELS: &str = "lockkit:wake:";

/// One script, sent by its hash, and in full where the server does not know it.
#[derive(Debug)]
pub(crate) struct Script(redis::Script);

macro_rules! script {
    ($name:ident, $file:literal) => {
        pub(crate) static $name: LazyLock<Script> = LazyLock::new(|| {
            let source = concat!(include_str!("lua/prelude.lua"), include_str!($file));
            Script(redis::Script::new(source))
        });
    };
}

script!(ACQUIRE, "lua/acquire.lua");
script!(RENEW, "lua/renew.lua");
script!(RELEASE, "lua/release.lua");
script!(WITHDRAW, "lua/withdraw.lua");
script!(INSPECT, "lua/inspect.lua");
script!(REVOKE, "lua/revoke.lua");
script!(PROBE, "lua/probe.lua");

/// Every script, to be loaded ahead of the first use.
pub(crate) fn scripts() -> [&'static Script; 6] {
    [&ACQUIRE, &RENEW, &RELEASE, &WITHDRAW, &INSPECT, &REVOKE]
}

impl Script {
    pub(crate) async fn run(
        &self,
        connection: &mut MultiplexedConnection,
        lock: &[String; 5],
        args: &[&str],
    ) -> RedisResult<Value> {
        let mut call = self.0.prepare_invoke();
        for key in lock {
            call.key(key);
        }
        for arg in args {
            call.arg(arg);
        }
        call.invoke_async(connection).await
    }

    pub(crate) async fn load(&self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        self.0.load_async(connection).await.map(|_: String| ())
    }
}

/// The keys of a lock: itself, its queue, its waiters' lives, its tombstones, its fence.
///
/// Braces in a name are escaped, so that in a cluster all five share the slot of the first.
pub(crate) fn keys(prefix: &str, name: &LockName) -> [String; 5] {
    let lock = escaped(prefix, name.as_str());
    let of = |part: char| format!("{{{lock}}}:{part}");
    let (queue, waiters, tombs, fence) = (of('q'), of('w'), of('x'), of('f'));
    [lock, queue, waiters, tombs, fence]
}

/// A lock's key, or the beginning of the keys of all locks whose names begin so.
pub(crate) fn escaped(prefix: &str, name: &str) -> String {
    let mut lock = String::with_capacity(prefix.len() + name.len());
    lock.push_str(prefix);
    for c in name.chars() {
        match c {
            '%' => lock.push_str("%25"),
            '{' => lock.push_str("%7B"),
            '}' => lock.push_str("%7D"),
            c => lock.push(c),
        }
    }
    lock
}

/// The key of the mark that names the layout. It has a brace outside the prefix, so it is no lock's key,
/// and a longer end than any part of a lock.
pub(crate) fn layout_key(prefix: &str) -> String {
    format!("{{{prefix}}}:layout")
}

/// The name of a lock's key; `None` for a key that is no lock's.
pub(crate) fn name_of(prefix: &str, key: &str) -> Option<LockName> {
    let escaped = key.strip_prefix(prefix)?;
    if escaped.contains(['{', '}']) {
        return None;
    }
    let name = escaped.replace("%7B", "{").replace("%7D", "}").replace("%25", "%");
    // A foreign client's key may hold a % of its own: then the name would not lead back to it.
    LockName::new(name).ok().filter(|name| keys(prefix, name)[0] == key)
}

/// How a request is called in the store: its id, and its provider's channel.
pub(crate) fn entry(id: RequestId, provider: &str) -> String {
    format!("{id}.{provider}")
}

/// The answer to an acquire.
#[derive(Debug)]
pub(crate) enum Answer {
    Granted {
        token: u64,
        /// The first of those that wait behind it.
        queue_head: Vec<Ticket>,
    },
    /// Held by another, with this place in the queue; the head is told when that lease ends.
    Held {
        expires_in: Option<Duration>,
        rank: Option<u64>,
        label: String,
        ticket: Option<u64>,
        /// Of the holder's grant, as the server knows it; not where the name is only reserved.
        token: Option<u64>,
    },
    Withdrawn,
}

impl Answer {
    pub(crate) fn of(value: &Value) -> Result<Self> {
        let parts = texts(value)?;
        let part = |n: usize| parts.get(n).map(String::as_str).unwrap_or_default();
        match part(0) {
            "granted" => Ok(Self::Granted {
                token: part(1).parse().map_err(|_| garbled(value))?,
                queue_head: match value {
                    Value::Array(parts) => {
                        parts.get(2).map(tickets).transpose()?.unwrap_or_default()
                    }
                    _ => Vec::new(),
                },
            }),
            "held" => Ok(Self::Held {
                expires_in: milliseconds(part(1)),
                rank: part(2).parse().ok(),
                label: part(3).to_owned(),
                ticket: part(4).parse().ok(),
                token: part(5).parse().ok(),
            }),
            "withdrawn" => Ok(Self::Withdrawn),
            _ => Err(garbled(value)),
        }
    }
}

/// What ends grants in the store: a release, or hand-offs that were made without the store.
#[derive(Debug)]
pub(crate) struct Pass {
    /// The holder as the server knows it.
    pub(crate) from: RequestId,
    /// The newest token given out.
    pub(crate) token: u64,
    /// The request that holds by now; `None`: the name is free.
    pub(crate) to: Option<Request>,
    /// The requests whose grants have ended, and whether a sending of theirs may still arrive.
    pub(crate) ended: Vec<(RequestId, bool)>,
}

/// The answer to a [`Pass`].
#[derive(Debug)]
pub(crate) enum Passed {
    /// The grants had ended before.
    Refused,
    Freed,
    /// It is held as the pass said, and these wait first.
    On(Vec<Ticket>),
}

impl Passed {
    pub(crate) fn of(value: &Value) -> Result<Self> {
        match value {
            Value::Int(0) => Ok(Self::Refused),
            Value::Int(_) => Ok(Self::Freed),
            _ => tickets(value).map(Self::On),
        }
    }
}

/// A place in the queue: the request, and its number. A request that enters again has another number.
pub(crate) type Ticket = (RequestId, u64);

/// Entries of a queue, each with its ticket.
fn tickets(value: &Value) -> Result<Vec<Ticket>> {
    let ticket = |pair: &[String]| Some((request_of(&pair[0])?, pair[1].parse().ok()?));
    Ok(texts(value)?.chunks_exact(2).filter_map(ticket).collect())
}

/// The request behind an entry of the store.
pub(crate) fn request_of(entry: &str) -> Option<RequestId> {
    let id = entry.split('.').next().and_then(|hex| u128::from_str_radix(hex, 16).ok())?;
    Some(RequestId::from_bytes(id.to_be_bytes()))
}

/// Whether a script that answers 1 or 0 said 1.
pub(crate) fn yes(value: &Value) -> Result<bool> {
    match value {
        Value::Int(n) => Ok(*n == 1),
        other => Err(garbled(other)),
    }
}

/// Milliseconds as Redis gives them; `None` for -1 and -2, "no expiry" and "no such key".
pub(crate) fn milliseconds(text: &str) -> Option<Duration> {
    text.parse().ok().map(Duration::from_millis)
}

/// An array's parts as texts.
pub(crate) fn texts(value: &Value) -> Result<Vec<String>> {
    let Value::Array(parts) = value else { return Err(garbled(value)) };
    let text = |part: &Value| match part {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::Int(n) => n.to_string(),
        Value::SimpleString(text) => text.clone(),
        _ => String::new(),
    };
    Ok(parts.iter().map(text).collect())
}

fn garbled(value: &Value) -> Error {
    Error::unavailable(Applied::Maybe, format!("Redis answered a script with {value:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_keys_lead_to_each_other() {
        for name in ["a", "a/b", "{x}", "%7B", "%", "%%25", "é", "a b", "\0", "}{"] {
            let name = LockName::new(name).expect("a name");
            let lock = &keys("app:", &name)[0];
            assert!(!lock.contains(['{', '}']));
            assert_eq!(name_of("app:", lock), Some(name));
        }
        assert_eq!(name_of("app:", "app:100%"), None);
        assert_eq!(name_of("app:", "{app:a}:q"), None);
    }
}
