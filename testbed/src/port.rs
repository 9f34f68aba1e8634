//! Ports on 127.0.0.1 that nobody else uses.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use socket2::{Domain, Socket, Type};

use crate::{Error, Result};

/// Below Linux's ephemeral range (32768-60999), so that no outgoing connection takes one.
const FIRST: u64 = 10_240;
const PAST_LAST: u64 = 32_768;

/// Where this process looks next; random at first, since test processes run side by side.
static NEXT: LazyLock<AtomicU64> =
    LazyLock::new(|| AtomicU64::new(RandomState::new().hash_one("port") % PAST_LAST));

/// A port on 127.0.0.1, below 32768, kept for its owner while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    /// Bound and never listening: other testbeds cannot bind it, a server with SO_REUSEADDR can.
    _kept: Option<Socket>,
}

impl Port {
    /// A port that was free just now.
    ///
    /// # Errors
    /// [`Error::System`] where no port can be bound.
    pub fn free() -> Result<Self> {
        let mut last = None;
        for _ in FIRST..PAST_LAST {
            let offset = NEXT.fetch_add(1, Ordering::Relaxed) % (PAST_LAST - FIRST);
            let number = u16::try_from(FIRST + offset).unwrap_or(u16::MAX);
            match keep(number) {
                Ok(socket) => {
                    // Only Linux lets a listener bind beside a socket that does not listen.
                    let kept = cfg!(target_os = "linux").then_some(socket);
                    return Ok(Self { number, _kept: kept });
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.unwrap_or_else(|| std::io::ErrorKind::AddrInUse.into());
        Err(Error::system("binding a port below 32768")(error))
    }

    /// The port's number.
    #[must_use]
    pub fn number(&self) -> u16 {
        self.number
    }

    /// 127.0.0.1 with this port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.number).into()
    }
}

/// Whether a server listens there; elsewhere than on Linux, where it cannot be seen from outside,
/// yes.
pub(crate) fn is_listened_at(address: SocketAddr) -> bool {
    let bind = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())
    };
    // Beside a socket that does not listen it would succeed.
    bind().is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Binds without SO_REUSEADDR, which fails beside any other socket; sets it only afterwards.
fn keep(number: u16) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, number).into();
    socket.bind(&address.into())?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}
