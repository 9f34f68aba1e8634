//! The scripts as the provider sends them, and the whole state of a lock as one script reads it.

use std::collections::{BTreeMap, HashMap};

use testbed::RedisServer;
use testbed::resp::{Client, Reply};

const PRELUDE: &str = include_str!("../../../src/lua/prelude.lua");
const SCRIPTS: &[(&str, &str)] = &[
    ("acquire", include_str!("../../../src/lua/acquire.lua")),
    ("renew", include_str!("../../../src/lua/renew.lua")),
    ("release", include_str!("../../../src/lua/release.lua")),
    ("withdraw", include_str!("../../../src/lua/withdraw.lua")),
    ("inspect", include_str!("../../../src/lua/inspect.lua")),
    ("revoke", include_str!("../../../src/lua/revoke.lua")),
    ("dump", ""),
];

/// Everything about a lock at one instant.
const DUMP: &str = "
local L, Q, W, X, F = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local time, holder, ends = redis.call('TIME'), redis.call('GET', L) or '', {}
for i = 1, 5 do ends[i] = redis.call('PEXPIRETIME', KEYS[i]) end
return {
  time[1] .. string.format('%06d', time[2]), holder, ends,
  redis.call('ZRANGE', Q, 0, -1, 'WITHSCORES'), redis.call('ZRANGE', W, 0, -1, 'WITHSCORES'),
  redis.call('ZINTER', 2, X, Q), redis.call('ZSCORE', X, holder) or '', redis.call('HGETALL', F)
}";

/// What a test changes in the scripts to see whether the model notices.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    pub(crate) from: &'static str,
    pub(crate) to: &'static str,
}

/// One lock's state. Times are the server's: `now` and lives in microseconds, ends in milliseconds.
#[derive(Debug, Clone, Default)]
pub(crate) struct State {
    pub(crate) now: i64,
    pub(crate) holder: String,
    /// When the keys end, in the order of the scripts' KEYS; -1: never, -2: no such key.
    pub(crate) ends: [i64; 5],
    pub(crate) queue: Vec<String>,
    pub(crate) tickets: Vec<u64>,
    pub(crate) lives: BTreeMap<String, i64>,
    pub(crate) buried_waiters: Vec<String>,
    pub(crate) is_holder_buried: bool,
    pub(crate) fence: HashMap<String, String>,
}

impl State {
    /// The end of the lock's key; `None` where there is none.
    pub(crate) fn end(&self) -> Option<i64> {
        (!self.holder.is_empty()).then_some(self.ends[0])
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.now / 1000
    }
}

/// A connection with every script loaded.
#[derive(Debug)]
pub(crate) struct Store {
    client: Client,
    hashes: HashMap<&'static str, String>,
}

impl Store {
    pub(crate) fn new(server: &RedisServer, cut: Option<Cut>) -> Self {
        let mut client = server.client().unwrap();
        let mut hashes = HashMap::new();
        let mut cuts = 0;
        for (name, source) in SCRIPTS {
            let mut text = format!("{PRELUDE}{source}");
            if *name == "dump" {
                text = DUMP.to_owned();
            } else if let Some(cut) = cut {
                cuts += text.matches(cut.from).count();
                text = text.replace(cut.from, cut.to);
            }
            let hash = client.command(&["SCRIPT", "LOAD", &text]).unwrap();
            assert!(matches!(hash, Reply::Bytes(_)), "{name}: {hash:?}");
            hashes.insert(*name, hash.text().unwrap());
        }
        assert!(cut.is_none() || cuts > 0, "the scripts do not hold {cut:?} any more");
        Self { client, hashes }
    }

    /// Runs a script, or a plain command, and reads the state right after it.
    pub(crate) fn step(&mut self, keys: &[String; 5], words: &[&str]) -> (Reply, State) {
        match self.hashes.get(words[0]) {
            Some(hash) => {
                let hash = hash.clone();
                self.client.send(&script(&hash, keys, &words[1..])).unwrap();
            }
            None => self.client.send(words).unwrap(),
        }
        let dump = script(&self.hashes["dump"], keys, &[]).join("\n");
        self.client.send(&dump.split('\n').collect::<Vec<_>>()).unwrap();
        (self.client.receive().unwrap(), state(&self.client.receive().unwrap()))
    }

    pub(crate) fn command(&mut self, words: &[&str]) -> Reply {
        self.client.command(words).unwrap()
    }
}

/// The keys of a lock, as the provider names them.
pub(crate) fn keys(name: &str) -> [String; 5] {
    let of = |part: char| format!("{{{name}}}:{part}");
    [name.to_owned(), of('q'), of('w'), of('x'), of('f')]
}

pub(crate) fn text(reply: &Reply) -> String {
    reply.text().or_else(|| reply.integer().map(|n| n.to_string())).unwrap_or_default()
}

fn script<'a>(hash: &'a str, keys: &'a [String; 5], args: &[&'a str]) -> Vec<&'a str> {
    let mut words = vec!["EVALSHA", hash, "5"];
    words.extend(keys.iter().map(String::as_str));
    words.extend(args);
    words
}

fn state(reply: &Reply) -> State {
    let parts = reply.items();
    assert_eq!(parts.len(), 8, "{reply:?}");
    let texts = |n: usize| -> Vec<String> { parts[n].items().iter().map(text).collect() };
    let mut state = State {
        now: text(&parts[0]).parse().unwrap(),
        holder: text(&parts[1]),
        queue: texts(3).into_iter().step_by(2).collect(),
        tickets: texts(3).iter().skip(1).step_by(2).map(|it| it.parse().unwrap()).collect(),
        buried_waiters: texts(5),
        is_holder_buried: !text(&parts[6]).is_empty(),
        ..State::default()
    };
    for (end, word) in state.ends.iter_mut().zip(texts(2)) {
        *end = word.parse().unwrap();
    }
    for pair in texts(4).chunks(2) {
        state.lives.insert(pair[0].clone(), pair[1].parse().unwrap());
    }
    state.fence = texts(7).chunks(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect();
    state
}
