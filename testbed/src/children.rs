//! Tests with several processes: the test binary starts itself again in another role.
//!
//! ```no_run
//! use std::time::Duration;
//! use testbed::children::{self, Child};
//!
//! // #[test]
//! fn a_holder_that_is_killed_leaves_nothing() -> testbed::Result<()> {
//!     if children::role().is_some() {
//!         children::say("holding");
//!         children::wait_for_the_end();
//!     }
//!     let holder = Child::test("a_holder_that_is_killed_leaves_nothing", "holder").start()?;
//!     assert_eq!(holder.line(Duration::from_secs(10))?, "holding");
//!     holder.kill()
//! }
//! ```

use std::ffi::OsStr;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use std::{env, io};

use crate::process::Process;
use crate::{Error, Result};

const ROLE: &str = "TESTBED_ROLE";
/// Tells the child's lines from the test harness's, which may share a line with them.
const MARK: &str = "\u{1}";

/// The role that a parent gave to this process; `None`: it is no child.
#[must_use]
pub fn role() -> Option<String> {
    env::var(ROLE).ok()
}

/// Gives a line to the parent.
pub fn say(line: &str) {
    let mut out = io::stdout().lock();
    // Without a parent there is nobody left to tell.
    writeln!(out, "{MARK}{line}").and_then(|()| out.flush()).ok();
}

/// Blocks until the parent ends this process.
pub fn wait_for_the_end() -> ! {
    loop {
        thread::park();
    }
}

/// A process of this test binary in another role; it ends when this value is dropped, and when the
/// test process ends.
#[derive(Debug)]
pub struct Child {
    process: Mutex<Process>,
    pid: u32,
    lines: Mutex<Receiver<String>>,
}

/// A child about to be started.
#[derive(Debug)]
pub struct Builder {
    command: Command,
}

impl Child {
    /// This test binary, running the one test of this full name, `module::function`, as `role`.
    #[must_use]
    pub fn test(name: &str, role: &str) -> Builder {
        Self::with_arguments(&["--exact", name, "--nocapture", "--include-ignored"], role)
    }

    /// This binary with these arguments, for one without the standard test harness.
    #[must_use]
    pub fn with_arguments(arguments: &[&str], role: &str) -> Builder {
        // Where this binary cannot be found, the start says so.
        let mut command = Command::new(env::current_exe().unwrap_or_default());
        command.args(arguments).env(ROLE, role);
        Builder { command }
    }

    /// The next line that it says.
    ///
    /// # Errors
    /// [`Error::Late`] where none comes within the limit, or none can come any more.
    pub fn line(&self, limit: Duration) -> Result<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let late = |_| Error::Late { what: "a child's line".to_owned(), limit };
        lines.recv_timeout(limit).map_err(late)
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// [`Error::System`] where it has ended.
    pub fn pause(&self) -> Result<()> {
        let mut process = self.process();
        // A dead one would not stop either.
        process.ended()?;
        process.pause()
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// [`Error::System`] where it has ended.
    pub fn resume(&self) -> Result<()> {
        self.process().resume()
    }

    /// Ends it at once (SIGKILL), also a paused one.
    ///
    /// # Errors
    /// [`Error::System`] where the signal is refused.
    pub fn kill(&self) -> Result<()> {
        self.process().end().map(drop)
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// [`Error::Late`] where it does not within the limit.
    pub fn wait(&self, limit: Duration) -> Result<ExitStatus> {
        let began = Instant::now();
        loop {
            if let Some(status) = self.process().ended()? {
                return Ok(status);
            }
            if began.elapsed() > limit {
                return Err(Error::Late { what: "a child's end".to_owned(), limit });
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// The id of its process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    fn process(&self) -> MutexGuard<'_, Process> {
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Builder {
    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    /// Starts it; what it writes to its standard error goes where this process's goes.
    ///
    /// # Errors
    /// [`Error::System`] where it cannot be started.
    pub fn start(self) -> Result<Child> {
        let refused = || Error::system("starting a child");
        let stderr = io::stderr().as_fd().try_clone_to_owned().map_err(refused())?;
        let mut process = Process::start(&self.command, Stdio::piped(), File::from(stderr), None)?;
        let (sender, lines) = channel();
        let stdout = process.stdout();
        // It ends with the child, whose output then ends.
        thread::Builder::new()
            .name("a child's lines".to_owned())
            .spawn(move || {
                for line in stdout.into_iter().flat_map(|out| BufReader::new(out).lines()) {
                    let Ok(line) = line else { return };
                    if let Some((_, said)) = line.split_once(MARK)
                        && sender.send(said.to_owned()).is_err()
                    {
                        return;
                    }
                }
            })
            .map_err(refused())?;
        let pid = process.pid();
        Ok(Child { process: process.into(), pid, lines: lines.into() })
    }
}
