//! Telling ZooKeeper's requests apart, to count them at a link, and reading who connects.

use std::net::SocketAddr;

use testbed::{Framing, Link};

/// A link that counts requests by name, and answers as `reply`, `event` or `pong`.
pub(crate) fn counting(target: SocketAddr) -> Link {
    let framings = || -> [Box<dyn Framing>; 2] {
        [Box::new(Frames::of(connect, request)), Box::new(Frames::of(connect, answer))]
    };
    Link::builder(target).framings(framings).start().unwrap()
}

/// A link that counts under the name of each session that comes over it: see [`password`].
pub(crate) fn spying(target: SocketAddr) -> Link {
    let framings = || -> [Box<dyn Framing>; 2] {
        [Box::new(Frames::of(connect, request)), Box::new(Frames::of(session, answer))]
    };
    Link::builder(target).framings(framings).start().unwrap()
}

/// The password of a session that has come over one of these [spying](spying) links.
pub(crate) fn password<'a>(links: impl IntoIterator<Item = &'a Link>, id: i64) -> Option<Vec<u8>> {
    let start = format!("session {id:x} ");
    let known = links.into_iter().find_map(|link| {
        link.counts().answers.keys().find_map(|name| name.strip_prefix(&start).map(str::to_owned))
    })?;
    let byte = |at| u8::from_str_radix(known.get(at..at + 2)?, 16).ok();
    (0..known.len()).step_by(2).map(byte).collect()
}

struct Frames {
    /// The name of the first frame, which is of its own kind.
    first: fn(&[u8]) -> String,
    name: fn(&[u8]) -> String,
    rest: Vec<u8>,
    is_first: bool,
}

impl Frames {
    fn of(first: fn(&[u8]) -> String, name: fn(&[u8]) -> String) -> Self {
        Self { first, name, rest: Vec::new(), is_first: true }
    }
}

impl Framing for Frames {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut names = Vec::new();
        while let Some(length) = number(&self.rest, 0) {
            let end = 4 + usize::try_from(length).unwrap();
            if self.rest.len() < end {
                break;
            }
            let frame: Vec<u8> = self.rest.drain(..end).skip(4).collect();
            let is_first = std::mem::take(&mut self.is_first);
            let name = if is_first { self.first } else { self.name };
            names.push(name(&frame));
        }
        names
    }
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn connect(_: &[u8]) -> String {
    "connect".to_owned()
}

/// The id and the password of the session that a server has made or reopened.
fn session(frame: &[u8]) -> String {
    let id = frame.get(8..16).and_then(|id| Some(i64::from_be_bytes(id.try_into().ok()?)));
    let password = frame.get(20..36).unwrap_or_default();
    let hex: String = password.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("session {:x} {hex}", id.unwrap_or_default())
}

fn request(frame: &[u8]) -> String {
    let name = match number(frame, 4) {
        Some(2) => "delete",
        Some(3) => "exists",
        Some(4) => "get",
        Some(8) => "list",
        Some(9) => "sync",
        Some(11) => "ping",
        Some(14) => "multi",
        Some(15) => "create",
        Some(18) => "unwatch",
        Some(19) => "container",
        Some(-11) => "close",
        other => return format!("{other:?}"),
    };
    name.to_owned()
}

fn answer(frame: &[u8]) -> String {
    let kind = match number(frame, 0) {
        Some(-1) => "event",
        Some(-2) => "pong",
        _ => "reply",
    };
    kind.to_owned()
}
