//! What the user started: passes signals on, keeps the terminal, and ends as the command does.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use rustix::process::{
    Pid, Signal, WaitOptions, getpgrp, getpid, kill_process, kill_process_group, wait,
};
use tokio::runtime;
use tokio::sync::mpsc::Receiver;
use tokio::time::sleep;

use super::clock::now;
use super::message::{End, Link, Order, ToFront, ToSupervisor, hand_streams};
use super::role::SUPERVISE;
use super::signals;
use super::terminal::Terminal;
use crate::ending::{Failure, Own, say};
use crate::store::{HIDDEN, VARIABLE};

/// What is passed on to the command.
const PASSED_ON: [Signal; 9] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
    Signal::ALARM,
    Signal::WINCH,
    Signal::TSTP,
];
/// How long without a word from a supervisor whose time is up: this process may have been stopped itself, and its
/// messages are waiting.
const DOUBT: Duration = Duration::from_millis(20);
/// How long at most between two looks at the clock, which goes on while the machine is suspended.
const LOOK: Duration = Duration::from_millis(500);

struct Front {
    link: Link,
    signals: Receiver<i32>,
    terminal: Terminal,
    /// The command's process group, once it runs.
    group: Option<Pid>,
    /// Whether the command was given the terminal.
    shares_terminal: bool,
    /// By when the supervisor has renewed the lock or ended the command, on the machine's clock.
    kill_by: Option<Duration>,
    /// Whether that time has passed once.
    doubts: bool,
    is_json: bool,
}

/// Has a supervisor run the command; how it ended.
pub(super) fn run(order: &Order, command: &[OsString], is_json: bool) -> Result<End, Failure> {
    let failed = |error: io::Error| Failure::system("starting the supervisor", &error);
    let stream = supervisor(order, command).map_err(failed)?;
    let runtime = runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let ended = runtime.block_on(async {
        let numbers = PASSED_ON.iter().chain(&[Signal::CONT, Signal::CHILD]);
        let numbers: Vec<i32> = numbers.map(|signal| signal.as_raw()).collect();
        let signals = signals::listen(&numbers)?;
        let mut link = Link::new(stream)?;
        link.send(order).await;
        let mut front = Front {
            link,
            signals,
            terminal: Terminal::open(),
            group: None,
            shares_terminal: false,
            kill_by: None,
            doubts: false,
            is_json,
        };
        let end = front.watch().await;
        front.take_terminal_back();
        Ok(end)
    });
    ended.map_err(failed)
}

/// Starts the supervisor and hands it the standard streams; gives the socket to it.
fn supervisor(order: &Order, command: &[OsString]) -> io::Result<UnixStream> {
    let (ours, theirs) = UnixStream::pair()?;
    Command::new(std::env::current_exe()?)
        .arg(SUPERVISE)
        .args(command)
        .env(VARIABLE, &order.shown)
        .env_remove(HIDDEN)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()?;
    hand_streams(&ours)?;
    Ok(ours)
}

impl Front {
    async fn watch(&mut self) -> End {
        loop {
            let patience = self.patience();
            // Messages first: they may tell that there is time left.
            tokio::select! {
                biased;
                message = self.link.next::<ToFront>() => match message {
                    Some(ToFront::Ended(end)) => return end,
                    Some(message) => self.heard(message).await,
                    None => return self.bereft(),
                },
                Some(number) = self.signals.recv() => self.signalled(number).await,
                () = sleep(patience) => if self.is_overdue() {
                    return self.stop_for_good("its supervisor has not renewed the lock in time, and may be stopped");
                },
            }
        }
    }

    async fn heard(&mut self, message: ToFront) {
        match message {
            ToFront::Started(number) => {
                self.group = Pid::from_raw(number);
                self.shares_terminal = false;
            }
            ToFront::KillBy(time) => (self.kill_by, self.doubts) = (Some(time), false),
            ToFront::Gone => {
                self.take_terminal_back();
                (self.group, self.kill_by) = (None, None);
            }
            ToFront::Stopped(number) => self.command_stopped(number).await,
            ToFront::Note(failure) => say(&failure, self.is_json),
            ToFront::Ended(_) => {}
        }
    }

    async fn signalled(&mut self, number: i32) {
        let Some(signal) = Signal::from_named_raw(number) else { return };
        match signal {
            Signal::CHILD => while let Ok(Some(_)) = wait(WaitOptions::NOHANG) {},
            Signal::CONT => {
                if let Some(group) = self.group.filter(|_| self.shares_terminal)
                    && self.terminal.is_ours()
                {
                    self.terminal.give_to(group);
                }
                self.link.send(&ToSupervisor::Continue).await;
            }
            Signal::TSTP if self.group.is_none() => stop_here(),
            _ => self.link.send(&ToSupervisor::Signal(number)).await,
        }
    }

    /// The command asks for the terminal, or the user has stopped the job.
    async fn command_stopped(&mut self, number: i32) {
        let Some((signal, group)) = Signal::from_named_raw(number).zip(self.group) else { return };
        let asks = matches!(signal, Signal::TTIN | Signal::TTOU);
        if asks && self.terminal.is_ours() {
            self.terminal.give_to(group);
            self.shares_terminal = true;
            self.link.send(&ToSupervisor::Continue).await;
        } else if asks || signal == Signal::TSTP {
            // The shell sees its job stopped, and says so.
            self.take_terminal_back();
            stop_here();
        }
    }

    fn take_terminal_back(&self) {
        if self.group.is_some_and(|group| self.terminal.is_of(group)) {
            self.terminal.give_to(getpgrp());
        }
    }

    fn patience(&self) -> Duration {
        match self.kill_by {
            Some(_) if self.doubts => DOUBT,
            Some(time) => time.saturating_sub(now()).min(LOOK),
            None => LOOK,
        }
    }

    fn is_overdue(&mut self) -> bool {
        let is_late = self.kill_by.is_some_and(|time| now() >= time);
        is_late && std::mem::replace(&mut self.doubts, true)
    }

    /// The supervisor is gone without a last word.
    fn bereft(&self) -> End {
        if self.group.is_none() {
            let line = "the supervisor ended before the command began; try again";
            return End::Failed(Failure::new(Own::System, line));
        }
        self.stop_for_good("its supervisor was killed")
    }

    /// Kills the command's group, since it may hold the lock no more.
    fn stop_for_good(&self, why: &str) -> End {
        if let Some(group) = self.group {
            kill_process_group(group, Signal::KILL).ok();
        }
        End::Failed(Failure::new(Own::Lost, format!("the command was killed: {why}")))
    }
}

/// Stops this process, until it is continued.
fn stop_here() {
    kill_process(getpid(), Signal::STOP).ok();
}
