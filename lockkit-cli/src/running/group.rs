//! The command's process group, as its supervisor sees it.

use std::ffi::OsString;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::io::Errno;
use rustix::process::{
    Pid, Signal, WaitOptions, kill_process_group, test_kill_process_group, wait,
};

use super::message::End;
use super::role::BECOME;
use crate::store::HIDDEN;

/// The command, and all that it has started and that has not left its group.
pub(super) struct Group {
    leader: Pid,
    /// How the command itself ended.
    end: Option<End>,
}

impl Group {
    /// Starts the command. The thread that calls this must live as long as the supervisor: its end is what the command is
    /// killed at.
    pub(super) fn start(
        command: &[OsString],
        variables: &[(&str, String)],
        streams: &[OwnedFd; 3],
    ) -> io::Result<Self> {
        let [stdin, stdout, stderr] = streams;
        let child = Command::new(std::env::current_exe()?)
            .arg(BECOME)
            .arg(std::process::id().to_string())
            .args(command)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .env_remove(HIDDEN)
            .stdin(Stdio::from(stdin.try_clone()?))
            .stdout(Stdio::from(stdout.try_clone()?))
            .stderr(Stdio::from(stderr.try_clone()?))
            .process_group(0)
            .spawn()?;
        Ok(Self { leader: Pid::from_child(&child), end: None })
    }

    pub(super) const fn number(&self) -> i32 {
        self.leader.as_raw_nonzero().get()
    }

    pub(super) const fn end(&self) -> Option<&End> {
        self.end.as_ref()
    }

    /// Signals all of the group; what has ended meanwhile hears nothing.
    pub(super) fn signal(&self, signal: Signal) {
        kill_process_group(self.leader, signal).ok();
    }

    /// Whether none of it is left. A group that may not be signalled is there.
    pub(super) fn is_gone(&self) -> bool {
        self.end.is_some() && test_kill_process_group(self.leader) == Err(Errno::SRCH)
    }

    /// Collects what has ended, the orphans too; gives the signal that has stopped the command, if one has.
    pub(super) fn collect(&mut self) -> Option<i32> {
        let mut stopped = None;
        while let Ok(Some((process, status))) = wait(WaitOptions::NOHANG | WaitOptions::UNTRACED) {
            if process != self.leader {
                continue;
            }
            if let Some(code) = status.exit_status() {
                self.end = Some(End::Exited(u8::try_from(code).unwrap_or(u8::MAX)));
            } else if let Some(number) = status.terminating_signal() {
                self.end = Some(End::Signalled(number));
            } else {
                stopped = status.stopping_signal();
            }
        }
        stopped
    }
}
