//! Telling requests apart in a stream of bytes.

use crate::resp::{self, Reply};

/// The largest frame that is counted; a stream with a larger one counts nothing from there on.
const LIMIT: usize = 1 << 20;

/// Finds the complete requests or answers in one direction of one connection.
pub trait Framing: Send + 'static {
    /// The names of those that these bytes complete.
    fn feed(&mut self, bytes: &[u8]) -> Vec<String>;
}

/// Redis's protocol: commands by name in capitals, otherwise `reply`, `error` or `push`.
#[derive(Debug)]
pub struct Resp {
    is_request: bool,
    /// `None` once the stream is not the protocol.
    rest: Option<Vec<u8>>,
}

impl Resp {
    /// For the bytes of a client.
    #[must_use]
    pub fn requests() -> Self {
        Self { is_request: true, rest: Some(Vec::new()) }
    }

    /// For the bytes of a server.
    #[must_use]
    pub fn answers() -> Self {
        Self { is_request: false, rest: Some(Vec::new()) }
    }
}

impl Framing for Resp {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut names = Vec::new();
        let Some(rest) = &mut self.rest else { return names };
        rest.extend_from_slice(bytes);
        loop {
            match resp::parse(rest) {
                Ok(Some((frame, length))) => {
                    rest.drain(..length);
                    names.push(if self.is_request { request(&frame) } else { answer(&frame) });
                }
                Ok(None) if rest.len() <= LIMIT => return names,
                _ => {
                    self.rest = None;
                    return names;
                }
            }
        }
    }
}

/// PostgreSQL's protocol, without TLS: messages by their letter, the first of a client as `startup`.
#[derive(Debug)]
pub struct Postgres {
    /// Whether a message without a letter is still to come.
    starts: bool,
    rest: Vec<u8>,
}

impl Postgres {
    /// For the bytes of a client.
    #[must_use]
    pub fn requests() -> Self {
        Self { starts: true, rest: Vec::new() }
    }

    /// For the bytes of a server.
    #[must_use]
    pub fn answers() -> Self {
        Self { starts: false, rest: Vec::new() }
    }
}

impl Framing for Postgres {
    fn feed(&mut self, bytes: &[u8]) -> Vec<String> {
        self.rest.extend_from_slice(bytes);
        let mut names = Vec::new();
        loop {
            let letter = usize::from(!self.starts);
            let Some(&[a, b, c, d]) = self.rest.get(letter..letter + 4) else { return names };
            let length = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(usize::MAX);
            let length = length.saturating_add(letter);
            if self.rest.len() < length {
                return names;
            }
            let name = if self.starts { "startup".into() } else { char::from(self.rest[0]).into() };
            names.push(name);
            self.rest.drain(..length);
            self.starts = false;
        }
    }
}

fn request(frame: &Reply) -> String {
    let name = frame.items().first().and_then(Reply::text);
    name.unwrap_or_default().to_uppercase()
}

fn answer(frame: &Reply) -> String {
    let first = frame.items().first().and_then(Reply::text).unwrap_or_default();
    let is_message = matches!(first.as_str(), "message" | "pmessage" | "smessage");
    let kind = match frame {
        Reply::Push(_) => "push",
        // RESP2 has no type of its own for them.
        Reply::List(_) if is_message => "push",
        Reply::Error(_) => "error",
        _ => "reply",
    };
    kind.to_owned()
}
