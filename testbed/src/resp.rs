//! A small client for Redis's protocol, for assertions behind a backend's back.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::{Error, Result};

/// A server that is paused does not answer: better an error than a test that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// The deepest nesting read; no command's reply comes near.
const DEPTH: usize = 32;

/// One value of the protocol, RESP2 or RESP3.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Reply {
    /// No value.
    Nothing,
    /// A status such as `OK`, or another text on one line.
    Status(String),
    /// An error that the server reports.
    Error(String),
    /// A whole number; a boolean is 0 or 1.
    Integer(i64),
    /// A string of bytes.
    Bytes(Vec<u8>),
    /// An array, a set, or a map as its names and values in turn.
    List(Vec<Self>),
    /// What the server sends unasked.
    Push(Vec<Self>),
}

impl Reply {
    /// The text of a status, an error or a string; `None` for the rest.
    #[must_use]
    pub fn text(&self) -> Option<String> {
        match self {
            Self::Status(text) | Self::Error(text) => Some(text.clone()),
            Self::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
            _ => None,
        }
    }

    /// The number; `None` for the rest.
    #[must_use]
    pub fn integer(&self) -> Option<i64> {
        if let Self::Integer(number) = self { Some(*number) } else { None }
    }

    /// The items of a list or a push; none for the rest.
    #[must_use]
    pub fn items(&self) -> &[Self] {
        if let Self::List(items) | Self::Push(items) = self { items } else { &[] }
    }
}

/// A connection to a Redis server.
#[derive(Debug)]
pub struct Client {
    stream: TcpStream,
    /// Bytes read and not yet returned.
    rest: Vec<u8>,
}

impl Client {
    /// Connects; every later call may take 5 seconds.
    ///
    /// # Errors
    /// [`Error::System`] where the server does not accept.
    pub fn connect(address: SocketAddr) -> Result<Self> {
        let refused = || Error::system(format!("connecting to {address}"));
        let stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN).map_err(refused())?;
        stream.set_read_timeout(Some(ANSWER_WITHIN)).map_err(refused())?;
        stream.set_write_timeout(Some(ANSWER_WITHIN)).map_err(refused())?;
        stream.set_nodelay(true).map_err(refused())?;
        Ok(Self { stream, rest: Vec::new() })
    }

    /// Sends one command and reads one value.
    ///
    /// # Errors
    /// As [`send`](Self::send) and [`receive`](Self::receive).
    pub fn command(&mut self, words: &[&str]) -> Result<Reply> {
        self.send(words)?;
        self.receive()
    }

    /// Sends one command without waiting for its reply.
    ///
    /// # Errors
    /// [`Error::System`] where the connection is lost.
    pub fn send(&mut self, words: &[&str]) -> Result<()> {
        self.stream.write_all(&encode(words)).map_err(Error::system("sending a command"))
    }

    /// Reads the next value.
    ///
    /// # Errors
    /// [`Error::System`] where the connection is lost or nothing comes for 5 seconds;
    /// [`Error::Answer`] where it is not the protocol.
    pub fn receive(&mut self) -> Result<Reply> {
        let lost = || Error::system("reading a reply");
        let mut buffer = [0; 4096];
        loop {
            if let Some((reply, length)) = parse(&self.rest)? {
                self.rest.drain(..length);
                return Ok(reply);
            }
            match self.stream.read(&mut buffer).map_err(lost())? {
                0 => return Err(lost()(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))),
                count => self.rest.extend_from_slice(&buffer[..count]),
            }
        }
    }
}

/// A command as it goes over the wire.
#[must_use]
pub fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n{word}\r\n", word.len()).as_bytes());
    }
    bytes
}

/// The first value and its length in bytes; `None`: more bytes must come.
///
/// # Errors
/// [`Error::Answer`] where the bytes are not the protocol.
pub fn parse(bytes: &[u8]) -> Result<Option<(Reply, usize)>> {
    let mut rest = Rest { bytes, at: 0 };
    Ok(rest.value(DEPTH)?.map(|reply| (reply, rest.at)))
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Rest<'_> {
    fn value(&mut self, depth: usize) -> Result<Option<Reply>> {
        let depth = depth.checked_sub(1).ok_or_else(|| malformed("too deep"))?;
        let Some(line) = self.line()? else { return Ok(None) };
        let Some(kind) = line.chars().next() else { return Err(malformed("an empty line")) };
        let text = &line[kind.len_utf8()..];
        Ok(match kind {
            '+' | ',' | '(' => Some(Reply::Status(text.to_owned())),
            '-' => Some(Reply::Error(text.to_owned())),
            ':' => Some(Reply::Integer(number(text)?)),
            '#' => Some(Reply::Integer((text == "t").into())),
            '_' => Some(Reply::Nothing),
            '$' | '=' => self.blob(text)?.map(|blob| blob.map_or(Reply::Nothing, Reply::Bytes)),
            '!' => self.blob(text)?.map(|blob| {
                Reply::Error(String::from_utf8_lossy(&blob.unwrap_or_default()).into_owned())
            }),
            '*' | '~' if text == "-1" => Some(Reply::Nothing),
            '*' | '~' => self.list(text, 1, depth)?.map(Reply::List),
            '%' => self.list(text, 2, depth)?.map(Reply::List),
            '>' => self.list(text, 1, depth)?.map(Reply::Push),
            _ => return Err(malformed(&line)),
        })
    }

    fn line(&mut self) -> Result<Option<String>> {
        let rest = &self.bytes[self.at..];
        let Some(length) = rest.windows(2).position(|pair| pair == b"\r\n") else {
            return Ok(None);
        };
        let line = std::str::from_utf8(&rest[..length]).map_err(|_| malformed("not UTF-8"))?;
        self.at += length + 2;
        Ok(Some(line.to_owned()))
    }

    /// The outer `None`: more bytes must come; the inner one: no value.
    fn blob(&mut self, length: &str) -> Result<Option<Option<Vec<u8>>>> {
        if length == "-1" {
            return Ok(Some(None));
        }
        let length: usize = number(length)?;
        let Some(end) = self.at.checked_add(length) else { return Err(malformed("too long")) };
        if self.bytes.len().saturating_sub(2) < end {
            return Ok(None);
        }
        let blob = self.bytes[self.at..end].to_vec();
        self.at = end + 2;
        Ok(Some(Some(blob)))
    }

    fn list(&mut self, length: &str, each: usize, depth: usize) -> Result<Option<Vec<Reply>>> {
        let length = number::<u32>(length)? as usize * each;
        let mut items = Vec::new();
        for _ in 0..length {
            let Some(item) = self.value(depth)? else { return Ok(None) };
            items.push(item);
        }
        Ok(Some(items))
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.parse().map_err(|_| malformed(text))
}

fn malformed(what: &str) -> Error {
    Error::Answer(what.chars().take(80).collect())
}
