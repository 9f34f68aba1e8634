//! Packets that a connection of a link loses, by a filter in the kernel: what no proxy can do by itself.

use socket2::SockRef;
use tokio::net::TcpStream;

use super::plan::Fault;

/// Which of the packets that come to a socket are lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Filter {
    /// None of them.
    None,
    /// Those without data, but not the end of a connection: acknowledgements and keep-alives. The way that they ask
    /// about is lost, so no answer may go back.
    Empty,
    /// All of them.
    All,
}

impl Filter {
    /// Has the socket from which the direction `index` comes lose what its faults say.
    pub(super) fn follow(&mut self, socket: &TcpStream, faults: [Fault; 2], index: usize) {
        let wanted = match (faults[index], faults[1 - index]) {
            (Fault::Drop, _) => Self::All,
            (_, Fault::Drop) => Self::Empty,
            _ => Self::None,
        };
        if *self != wanted {
            // It fails only for a socket that is closed.
            wanted.set(&SockRef::from(socket)).ok();
            *self = wanted;
        }
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn set(self, socket: &SockRef<'_>) -> std::io::Result<()> {
        match self {
            Self::None => socket.detach_filter(),
            Self::Empty => socket.attach_filter(&program::EMPTY),
            Self::All => socket.attach_filter(&program::ALL),
        }
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn set(self, _: &SockRef<'_>) -> std::io::Result<()> {
        Ok(())
    }
}

/// What the kernel runs for each packet, from its TCP header on. Source: linux/bpf_common.h.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod program {
    use socket2::SockFilter;

    const LOAD_BYTE: u16 = 0x30;
    const LOAD_LENGTH: u16 = 0x80;
    const AND: u16 = 0x54;
    const SHIFT_RIGHT: u16 = 0x74;
    const SUBTRACT_X: u16 = 0x1c;
    const TO_X: u16 = 0x07;
    const JUMP_IF_SET: u16 = 0x45;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const WHOLE: u32 = u32::MAX;

    pub(super) static ALL: [SockFilter; 1] = [SockFilter::new(RETURN, 0, 0, 0)];

    pub(super) static EMPTY: [SockFilter; 11] = [
        // FIN, SYN or RST.
        SockFilter::new(LOAD_BYTE, 0, 0, 13),
        SockFilter::new(JUMP_IF_SET, 7, 0, 0b111),
        // The length of the header, in bytes.
        SockFilter::new(LOAD_BYTE, 0, 0, 12),
        SockFilter::new(AND, 0, 0, 0xf0),
        SockFilter::new(SHIFT_RIGHT, 0, 0, 2),
        SockFilter::new(TO_X, 0, 0, 0),
        SockFilter::new(LOAD_LENGTH, 0, 0, 0),
        SockFilter::new(SUBTRACT_X, 0, 0, 0),
        SockFilter::new(JUMP_IF_EQUAL, 1, 0, 0),
        SockFilter::new(RETURN, 0, 0, WHOLE),
        SockFilter::new(RETURN, 0, 0, 0),
    ];
}
