//! What goes over the wire: keys, and the answers to scripts.

use std::time::Duration;

use lockkit_core::{
    Applied, Error, Family, Holder, Instant, Kind, LockName, Request, RequestId, Result,
};
use redis::Value;

/// The channels of wake-ups: one per provider, told apart by what follows.
pub(crate) const CHANNELS: &str = "lockkit:wake:";

/// A client's life in the store after its last heartbeat; as in the scripts.
pub(crate) const LIFE: Duration = Duration::from_secs(3);
/// How long a grant lasts to a client that does not listen; as in the scripts.
pub(crate) const UNHEARD: Duration = Duration::from_millis(500);

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

/// The key of a lock, or of a semaphore, which no lock's key can be; the keys beside it follow from it.
pub(crate) fn key_of(prefix: &str, name: &LockName) -> String {
    let lock = escaped(prefix, name.as_str());
    match name.family() {
        Family::Semaphore => format!("{{{lock}}}:{SEMAPHORE}"),
        _ => lock,
    }
}

/// What a semaphore's key ends in.
pub(crate) const SEMAPHORE: &str = "p";

/// The key of the mark that names the layout. It has a brace outside the prefix, so it is no lock's key,
/// and a longer end than any part of a lock.
pub(crate) fn layout_key(prefix: &str) -> String {
    format!("{{{prefix}}}:layout")
}

/// The key that says whether a client lives; as in the scripts. It is no lock's key.
pub(crate) fn life_key(client: &str) -> String {
    format!("{{lockkit}}:client:{client}")
}

/// The name of this family with a lock's key; `None` for a key that is no lock's.
pub(crate) fn name_of(prefix: &str, key: &str, family: Family) -> Option<LockName> {
    let text = key.strip_prefix(prefix)?;
    if text.contains(['{', '}']) {
        return None;
    }
    let name = text.replace("%7B", "{").replace("%7D", "}").replace("%25", "%");
    // A foreign client's key may hold a % of its own: then the name would not lead back to it.
    LockName::of(family, &name).ok().filter(|name| escaped(prefix, name.as_str()) == key)
}

/// What stands in place of the first digit of a client's name in the entries of its shared requests: a client of before
/// shared locks takes them for those of a client that does not live. As in the scripts.
const SHARED: char = 's';
/// What stands there in the entries of shared grants that rest. As in the script.
const RESTS_SHARED: char = 't';
/// The first digit of each client's name; of exclusive grants that rest it is another.
const ANY: char = '0';

/// The name of a client in the store, for one of these random digits.
pub(crate) fn client_name(random: &str) -> String {
    format!("{ANY}{}", &random[..15])
}

/// How a request is called in the store: its id, its client, its ttl and its label.
pub(crate) fn entry(request: &Request, client: &str) -> String {
    let (id, ttl, label) = (request.id(), request.ttl().as_millis(), request.label());
    match request.kind() {
        Kind::Shared => format!("{id}.{SHARED}{}.{ttl}.{label}", &client[1..]),
        _ => format!("{id}.{client}.{ttl}.{label}"),
    }
}

/// A lock's value: what it tells of the grant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Held<'a> {
    pub(crate) id: RequestId,
    pub(crate) label: &'a str,
    pub(crate) token: u64,
    pub(crate) kind: Kind,
}

impl<'a> Held<'a> {
    /// What the value of a lock tells; `None`: another kind of client set it.
    pub(crate) fn of(value: &'a str) -> Option<Self> {
        let (entry, token) = value.rsplit_once('.')?;
        let mut parts = entry.splitn(4, '.');
        let id = request_of(parts.next()?)?;
        let (client, ttl) = (parts.next()?, parts.next()?);
        let is_ours =
            client.len() == 16 && !ttl.is_empty() && ttl.bytes().all(|b| b.is_ascii_digit());
        let label = parts.next().filter(|_| is_ours)?;
        let is_shared = client.starts_with([SHARED, RESTS_SHARED]);
        let kind = if is_shared { Kind::Shared } else { Kind::Exclusive };
        Some(Self { id, label, token: token.parse().ok()?, kind })
    }
}

