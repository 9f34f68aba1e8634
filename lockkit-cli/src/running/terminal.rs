//! The terminal that the user sits at, if there is one, and which process group may read from it.

use std::fs::File;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::{Pid, getpgrp};
use rustix::termios::{tcgetpgrp, tcsetpgrp};

/// The controlling terminal; `None`: there is none.
pub(super) struct Terminal(Option<File>);

impl Terminal {
    pub(super) fn open() -> Self {
        Self(File::options().read(true).write(true).open("/dev/tty").ok())
    }

    /// Whether the group of this process is the one that may read.
    pub(super) fn is_ours(&self) -> bool {
        self.is_of(getpgrp())
    }

    pub(super) fn is_of(&self, group: Pid) -> bool {
        self.0.as_ref().and_then(|file| tcgetpgrp(file).ok()) == Some(group)
    }

    /// Lets this group read, and get what is typed as signals.
    pub(super) fn give_to(&self, group: Pid) {
        let Some(file) = &self.0 else { return };
        // From the background, this very call would stop the process.
        let mut stops = SigSet::empty();
        stops.add(Signal::SIGTTOU);
        stops.thread_block().ok();
        // The group may have ended, or the terminal hung up.
        tcsetpgrp(file, group).ok();
        stops.thread_unblock().ok();
    }
}
