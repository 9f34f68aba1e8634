//! What several of these tests need.

pub(crate) mod zk;

use std::error::Error;
use std::io::{self, Read};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use testbed::Link;

pub(crate) type Tested = Result<(), Box<dyn Error>>;

/// For what must happen.
pub(crate) const LONG: Duration = Duration::from_secs(10);
/// For what must not happen.
pub(crate) const SHORT: Duration = Duration::from_millis(150);

/// A link in front of a listener of the test's own.
pub(crate) struct Bench {
    pub(crate) link: Link,
    pub(crate) listener: TcpListener,
}

impl Bench {
    pub(crate) fn new() -> Result<Self, Box<dyn Error>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        Ok(Self { link: Link::to(listener.local_addr()?)?, listener })
    }

    /// Both ends of a new connection through the link.
    pub(crate) fn connect(&self) -> Result<(TcpStream, TcpStream), Box<dyn Error>> {
        let client = TcpStream::connect(self.link.address())?;
        let (server, _) = self.listener.accept()?;
        for stream in [&client, &server] {
            stream.set_read_timeout(Some(LONG))?;
            stream.set_write_timeout(Some(LONG))?;
        }
        Ok((client, server))
    }
}

/// So many bytes that a shifted or missing one shows.
pub(crate) fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| u8::try_from(index % 251).unwrap_or_default()).collect()
}

/// The next bytes, so many.
pub(crate) fn read(stream: &mut TcpStream, count: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; count];
    stream.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// All bytes up to the end or the error, and which of them it is.
pub(crate) fn read_all(stream: &mut TcpStream) -> (Vec<u8>, io::Result<()>) {
    let mut bytes = Vec::new();
    let ended = stream.read_to_end(&mut bytes).map(drop);
    (bytes, ended)
}

/// Whether neither a byte nor an end comes for a while.
pub(crate) fn is_silent(stream: &mut TcpStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(SHORT))?;
    let read = stream.read(&mut [0]);
    stream.set_read_timeout(Some(LONG))?;
    Ok(read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock))
}

pub(crate) fn is_reset(ended: &io::Result<()>) -> bool {
    ended.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::ConnectionReset)
}

/// Whether the process ends within a while; one that waits for its parent has ended.
pub(crate) fn ends(pid: u32) -> io::Result<bool> {
    let began = Instant::now();
    while began.elapsed() < LONG {
        let output = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output()?;
        if output.stdout.is_empty() || output.stdout.trim_ascii_start().starts_with(b"Z") {
            return Ok(true);
        }
        sleep(Duration::from_millis(5));
    }
    Ok(false)
}
