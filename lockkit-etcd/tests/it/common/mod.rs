//! What the tests on real servers share.

pub(crate) mod cluster;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use lockkit_core::Locks;
use lockkit_etcd::{EtcdConfig, EtcdProvider};
pub(crate) use testbed::contenders::{by, queued, tokens, waiter};
use testbed::{Counts, EtcdServer, Framing, Link};

/// How long a noisy machine may take beyond a bound.
pub(crate) const SLACK: Duration = Duration::from_millis(700);

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// A client of its own of the members at these ports.
pub(crate) async fn join(ports: &[u16]) -> Locks {
    let members = ports.iter().map(|port| ("127.0.0.1", *port));
    Locks::new(EtcdProvider::connect(EtcdConfig::new(members)).await.unwrap())
}

/// A client of its own.
pub(crate) async fn client(server: &EtcdServer) -> Locks {
    join(&[server.port()]).await
}

/// A link that counts what etcd's clients ask.
pub(crate) fn link_to(server: SocketAddr) -> Link {
    let framings = || {
        let frames = |preface| Box::new(Frames { rest: Vec::new(), preface }) as Box<dyn Framing>;
        [frames(true), frames(false)]
    };
    Link::builder(server).framings(framings).start().unwrap()
}

/// HTTP/2 as gRPC uses it: a `call` for each one that is begun or answered, and a `message` for
/// each message of one.
struct Frames {
    rest: Vec<u8>,
    preface: bool,
}

impl Framing for Frames {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        const PREFACE: usize = 24;
        const HEAD: usize = 9;
        self.rest.extend_from_slice(bytes);
        if self.preface && self.rest.len() >= PREFACE {
            self.rest.drain(..PREFACE);
            self.preface = false;
        }
        let mut names = Vec::new();
        while !self.preface && self.rest.len() >= HEAD {
            let length = u32::from_be_bytes([0, self.rest[0], self.rest[1], self.rest[2]]) as usize;
            if self.rest.len() < HEAD + length {
                break;
            }
            match self.rest[3] {
                0 if length > 0 => names.push("message".to_owned()),
                1 => names.push("call".to_owned()),
                _ => {}
            }
            self.rest.drain(..HEAD + length);
        }
        names
    }
}

/// The calls and the messages to the server since `before`, and the messages from it.
pub(crate) fn since(before: &Counts, link: &Link) -> (u64, u64, u64) {
    let (requests, answers) = link.since(before);
    let of = |counts: &BTreeMap<String, u64>, name| counts.get(name).copied().unwrap_or_default();
    (of(&requests, "call"), of(&requests, "message"), of(&answers, "message"))
}

/// Returns once the link is idle: nothing that was under way is counted any more.
pub(crate) async fn idle(link: &Link) {
    link.idle(ms(150)).await;
}
