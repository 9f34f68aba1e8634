//! A real server, started for one test.

use std::env;
use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::process::{Process, describe};
use crate::{Error, Port, Result};

/// A server reads little at its start; on a busy machine it still may take seconds.
const READY_WITHIN: Duration = Duration::from_secs(20);
const STEP: Duration = Duration::from_millis(2);
/// How often a start is tried on other ports when somebody else took one.
const STARTS: usize = 5;
/// How long what was killed may take to end.
const REMAINS: Duration = Duration::from_millis(50);
/// Linux's own; elsewhere there is none.
const MEMORY: &str = "/dev/shm";
/// In bytes: an etcd cluster sets half a gigabyte aside for its logs, and several tests run at once.
const PLENTY: u64 = 4 << 30;
/// How much of the log an error shows.
const LOG_LINES: usize = 20;

/// What a program needs to know to become a server, and how one sees that it answers.
pub trait Program: Send + Sync + 'static {
    /// The name of the executable, looked for on the `PATH`.
    fn name(&self) -> &str;

    /// How many ports it listens on.
    fn ports(&self) -> usize {
        1
    }

    /// Writes what it reads at its start, and gives the command line.
    ///
    /// # Errors
    /// [`Error::System`] where a file cannot be written.
    fn command(&self, place: &Place) -> Result<Command>;

    /// Whether its data must be on a disk, which takes its time for a flush, and not in memory.
    fn needs_disk(&self) -> bool {
        false
    }

    /// Whether its children leave its process group, so that signals must find them one by one.
    fn spreads(&self) -> bool {
        false
    }

    /// The signal that asks it to end in order, its clients served or not.
    fn end(&self) -> Signal {
        Signal::TERM
    }

    /// Whether the process `pid`, and no other, answers at this place by now.
    ///
    /// # Errors
    /// Why it does not: an error's text if it never does.
    fn is_ready(&self, place: &Place, pid: u32) -> Result<(), String>;

    /// What is still to do once it answers, after every start.
    ///
    /// # Errors
    /// Whatever keeps it from being done; it fails the start.
    fn prepare(&self, _: &Place) -> Result<()> {
        Ok(())
    }
}

/// Where a server lives: its temporary directory and its ports, the same after a restart.
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
    ports: Vec<Port>,
}

impl Place {
    fn new(program: &impl Program) -> Result<Self> {
        let memory = if program.needs_disk() { None } else { roomy_memory() };
        let directory = tempfile::Builder::new()
            .prefix("testbed-")
            .tempdir_in(memory.unwrap_or_else(env::temp_dir))
            .map_err(Error::system("making a temporary directory"))?;
        let ports = (0..program.ports()).map(|_| Port::free()).collect::<Result<_>>()?;
        let place = Self { directory, ports };
        place.make_data()?;
        Ok(place)
    }

    /// The directory for the configuration and the log.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The directory for what [`Data::Lost`] deletes.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.directory().join("data")
    }

    /// The address with the port of this index.
    ///
    /// # Panics
    /// Where the program declares fewer [`ports`](Program::ports).
    #[must_use]
    pub fn address(&self, index: usize) -> SocketAddr {
        self.ports[index].address()
    }

    /// All that the server has logged, restarts included.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.log_file()).unwrap_or_default()).into_owned()
    }

    fn log_file(&self) -> PathBuf {
        self.directory().join("log")
    }

    fn make_data(&self) -> Result<()> {
        fs::create_dir_all(self.data()).map_err(Error::system("making the data directory"))
    }

    fn delete_data(&self) -> Result<()> {
        fs::remove_dir_all(self.data()).map_err(Error::system("deleting the data directory"))?;
        self.make_data()
    }
}

/// What a restarted server finds on its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Data {
    /// Whatever the last run had written.
    Kept,
    /// Nothing.
    Lost,
}

/// A running server; its process ends when this value is dropped, and when the test process ends.
///
/// The methods block for some milliseconds; they need no runtime.
pub struct Server {
    program: Box<dyn Program>,
    // Before the place: the process ends before its directory is deleted.
    state: Mutex<State>,
    place: Place,
}

#[derive(Debug, Default)]
struct State {
    process: Option<Process>,
    is_paused: bool,
}

