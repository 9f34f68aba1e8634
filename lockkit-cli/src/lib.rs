//! `lockkit`, the command: runs anything under a distributed lock, shows who holds what, and asks a store whether it
//! is fit.
//!
//! The page `docs/cli.md` of the repository tells how it is used.

mod args;
mod ending;
mod look;
#[cfg(unix)]
mod running;
mod shown;
mod store;

use std::env;
use std::process::ExitCode;

use args::{Args, Job};
use ending::Failure;

/// The whole of the command: reads the arguments, does what they ask for, and gives the exit code.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(unix)]
    if let Some(code) = running::in_a_role(env::args_os().skip(1)) {
        return code;
    }
    let args = match args::read(env::args_os()) {
        Ok(args) => args,
        Err(ended) => return ended,
    };
    let is_json = args.json;
    match run(args) {
        Ok(code) => code,
        Err(failure) => failure.told(is_json),
    }
}

fn run(args: Args) -> Result<ExitCode, Failure> {
    if let Some(printed) = look::pages(&args.job) {
        return printed;
    }
    let store = store::named(args.store)?;
    let json = args.json;
    match args.job {
        #[cfg(unix)]
        Job::Run(run) => running::run(run, &store, json),
        #[cfg(unix)]
        Job::Elect(elect) => running::elect(elect, &store, json),
        #[cfg(not(unix))]
        Job::Run(_) | Job::Elect(_) => Err(Failure::new(
            ending::Own::System,
            "running a command needs process groups, which this system lacks; use the library there",
        )),
        job => look::at(job, &store, json),
    }
}
