//! Runs cases: each in a runtime of its own, with a time limit.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Trial};
use tokio::runtime::{Builder, Runtime};

use super::context::Context;
use super::{Case, Fixture, Time, cases, child};

/// A case in virtual time may take this long by the machine's clock.
const REAL_LIMIT: Duration = Duration::from_secs(120);
/// How long tasks that a case left behind may take to end.
const SHUTDOWN: Duration = Duration::from_secs(1);
/// Cases mostly sleep: more of them than cores run at a time, but not so many that they starve.
const AT_A_TIME: usize = 4;

/// How a case ended.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// What it says holds.
    Passed,
    /// It does not hold, for this reason.
    Failed(String),
    /// The provider does not declare what it rests on: the clause, and what it would claim.
    NotClaimed(String),
    /// The fixture lacks a hook that it needs.
    NotReached(String),
}

/// Runs the case with this id on a fixture, and waits for its end.
///
/// It works from any thread and takes no runtime. A case that does not end is `Failed`. Cases with
/// several processes are `NotReached` here: only [`main`] can start the processes.
pub fn check(id: &str, fixture: Arc<dyn Fixture>) -> Outcome {
    match cases().iter().find(|case| case.id == id) {
        Some(case) => run(case, fixture),
        None => Outcome::Failed(format!("there is no case {id}")),
    }
}

/// The whole of a test binary: runs every case on `fixture`, with the arguments of `cargo test`.
///
/// The binary starts itself again for cases with several processes, so this must come first in its
/// `main`.
pub fn main(fixture: impl Fixture) -> ExitCode {
    let fixture: Arc<dyn Fixture> = Arc::new(fixture);
    if let Some(code) = child::serve(&fixture) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(AT_A_TIME);
    let barred = match standing(&fixture) {
        Ok(barred) => barred,
        Err(why) => {
            eprintln!("the fixture does not connect: {why}");
            return ExitCode::FAILURE;
        }
    };
    let trials = cases().iter().zip(&barred).map(|(case, barred)| trial(case, &fixture, barred));
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if !arguments.list {
        for (case, barred) in cases().iter().zip(&barred) {
            match barred {
                Some(Outcome::NotClaimed(claim)) => println!("not claimed: {} ({claim})", case.id),
                Some(Outcome::NotReached(hook)) => println!("not reached: {} ({hook})", case.id),
                _ => {}
            }
        }
    }
    conclusion.exit_code()
}

/// What keeps each case from running on `fixture`, in the order of the cases.
fn standing(fixture: &Arc<dyn Fixture>) -> Result<Vec<Option<Outcome>>, String> {
    let runtime = runtime(fixture.time()).map_err(|error| error.to_string())?;
    let provider = runtime.block_on(fixture.connect()).map_err(|error| error.to_string())?;
    let barred = cases().iter().map(|case| case.barred(&**fixture, &*provider)).collect();
    let closed = runtime.block_on(provider.close()).map_err(|error| error.to_string());
    closed.map(|()| barred)
}

fn trial(case: &'static Case, fixture: &Arc<dyn Fixture>, barred: &Option<Outcome>) -> Trial {
    let fixture = Arc::clone(fixture);
    let trial = Trial::ignorable_test(case.to_string(), move || match run(case, fixture) {
        Outcome::Passed => Ok(Completion::Completed),
        Outcome::Failed(why) => Err(why.into()),
        Outcome::NotClaimed(why) | Outcome::NotReached(why) => Ok(Completion::ignored_with(why)),
    });
    match barred {
        Some(Outcome::NotClaimed(_)) => trial.with_kind("not claimed").with_ignored_flag(true),
        Some(_) => trial.with_kind("not reached").with_ignored_flag(true),
        None => trial,
    }
}

fn run(case: &'static Case, fixture: Arc<dyn Fixture>) -> Outcome {
    let fixture = fixture.fresh().unwrap_or(fixture);
    let limit = match fixture.time() {
        // The case ends itself in time, unless it blocks its thread.
        Time::Real => case.limit.saturating_mul(10),
        Time::Virtual => REAL_LIMIT,
    };
    let (report, outcome) = mpsc::channel();
    let work = move || report.send(in_runtime(case, fixture));
    let started = thread::Builder::new().name(case.id.to_owned()).spawn(work);
    if let Err(error) = started {
        return Outcome::Failed(format!("no thread to run in: {error}"));
    }
    // A thread that blocks cannot be ended: it is left behind.
    outcome.recv_timeout(limit).unwrap_or_else(|_| {
        Outcome::Failed(format!("no end within {limit:?}: something blocks a thread"))
    })
}

fn in_runtime(case: &'static Case, fixture: Arc<dyn Fixture>) -> Outcome {
    let runtime = match runtime(fixture.time()) {
        Ok(runtime) => runtime,
        Err(error) => return Outcome::Failed(format!("no runtime to run in: {error}")),
    };
    let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(in_time(case, fixture))));
    runtime.shutdown_timeout(SHUTDOWN);
    ended.unwrap_or_else(|panic| Outcome::Failed(format!("panicked: {}", text_of(&*panic))))
}

async fn in_time(case: &'static Case, fixture: Arc<dyn Fixture>) -> Outcome {
    let provider = match fixture.connect().await {
        Ok(provider) => provider,
        Err(error) => return Outcome::Failed(format!("the fixture does not connect: {error}")),
    };
    if let Some(outcome) = case.barred(&*fixture, &*provider) {
        return outcome;
    }
    let context = Context::new(case, fixture, provider);
    let limit = context.limit();
    match tokio::time::timeout(limit, (case.body)(context)).await {
        Ok(Ok(())) => Outcome::Passed,
        Ok(Err(stop)) => stop.0,
        Err(_) => Outcome::Failed(format!("no end within {limit:?}: something waits for ever")),
    }
}

pub(super) fn runtime(time: Time) -> std::io::Result<Runtime> {
    match time {
        Time::Real => Builder::new_multi_thread().worker_threads(2).enable_all().build(),
        Time::Virtual => Builder::new_current_thread().enable_all().start_paused(true).build(),
    }
}

fn text_of(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message")
}