impl Server {
    /// Starts the program on free ports, and returns once it answers.
    ///
    /// # Errors
    /// [`Error::Missing`] where the program is not installed; [`Error::Start`] where it ends or
    /// does not answer within 20 seconds.
    pub fn start(program: impl Program) -> Result<Self> {
        let mut starts = 1;
        loop {
            let place = Place::new(&program)?;
            match launch(&program, &place) {
                Ok(process) => {
                    let state = State { process: Some(process), is_paused: false };
                    return Ok(Self { program: Box::new(program), state: state.into(), place });
                }
                Err(error) if starts < STARTS && error.is_lost_port() => starts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// One with a place of its own, to be started by [`restart`](Self::restart).
    pub(crate) fn stopped(program: impl Program) -> Result<Self> {
        let place = Place::new(&program)?;
        Ok(Self { program: Box::new(program), state: Mutex::default(), place })
    }

    /// Freezes the process (SIGSTOP): its connections stay open, and nothing answers.
    ///
    /// # Errors
    /// [`Error::Stopped`] where it does not run.
    pub fn pause(&self) -> Result<()> {
        let mut state = self.state();
        self.running(&mut state)?.pause()?;
        state.is_paused = true;
        Ok(())
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    /// [`Error::Stopped`] where it does not run.
    pub fn resume(&self) -> Result<()> {
        let mut state = self.state();
        self.running(&mut state)?.resume()?;
        state.is_paused = false;
        Ok(())
    }

    /// Ends the process at once (SIGKILL), also a paused one; its ports stay kept for a restart.
    ///
    /// # Errors
    /// [`Error::System`] where the signal is refused.
    pub fn kill(&self) -> Result<()> {
        self.state().kill()
    }

    /// Asks the process to end in order, and waits until it has.
    ///
    /// # Errors
    /// [`Error::Stopped`] where it does not run; [`Error::Late`] where it goes on for 10 seconds.
    pub fn stop(&self) -> Result<()> {
        self.stop_by(self.program.end())
    }

    /// The same by another signal than the program's own.
    pub(crate) fn stop_by(&self, end: Signal) -> Result<()> {
        let mut state = self.state();
        if state.is_paused {
            self.running(&mut state)?.resume()?;
            state.is_paused = false;
        }
        self.running(&mut state)?.stop(end)?;
        state.process = None;
        Ok(())
    }

    /// Starts it again on the same ports, and returns once it answers; kills it first if it runs.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn restart(&self, data: Data) -> Result<()> {
        self.restart_after(|place| match data {
            Data::Kept => Ok(()),
            Data::Lost => place.delete_data(),
        })
    }

    /// Kills it if it runs, lets `change` have its data, and starts it again on the same ports.
    ///
    /// # Errors
    /// As [`start`](Self::start), and those of `change`.
    pub(crate) fn restart_after(&self, change: impl FnOnce(&Place) -> Result<()>) -> Result<()> {
        let mut state = self.state();
        state.kill()?;
        change(&self.place)?;
        let mut starts = 1;
        state.process = Some(loop {
            match launch(&*self.program, &self.place) {
                Err(Error::Start { log, .. }) if starts < STARTS && has_remains(&log) => {
                    starts += 1;
                }
                launched => break launched?,
            }
            sleep(REMAINS);
        });
        Ok(())
    }

    /// The id of its process; `None` after [`kill`](Self::kill) or [`stop`](Self::stop).
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.state().process.as_ref().map(Process::pid)
    }

    /// The number of its first port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// The address that it listens at.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.place.address(0)
    }

    /// Its directory and its ports.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// All that it has logged, restarts included.
    #[must_use]
    pub fn log(&self) -> String {
        self.place.log()
    }

    /// Whether its process is there and not paused.
    pub(crate) fn is_running(&self) -> bool {
        let mut state = self.state();
        !state.is_paused && self.running(&mut state).is_ok()
    }

    pub(crate) fn is_paused(&self) -> bool {
        self.state().is_paused
    }

    /// Says that its process ended after it had seemed to answer.
    pub(crate) fn ended_early(&self) -> Error {
        Error::Start {
            program: self.program.name().to_owned(),
            reason: "it ended soon".to_owned(),
            log: tail(&self.log()),
        }
    }

    /// The process where it runs; one that ended by itself does not.
    fn running<'a>(&self, state: &'a mut State) -> Result<&'a mut Process> {
        let stopped = || Error::Stopped { program: self.program.name().to_owned() };
        let process = state.process.as_mut().ok_or_else(stopped)?;
        if process.ended()?.is_some() { Err(stopped()) } else { Ok(process) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Server {
    /// Shows what it has logged last where a test fails.
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the end of the log of {self:?}:\n{}", tail(&self.log()));
        }
    }
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("program", &self.program.name())
            .field("address", &self.address())
            .field("pid", &self.pid())
            .finish_non_exhaustive()
    }
}

impl State {
    fn kill(&mut self) -> Result<()> {
        self.is_paused = false;
        match self.process.take() {
            Some(mut process) => process.end().map(drop),
            None => Ok(()),
        }
    }
}

fn launch(program: &dyn Program, place: &Place) -> Result<Process> {
    let open = || File::options().create(true).append(true).open(place.log_file());
    let stdout = open().map_err(Error::system("opening the log"))?;
    let stderr = stdout.try_clone().map_err(Error::system("opening the log"))?;
    let mut process = {
        let command = program.command(place)?;
        Process::start(&command, Stdio::from(stdout), stderr, Some(place.directory()))?
            .spreading(program.spreads())
    };
    let failed = |reason| Error::Start {
        program: program.name().to_owned(),
        reason,
        log: tail(&place.log()),
    };
    let began = Instant::now();
    loop {
        if let Some(status) = process.ended()? {
            return Err(failed(describe(status)));
        }
        match program.is_ready(place, process.pid()) {
            Ok(()) => {
                program.prepare(place)?;
                return Ok(process);
            }
            Err(why) if began.elapsed() > READY_WITHIN => {
                return Err(failed(format!("no answer within {READY_WITHIN:?}: {why}")));
            }
            Err(_) => sleep(STEP),
        }
    }
}

/// What was killed a moment ago, and has not quite ended, in the words of PostgreSQL.
fn has_remains(log: &str) -> bool {
    log.contains("pre-existing shared memory block")
}

/// Memory that is mounted as a directory, where there is plenty: servers that sync each write then
/// wait for no disk. What they wrote survives their processes all the same.
fn roomy_memory() -> Option<PathBuf> {
    let mounted = rustix::fs::statvfs(MEMORY).ok()?;
    let room = mounted.f_bavail.saturating_mul(mounted.f_frsize);
    (room >= PLENTY).then(|| MEMORY.into())
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}
