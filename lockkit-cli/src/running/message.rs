//! What front and supervisor tell each other: a JSON document on each line of a socket.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use rustix::io::{FdFlags, fcntl_setfd};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::ending::Failure;

/// What the supervisor is to do; the first message. It may have a password in it, so it is never an argument.
#[derive(Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) store: String,
    /// The store as the command may see it.
    pub(super) shown: String,
    pub(super) name: String,
    pub(super) ttl: Option<Duration>,
    pub(super) label: String,
    pub(super) kill_after: Duration,
    pub(super) wait: Wait,
    pub(super) is_shared: bool,
    /// Of the semaphore, instead of the lock.
    pub(super) permits: Option<u32>,
    /// Since the grant, although the command ends sooner.
    pub(super) hold_at_least: Option<Duration>,
    /// Whether the lock is taken again after a loss.
    pub(super) stands_again: bool,
}

/// How long to wait for the lock.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) enum Wait {
    No,
    AtMost(Duration),
    AsLongAsItTakes,
}

/// From the front.
#[derive(Serialize, Deserialize)]
pub(super) enum ToSupervisor {
    /// The front got this signal.
    Signal(i32),
    /// The command is to go on.
    Continue,
}

/// From the supervisor.
#[derive(Serialize, Deserialize)]
pub(super) enum ToFront {
    /// The command runs, in this process group.
    Started(i32),
    /// By when the front kills the group if it hears nothing more, on the machine's clock.
    KillBy(Duration),
    /// Nothing of the group is left.
    Gone,
    /// A signal has stopped the command.
    Stopped(i32),
    /// A line for the user.
    Note(Failure),
    /// The last message: how the front is to end.
    Ended(End),
}

/// How the command ended, or why it did not run to its end.
#[derive(Clone, Serialize, Deserialize)]
pub(super) enum End {
    Exited(u8),
    Signalled(i32),
    Failed(Failure),
}

/// One end of the socket.
pub(super) struct Link {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
}

impl Link {
    /// Called within a runtime.
    pub(super) fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (reader, writer) = tokio::net::UnixStream::from_std(stream)?.into_split();
        Ok(Self { lines: BufReader::new(reader).lines(), writer })
    }

    /// The next message; `None`: the other end is gone. Cancel-safe.
    pub(super) async fn next<M: DeserializeOwned>(&mut self) -> Option<M> {
        let line = self.lines.next_line().await.ok().flatten()?;
        serde_json::from_str(&line).ok()
    }

    /// Sends a message; to a front that is gone, nothing.
    pub(super) async fn send(&mut self, message: &(impl Serialize + Sync)) {
        if let Ok(line) = line(message) {
            // The next read tells that the other end is gone.
            self.writer.write_all(&line).await.ok();
        }
    }

    /// Sends a message if there is room for it at once: a stopped front reads nothing. Whether it was sent.
    pub(super) fn offer(&mut self, message: &impl Serialize) -> bool {
        // A short line: the socket takes it whole or not at all.
        line(message).is_ok_and(|line| self.writer.try_write(&line).is_ok())
    }
}

fn line(message: &impl Serialize) -> serde_json::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// Hands the standard streams on, which the supervisor itself does not have.
pub(super) fn hand_streams(stream: &UnixStream) -> io::Result<()> {
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let streams = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut attached = SendAncillaryBuffer::new(&mut space);
    attached.push(SendAncillaryMessage::ScmRights(&streams));
    sendmsg(stream, &[IoSlice::new(b"\n")], &mut attached, SendFlags::empty())?;
    Ok(())
}

/// The standard streams of the front, for the command.
pub(super) fn take_streams(stream: &UnixStream) -> io::Result<[OwnedFd; 3]> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
    let mut attached = RecvAncillaryBuffer::new(&mut space);
    recvmsg(stream, &mut [IoSliceMut::new(&mut [0])], &mut attached, RecvFlags::empty())?;
    let mut streams = Vec::new();
    for message in attached.drain() {
        if let RecvAncillaryMessage::ScmRights(handed) = message {
            streams.extend(handed);
        }
    }
    for stream in &streams {
        fcntl_setfd(stream, FdFlags::CLOEXEC)?;
    }
    streams.try_into().map_err(|_| io::Error::other("no standard streams were handed on"))
}
