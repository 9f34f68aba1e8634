//! Doors that the members of a cluster leave by; behind each one is a link to another member.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener as TcpDoor};
use std::os::unix::net::UnixListener as UnixDoor;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::port::is_listened_at;
use crate::{Error, Port, Result};

/// SOCKS, version 5, as far as it is needed: no login, one command, one kind of address.
const VERSION: u8 = 5;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NO_LOGIN: [u8; 2] = [VERSION, 0];
const GRANTED: u8 = 0;
const REFUSED: u8 = 5;

const RETRY: Duration = Duration::from_millis(5);

/// Where a member connects to instead of another member.
pub(crate) enum Door {
    /// A socket in the file system: the link behind it.
    Socket(UnixDoor, SocketAddr),
    /// A SOCKS proxy: the link behind each port of the other members.
    Proxy(Port, TcpDoor, HashMap<u16, SocketAddr>),
}

/// The doors of one cluster, served by a thread until this is dropped.
#[derive(Debug)]
pub(crate) struct Doors {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Doors {
    pub(crate) fn open(doors: Vec<Door>) -> Result<Self> {
        let refused = || Error::system("opening doors between members");
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(refused())?;
        for door in doors {
            let _entered = runtime.enter();
            match door {
                Door::Socket(listener, link) => {
                    listener.set_nonblocking(true).map_err(refused())?;
                    let listener = UnixListener::from_std(listener).map_err(refused())?;
                    runtime.spawn(socket(listener, link));
                }
                Door::Proxy(port, listener, links) => {
                    listener.set_nonblocking(true).map_err(refused())?;
                    let listener = TcpListener::from_std(listener).map_err(refused())?;
                    runtime.spawn(proxy(port, listener, links.into()));
                }
            }
        }
        let (end, ended) = oneshot::channel();
        let serve = move || {
            runtime.block_on(ended).ok();
        };
        let thread = thread::Builder::new().name("doors between members".to_owned()).spawn(serve);
        Ok(Self { end: Some(end), thread: Some(thread.map_err(refused())?) })
    }
}

impl Drop for Doors {
    fn drop(&mut self) {
        self.end.take();
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed there.
            thread.join().ok();
        }
    }
}

async fn socket(listener: UnixListener, link: SocketAddr) {
    loop {
        match listener.accept().await {
            Ok((from, _)) => drop(tokio::spawn(carry(from, link))),
            // Too many open files, most likely.
            Err(_) => sleep(RETRY).await,
        }
    }
}

async fn proxy(_kept: Port, listener: TcpListener, links: Arc<HashMap<u16, SocketAddr>>) {
    loop {
        let Ok((mut from, _)) = listener.accept().await else {
            sleep(RETRY).await;
            continue;
        };
        let links = Arc::clone(&links);
        tokio::spawn(async move {
            from.set_nodelay(true).ok();
            let Ok(port) = asked(&mut from).await else { return };
            // A member that does not listen yet is asked again, one that hangs up is given up.
            let is_there = is_listened_at((Ipv4Addr::LOCALHOST, port).into());
            let link = links.get(&port).filter(|_| is_there);
            let reply = if link.is_some() { GRANTED } else { REFUSED };
            let said = from.write_all(&[VERSION, reply, 0, IPV4, 0, 0, 0, 0, 0, 0]).await;
            if let (Some(link), Ok(())) = (link, said) {
                carry(from, *link).await;
            }
        });
    }
}

/// The port that a client of the proxy asks for.
async fn asked(from: &mut TcpStream) -> io::Result<u16> {
    let [version, logins] = read(from).await?;
    let mut offered = vec![0; logins.into()];
    from.read_exact(&mut offered).await?;
    from.write_all(&NO_LOGIN).await?;
    let [again, command, _, kind] = read(from).await?;
    let [_, _, _, _, high, low] = read(from).await?;
    if [version, again, command, kind] != [VERSION, VERSION, CONNECT, IPV4] {
        return Err(io::ErrorKind::Unsupported.into());
    }
    Ok(u16::from_be_bytes([high, low]))
}

async fn read<const COUNT: usize>(from: &mut TcpStream) -> io::Result<[u8; COUNT]> {
    let mut bytes = [0; COUNT];
    from.read_exact(&mut bytes).await?;
    Ok(bytes)
}

async fn carry(mut from: impl AsyncRead + AsyncWrite + Unpin, link: SocketAddr) {
    if let Ok(mut to) = TcpStream::connect(link).await {
        to.set_nodelay(true).ok();
        copy_bidirectional(&mut from, &mut to).await.ok();
    }
}
