//! Telling ZooKeeper's requests apart, to count them at a link.

use std::net::SocketAddr;

use testbed::{Framing, Link};

/// A link that counts requests by name, and answers as `reply`, `event` or `pong`.
pub(crate) fn counting(target: SocketAddr) -> Link {
    let framings = || -> [Box<dyn Framing>; 2] {
        [Box::new(Frames::of(request)), Box::new(Frames::of(answer))]
    };
    Link::builder(target).framings(framings).start().unwrap()
}

struct Frames {
    name: fn(&[u8]) -> String,
    rest: Vec<u8>,
    /// The first frame is of its own kind.
    is_first: bool,
}

impl Frames {
    fn of(name: fn(&[u8]) -> String) -> Self {
        Self { name, rest: Vec::new(), is_first: true }
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
            names.push(if is_first { "connect".to_owned() } else { (self.name)(&frame) });
        }
        names
    }
}

fn number(bytes: &[u8], at: usize) -> Option<i32> {
    Some(i32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
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
