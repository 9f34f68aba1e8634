//! Running a command under a lock, in three processes.
//!
//! ```text
//! front         what the user started: has the terminal and the signals, holds nothing
//!  supervisor   the same program, in a process group of its own: holds the lock
//!   command     in a process group of its own, with all that it starts
//! ```
//!
//! Front and supervisor watch each other by the socket between them. When the front is gone, the supervisor ends the
//! command's group and then releases. When the supervisor is gone, or lets the deadline come near without a word, the
//! front kills the group.

mod clock;
mod front;
mod group;
mod held;
mod message;
mod role;
mod signals;
mod supervisor;
mod terminal;
mod wish;

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

use rustix::process::{Pid, Signal, getppid};

use crate::args::{Elect, Held, Run};
use crate::ending::{Failure, Own, say};
use crate::store::Store;
use message::{End, Order, Wait};
use role::{BECOME, SUPERVISE};

/// A shell's codes for a command that is not there, and for one that cannot be run.
const NOT_FOUND: u8 = 127;
const NOT_RUN: u8 = 126;
/// A shell's code for a command that a signal ended, less the signal.
const SIGNALLED: u8 = 128;

/// Does what this program does for itself; `None`: it was started by a user.
pub(crate) fn in_a_role(mut words: impl Iterator<Item = OsString>) -> Option<ExitCode> {
    let role = words.next()?;
    if role == SUPERVISE {
        return Some(supervisor::main(words.collect()));
    }
    if role == BECOME {
        return Some(becomes(words));
    }
    None
}

/// `lockkit run`.
pub(crate) fn run(run: Run, store: &Store, is_json: bool) -> Result<ExitCode, Failure> {
    let wait = match run.wait {
        _ if run.no_wait => Wait::No,
        Some(limit) => Wait::AtMost(limit),
        None => Wait::AsLongAsItTakes,
    };
    begin(run.held, store, is_json, |order| Order {
        wait,
        is_shared: run.shared,
        permits: run.permits,
        hold_at_least: run.hold_at_least,
        ..order
    })
}

/// `lockkit elect`.
pub(crate) fn elect(elect: Elect, store: &Store, is_json: bool) -> Result<ExitCode, Failure> {
    begin(elect.held, store, is_json, |order| Order { stands_again: true, ..order })
}

fn begin(
    held: Held,
    store: &Store,
    is_json: bool,
    more: impl FnOnce(Order) -> Order,
) -> Result<ExitCode, Failure> {
    let label = held.label.unwrap_or_else(|| label(&held.command));
    let order = more(Order {
        store: store.url.clone(),
        shown: store.shown.clone(),
        name: held.name,
        ttl: held.ttl,
        label,
        kill_after: held.kill_after,
        wait: Wait::AsLongAsItTakes,
        is_shared: false,
        permits: None,
        hold_at_least: None,
        stands_again: false,
    });
    let ended = front::run(&order, &held.command, is_json)?;
    ended_as(ended, is_json)
}

/// Host, process and command, for those who look who holds.
fn label(command: &[OsString]) -> String {
    let system = rustix::system::uname();
    let host = system.nodename().to_string_lossy();
    let program = command.first().map(std::path::Path::new).and_then(std::path::Path::file_name);
    let program = program.unwrap_or_default().to_string_lossy();
    format!("{host}/{}/{program}", std::process::id())
}

/// Ends as the command has ended.
fn ended_as(end: End, is_json: bool) -> Result<ExitCode, Failure> {
    match end {
        End::Exited(code) if Own::is_one(code) => Err(Failure::new(
            Own::Taken,
            format!(
                "the command ended with code {code}, which is one of lockkit's own; give it another"
            ),
        )),
        End::Exited(code) => Ok(ExitCode::from(code)),
        End::Signalled(number) => {
            // A shell stops its loop only for a command that the interrupt ended. The first process of a container
            // cannot be ended so.
            let is_interrupt = Signal::from_named_raw(number) == Some(Signal::INT);
            if is_interrupt && std::process::id() != 1 {
                signal_hook::low_level::emulate_default_handler(number).ok();
            }
            Ok(ExitCode::from(SIGNALLED.saturating_add(u8::try_from(number).unwrap_or_default())))
        }
        End::Failed(failure) => Ok(failure.told(is_json)),
    }
}

/// Becomes the command, which is killed when its supervisor dies.
fn becomes(mut words: impl Iterator<Item = OsString>) -> ExitCode {
    let supervisor = words.next().and_then(|id| id.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let Some(program) = words.next() else { return ExitCode::from(NOT_FOUND) };
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return Failure::system("asking for a parent-death signal", &error.into()).told(false);
    }
    if getppid() != supervisor {
        // It died before the signal was asked for.
        return ExitCode::from(NOT_RUN);
    }
    let error = Command::new(&program).args(words).exec();
    let (code, what) = match error.kind() {
        std::io::ErrorKind::NotFound => (NOT_FOUND, "command not found".to_owned()),
        _ => (NOT_RUN, error.to_string()),
    };
    let line = format!("{}: {what}", program.to_string_lossy());
    say(&Failure::new(Own::System, line), false);
    ExitCode::from(code)
}
