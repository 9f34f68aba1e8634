//! The scripts as the provider sends them, in a server whose times are short, and what it holds after each call.

use std::collections::HashMap;

use testbed::RedisServer;
use testbed::resp::{Client, Reply};

macro_rules! lua {
    ($($file:literal),+) => {
        concat!($(include_str!(concat!("../../../src/lua/", $file, ".lua"))),+)
    };
}

const SCRIPTS: [(&str, &str); 5] = [
    ("ask", lua!("head", "acquire_fast", "prelude", "acquire")),
    ("release", lua!("head", "release_fast", "prelude", "release")),
    ("renew", lua!("head", "prelude", "renew")),
    ("withdraw", lua!("head", "prelude", "ours", "withdraw")),
    ("beat", lua!("head", "prelude", "counted", "beat")),
];
/// Milliseconds: a client's life after a heartbeat, that of one which does not listen, and a grant to it.
pub(crate) const LIFE: u64 = 240;
pub(crate) const DEAF: u64 = 120;
/// What every run changes: the times, and that a push lies in a list until the test delivers it.
const SETTINGS: [(&str, &str); 3] = [
    ("LASTS, TOMB, KEPT = 3000, 700, 500,", "LASTS, TOMB, KEPT = 240, 120, 60,"),
    (
        "redis.pcall('PUBSUB', 'NUMSUB', WAKE .. client)",
        "({ '', 1 - redis.call('EXISTS', 'deaf:' .. client) })",
    ),
    (
        "redis.pcall('PUBLISH', WAKE .. client, 'go ' .. word)",
        "redis.call('RPUSH', 'pushes', client .. ' ' .. word)",
    ),
];
/// What lies in a lock's places.
const DUMP: &str = "return { redis.call('GET', KEYS[1]) or '', redis.call('ZRANGE', '{' .. KEYS[1] .. '}:n', 0, -1) }";
/// The pushes since the last look.
const PUSHES: &str =
    "local all = redis.call('LRANGE', 'pushes', 0, -1) redis.call('DEL', 'pushes') return all";

/// A text of the scripts, and what takes its place.
pub(crate) type Edit = (&'static str, &'static str);

#[derive(Debug)]
pub(crate) struct Store {
    client: Client,
    hashes: HashMap<&'static str, String>,
}

/// What lies in a lock's places.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) value: String,
    pub(crate) queue: Vec<String>,
}

impl Store {
    pub(crate) fn new(server: &RedisServer, edits: &[Edit]) -> Self {
        let mut client = server.client().unwrap();
        client.command(&["FLUSHALL"]).unwrap();
        let mut hashes = HashMap::new();
        let mut made = vec![0; edits.len()];
        for (name, source) in SCRIPTS {
            let mut text = source.to_owned();
            for (from, to) in SETTINGS {
                assert!(text.contains(from), "{name} has no {from} any more");
                text = text.replace(from, to);
            }
            for (n, (from, to)) in edits.iter().enumerate() {
                made[n] += text.matches(from).count();
                text = text.replace(from, to);
            }
            hashes.insert(name, loaded(&mut client, &text));
        }
        assert!(made.iter().all(|made| *made > 0), "the scripts do not hold {edits:?} any more");
        hashes.insert("dump", loaded(&mut client, DUMP));
        hashes.insert("pushes", loaded(&mut client, PUSHES));
        Self { client, hashes }
    }

    pub(crate) fn run(&mut self, script: &str, locks: &[String], args: &[String]) -> Reply {
        let count = locks.len().to_string();
        let mut words = vec!["EVALSHA", &self.hashes[script], &count];
        words.extend(locks.iter().chain(args).map(String::as_str));
        let reply = self.client.command(&words).unwrap();
        assert!(!matches!(reply, Reply::Error(_)), "{script} {args:?}: {reply:?}");
        reply
    }

    pub(crate) fn state(&mut self, lock: &str) -> State {
        let reply = self.run("dump", &[lock.to_owned()], &[]);
        let [value, queue] = reply.items() else { panic!("{reply:?}") };
        State { value: text(value), queue: queue.items().iter().map(text).collect() }
    }

    /// The pushes since the last look, each with the client that it is for.
    pub(crate) fn pushes(&mut self) -> Vec<(String, String)> {
        let reply = self.run("pushes", &[], &[]);
        let split = |push: &Reply| {
            let text = text(push);
            let (client, word) = text.split_once(' ').unwrap();
            (client.to_owned(), word.to_owned())
        };
        reply.items().iter().map(split).collect()
    }

    pub(crate) fn command(&mut self, words: &[&str]) -> Reply {
        self.client.command(words).unwrap()
    }
}

fn loaded(client: &mut Client, text: &str) -> String {
    let hash = client.command(&["SCRIPT", "LOAD", text]).unwrap();
    assert!(matches!(hash, Reply::Bytes(_)), "{hash:?}");
    hash.text().unwrap()
}

pub(crate) fn text(reply: &Reply) -> String {
    reply.text().or_else(|| reply.integer().map(|n| n.to_string())).unwrap_or_default()
}