/// The answer to an acquire.
#[derive(Debug)]
pub(crate) enum Answer {
    Granted {
        token: u64,
        /// Of a counted grant.
        slot: Option<u32>,
    },
    /// Held by others.
    Held {
        /// When a grant expires next.
        expires_in: Option<Duration>,
        holder: Holder,
        /// Whether the client had been alive: if not, its other waiters may have lost their places.
        was_alive: bool,
    },
    /// It has no place and gets none: it was withdrawn, or takes only another limit than the semaphore has.
    Withdrawn,
}

impl Answer {
    /// The answer, and the limit of a semaphore where it tells one.
    pub(crate) fn of(value: &Value) -> Result<(Self, Option<u32>)> {
        if let Value::BulkString(token) = value {
            let token = std::str::from_utf8(token).ok().and_then(|token| token.parse().ok());
            let token = token.ok_or_else(|| garbled(value))?;
            return Ok((Self::Granted { token, slot: None }, None));
        }
        let parts = texts(value)?;
        let part = |n: usize| parts.get(n).map(String::as_str).unwrap_or_default();
        let limit = parts.last().and_then(|limit| limit.parse().ok());
        match part(0) {
            "granted" => {
                let token = part(1).parse().map_err(|_| garbled(value))?;
                Ok((Self::Granted { token, slot: part(2).parse().ok() }, limit))
            }
            "held" => {
                let limit = limit.filter(|_| parts.len() == 5);
                let kind = limit.map(|_| Kind::Counted);
                let holder = Held::of(part(1)).map_or_else(
                    || Holder::new(""),
                    |held| Holder::new(held.label).with_kind(kind.unwrap_or(held.kind)),
                );
                let was_alive = part(3) != "0";
                Ok((Self::Held { expires_in: milliseconds(part(2)), holder, was_alive }, limit))
            }
            "withdrawn" | "other" => Ok((Self::Withdrawn, limit)),
            _ => Err(garbled(value)),
        }
    }
}

/// The answer to a release.
#[derive(Debug)]
pub(crate) enum Released {
    /// The grant had ended before.
    Not,
    /// It ended now, and a request of this client may be next.
    Now(Option<Word>),
}

impl Released {
    pub(crate) fn of(value: &Value) -> Result<Self> {
        match value {
            Value::Int(0) => Ok(Self::Not),
            Value::Int(_) => Ok(Self::Now(None)),
            Value::BulkString(word) => Ok(Self::Now(Word::of(&String::from_utf8_lossy(word)))),
            other => Err(garbled(other)),
        }
    }
}

/// That the server granted to a request which waits: by a push, or in the answer to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) id: RequestId,
    pub(crate) token: u64,
    /// Of a counted grant.
    pub(crate) slot: Option<u32>,
    /// What the client's clock showed before it sent the heartbeat that the server had last.
    reading: Instant,
    /// How long ago that heartbeat had come, by the server's clock.
    age: Duration,
}

impl Word {
    pub(crate) fn of(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let id = request_of(words.next()?)?;
        let mut number = || words.next()?.parse().ok();
        let (token, reading, age) = (number()?, Duration::from_nanos(number()?), number()?);
        let slot = words.next().and_then(|slot| slot.parse().ok());
        let (reading, age) = (Instant::from_origin(reading), Duration::from_millis(age));
        Some(Self { id, token, slot, reading, age })
    }

    /// When the term of the grant began at the latest, by the clock of the heartbeat: the server counts it from
    /// the grant, which it made that long after it had the heartbeat. A part is left out for the rates of the
    /// two clocks, and the milliseconds in which Redis counts.
    pub(crate) fn began(&self) -> Instant {
        let rounding = Duration::from_millis(2);
        self.reading.saturating_add(self.age - self.age / 100).saturating_sub(rounding)
    }
}

/// A clock reading, as a heartbeat carries it.
pub(crate) fn reading(now: Instant) -> String {
    now.since_origin().as_nanos().to_string()
}

