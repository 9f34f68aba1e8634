//! A child process that ends with this one, however this one ends.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{PipeWriter, Write, pipe};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};
use std::{env, fs};

use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process, kill_process_group, waitid,
};

use crate::{Error, Result};

/// Tells its process id to the watcher on its standard input, then becomes the program.
const LAUNCH: &str = r#"echo $$ >&0; exec "$@" </dev/null"#;
/// Kills the group it was told of, and children that left it, and deletes its directory, unless a
/// second line comes before the end of the pipe.
const WATCH: &str = r#"trap "" HUP INT TERM
read -r pid || exit
read -r end && exit
ps -A -o pid=,ppid= | while read -r child parent; do
  [ "$parent" != "$pid" ] || kill -KILL "$child"
done
kill -KILL "-$pid"
[ -z "$1" ] || rm -rf -- "$1""#;

/// How long a signal may take to show its effect.
const PATIENCE: Duration = Duration::from_secs(10);
const STEP: Duration = Duration::from_millis(1);

/// A child in a process group of its own, and the watcher that kills it if this process dies.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    watcher: Child,
    /// The watcher waits at its other end; the kernel closes it when this process ends.
    /// `None`: the child has ended.
    lifeline: Option<PipeWriter>,
    /// Whether the child's own children leave its process group.
    spreads: bool,
}

impl Process {
    /// Starts `command`; its standard error goes to `log`, its standard output to `stdout`. If this
    /// process dies, `directory` goes too.
    pub(crate) fn start(
        command: &Command,
        stdout: Stdio,
        log: File,
        directory: Option<&Path>,
    ) -> Result<Self> {
        let program = command.get_program();
        if !is_installed(program) {
            return Err(Error::Missing { program: program.to_string_lossy().into_owned() });
        }
        let refused = || Error::system(format!("starting {}", program.to_string_lossy()));
        let (reader, lifeline) = pipe().map_err(refused())?;
        let to_watcher = lifeline.try_clone().map_err(refused())?;
        let watcher = Command::new("/bin/sh")
            .args(["-c", WATCH, "sh"])
            .args(directory)
            .stdin(reader)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(refused())?;
        let mut launcher = Command::new("/bin/sh");
        launcher.args(["-c", LAUNCH, "sh"]).arg(program).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => launcher.env(name, value),
                None => launcher.env_remove(name),
            };
        }
        if let Some(directory) = command.get_current_dir() {
            launcher.current_dir(directory);
        }
        let child = launcher
            .stdin(to_watcher)
            .stdout(stdout)
            .stderr(log)
            .process_group(0)
            .spawn()
            .map_err(refused())?;
        // `launcher` keeps its end of the pipe until it is dropped: it goes at the end of this.
        Ok(Self { child, watcher, lifeline: Some(lifeline), spreads: false })
    }

    /// The same, for a child whose own children leave its process group: they are signalled too.
    pub(crate) fn spreading(mut self, spreads: bool) -> Self {
        self.spreads = spreads;
        self
    }

    /// The child's standard output, where it was piped.
    pub(crate) fn stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How the child ended; `None`: it runs.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        if self.lifeline.is_none() {
            return self.child.try_wait().map_err(Error::system("waiting for a child"));
        }
        // A dead child keeps its number until the watcher is told not to use it any more.
        if self.has(WaitIdOptions::EXITED)? { self.end().map(Some) } else { Ok(None) }
    }

    /// Freezes the child and what it forked; returns once it is frozen.
    pub(crate) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)?;
        self.until("a child to stop", |process| {
            Ok(process.has(WaitIdOptions::STOPPED)?.then_some(()))
        })
    }

    /// Lets a frozen child go on.
    pub(crate) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Asks the child to end, and waits until it has.
    pub(crate) fn stop(&mut self, ask: Signal) -> Result<ExitStatus> {
        self.ask(ask)?;
        self.until("a child to end", Self::ended)
    }

    /// Ends the child at once (SIGKILL), frozen or not: it does nothing more, not even on waking.
    pub(crate) fn end(&mut self) -> Result<ExitStatus> {
        // Some systems refuse to signal a child that is dead already.
        if self.lifeline.is_some()
            && let Err(error) = self.signal(Signal::KILL)
            && !self.has(WaitIdOptions::EXITED)?
        {
            return Err(error);
        }
        if let Some(mut lifeline) = self.lifeline.take() {
            // Before the child is reaped and its number is free: the watcher must not use it.
            lifeline.write_all(b"ended\n").ok();
            drop(lifeline);
            self.watcher.wait().map_err(Error::system("waiting for a watcher"))?;
        }
        self.child.wait().map_err(Error::system("waiting for a child"))
    }

    fn group(&self) -> Pid {
        Pid::from_child(&self.child)
    }

    /// Whether the child is in this state; it can be asked again.
    fn has(&self, state: WaitIdOptions) -> Result<bool> {
        let options = state | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let found = waitid(WaitId::Pid(self.group()), options);
        Ok(found.map_err(Error::system("waiting for a child"))?.is_some())
    }

    /// Signals the child, what it forked, and what has left its group.
    fn signal(&self, signal: Signal) -> Result<()> {
        if !self.spreads {
            return self.ask(signal);
        }
        if signal != Signal::CONT {
            // First of all: it forks no more while its children are looked for.
            self.ask(Signal::STOP)?;
        }
        for child in children_of(self.pid())? {
            // It may have ended by itself.
            kill_process(child, signal).ok();
        }
        self.ask(signal)
    }

    /// Signals the child's group alone.
    fn ask(&self, signal: Signal) -> Result<()> {
        let context = format!("sending {signal:?} to process {}", self.pid());
        if self.lifeline.is_none() {
            return Err(Error::system(context)(std::io::Error::other("it has ended")));
        }
        kill_process_group(self.group(), signal).map_err(Error::system(context))
    }

    fn until<T>(
        &mut self,
        what: &str,
        mut check: impl FnMut(&mut Self) -> Result<Option<T>>,
    ) -> Result<T> {
        let began = Instant::now();
        loop {
            if let Some(result) = check(self)? {
                return Ok(result);
            }
            if began.elapsed() > PATIENCE {
                return Err(Error::Late { what: what.to_owned(), limit: PATIENCE });
            }
            sleep(STEP);
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What fails here is repeated by the watcher when the lifeline closes.
        self.end().ok();
    }
}

/// What a status says, in words.
pub(crate) fn describe(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("it ended with code {code}"),
        (None, Some(signal)) => format!("it was ended by signal {signal}"),
        (None, None) => "it ended".to_owned(),
    }
}

fn children_of(pid: u32) -> Result<Vec<Pid>> {
    let listed = Command::new("ps").args(["-A", "-o", "pid=,ppid="]).output();
    let listed = listed.map_err(Error::system("listing processes with ps"))?;
    let mut children = Vec::new();
    for line in String::from_utf8_lossy(&listed.stdout).lines() {
        let mut numbers = line.split_whitespace().map(str::parse::<i32>);
        let (Some(Ok(child)), Some(Ok(parent))) = (numbers.next(), numbers.next()) else {
            continue;
        };
        if u32::try_from(parent) == Ok(pid) {
            children.extend(Pid::from_raw(child));
        }
    }
    Ok(children)
}

fn is_installed(program: &OsStr) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join(program)).any(|file| {
        use std::os::unix::fs::PermissionsExt;
        fs::metadata(file)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}
