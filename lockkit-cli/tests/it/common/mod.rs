//! What the tests of the command share: running it, and writers that show who held when.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, io};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use testbed::timing;

/// By when what is waited for has happened, on a machine that is busy.
const PATIENCE: Duration = Duration::from_secs(40);
const STEP: Duration = Duration::from_millis(5);
const LOG: &str = "LOCKKIT_TEST_LOG";
const WHO: &str = "LOCKKIT_TEST_WHO";
/// A writer ends by itself then, whatever the command under test forgets.
const LIFE: Duration = Duration::from_secs(120);

pub(crate) const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// The command, on the store of this URL.
pub(crate) fn lockkit(store: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockkit"));
    command.env("LOCKKIT_STORE", store).stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn ran(store: &str, arguments: &[&str]) -> Output {
    lockkit(store).args(arguments).output().expect("the command")
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or_else(|| panic!("{output:?}"))
}

pub(crate) fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn errors(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A directory for files of locks, and its URL.
pub(crate) fn files() -> (TempDir, String) {
    let directory = tempfile::tempdir().expect("a directory");
    let url = format!("file:{}/locks", directory.path().display());
    (directory, url)
}

/// Waits for a state.
pub(crate) fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let began = timing::start();
    while !holds() {
        if began.elapsed() > PATIENCE {
            began.missed(format_args!("{what}: not within {PATIENCE:?}"));
        }
        sleep(STEP);
    }
}

/// A run that is under way; killed, with all that it has started, when this is dropped.
pub(crate) struct Running(Child);

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        Self(command.spawn().expect("the command"))
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("a signal");
    }

    /// The process that holds the lock: the only child of the one that was started.
    pub(crate) fn supervisor(&self) -> Pid {
        let mut found = None;
        until("a supervisor", || {
            let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output().expect("ps");
            let parent = self.0.id().to_string();
            found = out(&listed).lines().find_map(|line| {
                let mut words = line.split_whitespace();
                let child = words.next()?;
                (words.next()? == parent).then(|| child.parse().ok().and_then(Pid::from_raw))?
            });
            found.is_some()
        });
        found.expect("a supervisor")
    }

    /// How it ended; `None` for the code: a signal ended it.
    pub(crate) fn ended(&mut self) -> Option<i32> {
        let mut status = None;
        until("the end of a run", || {
            status = self.0.try_wait().expect("a child");
            status.is_some()
        });
        status.and_then(|status| status.code())
    }

    /// All that it writes to its standard error, until its end.
    pub(crate) fn errors(&mut self) -> String {
        let mut text = String::new();
        self.0.stderr.take().expect("piped").read_to_string(&mut text).expect("text");
        text
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The supervisor sees to the rest.
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A file to which the commands under test write who they are, once a millisecond.
pub(crate) struct Log {
    path: PathBuf,
    _directory: TempDir,
}

impl Log {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("log");
        File::create(&path).expect("a file");
        Self { path, _directory: directory }
    }

    /// The command line of a writer; one that ignores SIGTERM where it is `stubborn`.
    pub(crate) fn writes<'a>(
        &self,
        command: &'a mut Command,
        who: char,
        stubborn: bool,
    ) -> &'a mut Command {
        command.env(LOG, &self.path).env(WHO, who.to_string()).arg("--");
        if stubborn {
            command.args(["sh", "-c", r#"trap "" TERM; exec "$@""#, "sh"]);
        }
        command
            .arg(env::current_exe().expect("this program"))
            .args(["--exact", "common::child_that_writes", "--ignored", "--quiet"])
            .stdout(Stdio::null())
    }

    /// Who wrote, in the order of the writes: a letter for each.
    pub(crate) fn writers(&self) -> String {
        fs::read_to_string(&self.path).expect("a log")
    }

    /// Waits until this command and its grandchild write, and go on writing.
    pub(crate) fn shows(&self, who: char) {
        let grandchild = who.to_ascii_uppercase();
        let counts = || [who, grandchild].map(|who| self.writers().matches(who).count());
        let before = counts();
        until("writes", || counts().iter().zip(before).all(|(now, before)| *now > before + 20));
    }

    /// Whether nothing of `first` was written after something of `second`.
    pub(crate) fn is_in_order(&self, first: char, second: char) -> bool {
        let writers = self.writers().to_ascii_lowercase();
        let begins = writers.find(second).unwrap_or(writers.len());
        !writers[begins..].contains(first)
    }
}

/// Writes its letter once a millisecond, as does its grandchild the capital one.
#[test]
#[ignore = "the commands under test start it"]
fn child_that_writes() {
    let (Some(path), Ok(who)) = (env::var_os(LOG), env::var(WHO)) else { return };
    let grandchild = who.chars().all(char::is_lowercase).then(|| {
        let mut again = Command::new(env::current_exe().expect("this program"));
        again.args(env::args_os().skip(1)).env(WHO, who.to_uppercase());
        again.stdout(Stdio::null()).spawn().expect("a grandchild")
    });
    let began = Instant::now();
    while began.elapsed() < LIFE && write(Path::new(&path), &who).is_ok() {
        sleep(ms(1));
    }
    if let Some(mut grandchild) = grandchild {
        grandchild.wait().expect("its end");
    }
}

fn write(path: &Path, who: &str) -> io::Result<()> {
    // The test has ended where the file is gone.
    File::options().append(true).open(path)?.write_all(who.as_bytes())
}