/// What a heartbeat learns of a lock.
#[derive(Debug)]
pub(crate) struct Seen {
    /// Its number among those that were sent.
    pub(crate) number: usize,
    pub(crate) is_free: bool,
    pub(crate) expires_in: Option<Duration>,
    /// The request of this client that holds it.
    pub(crate) holder: Option<RequestId>,
}

/// The answer to a heartbeat: whether the client had been alive, and the locks that it should know of.
pub(crate) fn beaten(value: &Value) -> Result<(bool, Vec<Seen>)> {
    let parts = texts(value)?;
    let (alive, seen) = parts.split_first().ok_or_else(|| garbled(value))?;
    let seen = seen.chunks_exact(3).filter_map(|lock| {
        Some(Seen {
            number: lock[0].parse::<usize>().ok()?.checked_sub(1)?,
            is_free: lock[1] == "-2",
            expires_in: milliseconds(&lock[1]),
            holder: Held::of(&lock[2]).map(|held| held.id),
        })
    });
    Ok((alive != "0", seen.collect()))
}

/// The request behind an id in the store.
pub(crate) fn request_of(id: &str) -> Option<RequestId> {
    let id = u128::from_str_radix(id, 16).ok().filter(|_| id.len() == 32)?;
    Some(RequestId::from_bytes(id.to_be_bytes()))
}

/// Whether a script that answers 1 or 0 said 1.
pub(crate) fn yes(value: &Value) -> Result<bool> {
    number(value).map(|n| n == 1)
}

/// The number that a script answers.
pub(crate) fn number(value: &Value) -> Result<i64> {
    match value {
        Value::Int(n) => Ok(*n),
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
            let lock = &escaped("app:", name);
            assert!(!lock.contains(['{', '}']));
            for family in [Family::Lock, Family::Semaphore] {
                let name = LockName::of(family, name).expect("a name");
                assert_eq!(name_of("app:", lock, family), Some(name.clone()));
                let is_lock = family == Family::Lock;
                assert_eq!(key_of("app:", &name) == *lock, is_lock);
                assert_eq!(
                    name_of("app:", &key_of("app:", &name), Family::Lock).is_some(),
                    is_lock
                );
            }
        }
        assert_eq!(name_of("app:", "app:100%", Family::Lock), None);
        assert_eq!(name_of("app:", "{app:a}:n", Family::Lock), None);
    }

    #[test]
    fn a_value_of_ours_tells_of_its_grant_and_another_tells_nothing() {
        let id = RequestId::from_bytes([7; 16]);
        let value = |label: &str| format!("{id}.0123456789abcdef.1500.{label}.1795930198049936");
        for label in ["", "a", "host.7.x", "..", "\u{e9}"] {
            let (token, kind) = (1_795_930_198_049_936, Kind::Exclusive);
            assert_eq!(Held::of(&value(label)), Some(Held { id, label, token, kind }));
            let shared = value(label).replace(".0123456789abcdef.", ".s123456789abcdef.");
            let held = Held { id, label, token, kind: Kind::Shared };
            assert_eq!(Held::of(&shared), Some(held));
        }
        let of_before = format!("{id}.0123456789abcdef");
        for other in ["", "theirs", "a.b.c.d.e", &of_before, &value("")[..52]] {
            assert_eq!(Held::of(other), None, "{other}");
        }
    }

    #[test]
    fn the_term_of_a_pushed_grant_counts_from_the_heartbeat_and_its_age() {
        let id = RequestId::from_bytes([7; 16]);
        let word = Word::of(&format!("{id} 1795930198049936 5000000000 1000")).expect("a word");
        assert_eq!((word.id, word.token, word.slot), (id, 1_795_930_198_049_936, None));
        let counted = Word::of(&format!("{id} 1795930198049936 5000000000 1000 7"));
        assert_eq!(counted, Some(Word { slot: Some(7), ..word }));
        let began = Instant::from_origin(Duration::from_millis(5_000 + 990 - 2));
        assert_eq!(word.began(), began);
        assert_eq!(Word::of(&format!("{id} 1")), None);
    }
}
