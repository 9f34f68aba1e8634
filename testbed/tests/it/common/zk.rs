//! As much of a ZooKeeper client as these tests need.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

const CREATE: i32 = 1;
const DELETE: i32 = 2;
const EXISTS: i32 = 3;
const CREATE_CONTAINER: i32 = 19;
const NO_NODE: i32 = -101;

/// A session that nobody keeps alive.
pub(crate) struct Zk {
    stream: TcpStream,
}

impl Zk {
    /// Opens a session, which takes a majority of the servers.
    pub(crate) fn connect(address: SocketAddr, answer_within: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(answer_within))?;
        let mut zk = Self { stream };
        let mut request = [0_i32, 0, 0, 30_000, 0, 0, 16].map(i32::to_be_bytes).concat();
        request.extend([0; 16]);
        zk.exchange(&request)?;
        Ok(zk)
    }

    pub(crate) fn create(&mut self, path: &str) -> io::Result<()> {
        self.create_as(CREATE, path, 0)
    }

    pub(crate) fn create_container(&mut self, path: &str) -> io::Result<()> {
        self.create_as(CREATE_CONTAINER, path, 4)
    }

    pub(crate) fn delete(&mut self, path: &str) -> io::Result<()> {
        let any_version = (-1_i32).to_be_bytes();
        self.change(DELETE, &[&text(path)[..], &any_version].concat())
    }

    pub(crate) fn exists(&mut self, path: &str) -> io::Result<bool> {
        let mut body = text(path);
        body.push(0);
        match self.call(EXISTS, &body)? {
            0 => Ok(true),
            NO_NODE => Ok(false),
            code => Err(io::Error::other(format!("code {code}"))),
        }
    }

    fn create_as(&mut self, kind: i32, path: &str, flags: i32) -> io::Result<()> {
        let mut body = text(path);
        // No data; one rule: all rights for the world.
        body.extend([0_i32, 1, 31].map(i32::to_be_bytes).concat());
        body.extend([text("world"), text("anyone")].concat());
        body.extend(flags.to_be_bytes());
        self.change(kind, &body)
    }

    fn change(&mut self, kind: i32, body: &[u8]) -> io::Result<()> {
        match self.call(kind, body)? {
            0 => Ok(()),
            code => Err(io::Error::other(format!("code {code}"))),
        }
    }

    /// The code of the reply.
    fn call(&mut self, kind: i32, body: &[u8]) -> io::Result<i32> {
        let head = [1, kind].map(i32::to_be_bytes).concat();
        let reply = self.exchange(&[&head, body].concat())?;
        let code = reply.get(12..16).and_then(|code| code.try_into().ok());
        code.map(i32::from_be_bytes).ok_or_else(|| io::Error::other("a short reply"))
    }

    fn exchange(&mut self, request: &[u8]) -> io::Result<Vec<u8>> {
        let length = i32::try_from(request.len()).map_err(io::Error::other)?;
        self.stream.write_all(&[&length.to_be_bytes(), request].concat())?;
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut reply = vec![0; u32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut reply)?;
        Ok(reply)
    }
}

fn text(text: &str) -> Vec<u8> {
    let length = i32::try_from(text.len()).unwrap_or_default();
    [&length.to_be_bytes(), text.as_bytes()].concat()
}
