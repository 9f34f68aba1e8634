//! The supervisor: takes the lock, runs the command, and releases once nothing of the command is left.
//!
//! ```text
//! waiting --granted--> holding --nothing of the command is left--> released
//!         --interrupted, refused--> ended     --lost, of an election--> waiting
//! ```

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process::ExitCode;
use std::time::Duration;

use lockkit::{Guard, Locks};
use rustix::process::Signal;
use tokio::runtime;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;

use super::group::Group;
use super::held::{Hold, Over};
use super::message::{End, Link, Order, ToFront, ToSupervisor, take_streams};
use super::signals;
use super::wish::Wish;
use crate::ending::Failure;
use crate::store::{self, CLOSES_WITHIN};

/// Two threads: one renews while the other blocks for a moment.
const THREADS: usize = 2;
/// The pause before a candidate stands again.
const PAUSE: Duration = Duration::from_millis(500);
/// What a front sends all processes of a service or a terminal. It is the front's to pass on, while there is one.
const ENDING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

struct Supervisor {
    link: Link,
    order: Order,
    command: Vec<OsString>,
    /// `None` once no command is started any more: a reader of the command's output waits for its end.
    streams: Option<[OwnedFd; 3]>,
    told_to_end: Receiver<i32>,
    children: Receiver<i32>,
}

/// The whole of the process.
pub(super) fn main(command: Vec<OsString>) -> ExitCode {
    // There is no one to tell an error but the front, which sees this process end.
    serve(command).map_or(ExitCode::FAILURE, |()| ExitCode::SUCCESS)
}

fn serve(command: Vec<OsString>) -> io::Result<()> {
    let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let streams = Some(take_streams(&stream)?);
    // Orphans of the command come to this process, which collects them: a group of nothing but zombies would hold the
    // lock for ever where the first process of a container collects none.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    // In this thread, whose end the command is killed at.
    runtime.block_on(async {
        let ending = ENDING.map(Signal::as_raw);
        let told_to_end = signals::listen(&ending)?;
        let children = signals::listen(&[Signal::CHILD.as_raw()])?;
        let mut link = Link::new(stream)?;
        let Some(order) = link.next().await else { return Ok(()) };
        let mut supervisor = Supervisor { link, order, command, streams, told_to_end, children };
        if let Some(end) = supervisor.work().await {
            supervisor.link.send(&ToFront::Ended(end)).await;
        }
        Ok(())
    })
}

impl Supervisor {
    /// How it ended; `None`: the front knows, or is gone.
    async fn work(&mut self) -> Option<End> {
        let builder = Locks::builder().label(&*self.order.label);
        let url = self.order.store.clone();
        let locks = tokio::select! {
            end = interrupted(&mut self.link) => return end,
            locks = store::connect(&url, builder) => match locks {
                Ok(locks) => locks,
                Err(failure) => return Some(End::Failed(failure)),
            },
        };
        let end = loop {
            match self.term(&locks).await {
                Over::Ended(end) => break end,
                Over::Lost(failure) if self.order.stands_again => {
                    self.link.offer(&ToFront::Note(failure));
                    tokio::select! {
                        end = interrupted(&mut self.link) => break end,
                        () = sleep(PAUSE) => {}
                    }
                }
                Over::Lost(failure) => break Some(End::Failed(failure)),
            }
        };
        let Some(least) = self.order.hold_at_least else {
            // What is left ends with its ttl.
            locks.close(CLOSES_WITHIN).await.ok();
            return end;
        };
        // The front ends now; this process keeps the name where the store does not do it by itself.
        self.streams = None;
        if let Some(end) = end {
            self.link.send(&ToFront::Ended(end)).await;
        }
        locks.close(least.saturating_add(CLOSES_WITHIN)).await.ok();
        None
    }

    /// Takes the lock once, and runs the command under it.
    async fn term(&mut self, locks: &Locks) -> Over {
        let wish = Wish::of(&self.order, locks);
        let guard = tokio::select! {
            end = interrupted(&mut self.link) => return Over::Ended(end),
            taken = wish.take(self.order.wait) => match taken {
                Ok(guard) => guard,
                Err(failure) => return Over::Ended(Some(End::Failed(failure))),
            },
        };
        let group = match self.start(&guard) {
            Ok(group) => group,
            Err(error) => {
                guard.release().await.ok();
                let failure = Failure::system("starting the command", &error);
                return Over::Ended(Some(End::Failed(failure)));
            }
        };
        let hold = Hold::new(
            &mut self.link,
            &mut self.told_to_end,
            &mut self.children,
            group,
            guard,
            self.order.kill_after,
        );
        hold.until_nothing_is_left().await
    }

    fn start(&self, guard: &Guard) -> io::Result<Group> {
        let mut variables = vec![
            ("LOCKKIT_NAME", self.order.name.clone()),
            ("LOCKKIT_FENCING_TOKEN", guard.token().to_string()),
            (store::VARIABLE, self.order.shown.clone()),
        ];
        variables.extend(guard.slot().map(|slot| ("LOCKKIT_SLOT", slot.to_string())));
        let gone = || io::Error::other("the standard streams are closed");
        let streams = self.streams.as_ref().ok_or_else(gone)?;
        Group::start(&self.command, &variables, streams)
    }
}

/// Completes when the user ends the waiting: by a signal, which is how the front ends then, or by ending the front.
async fn interrupted(link: &mut Link) -> Option<End> {
    loop {
        match link.next().await? {
            ToSupervisor::Signal(number) if number != Signal::WINCH.as_raw() => {
                return Some(End::Signalled(number));
            }
            _ => {}
        }
    }
}
