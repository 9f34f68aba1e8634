//! Runs the suite: one case, all of them, or those that a command line asks for.

use std::env;
use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Instant;

use libtest_mimic::{Arguments, Completion, Trial};

use super::case::Case;
use super::cases::cases;
use super::child;
use super::fixture::Fixture;
use super::one_run::text_of;
use super::outcome::Outcome;
use super::report::{CaseRun, Report};
use super::rerun::run_case;
use super::runtime::runtime;
use crate::{Applied, Error, Guarantees, Result};

/// The environment variable that names the report's directory.
const REPORT: &str = "LOCKKIT_REPORT";

/// Cases mostly sleep: more of them than cores run at a time, but not so many that they starve.
const AT_A_TIME: usize = 4;

/// Runs the case with this id on a fixture, and waits for its end.
///
/// It works from any thread and takes no runtime. A case that does not end is `Failed`. Cases with
/// several processes are `NotReached` here: only [`main`] can start the processes.
///
/// ```
/// use std::sync::Arc;
///
/// use lockkit_core::conformance::{Fixture, Outcome, check};
/// use lockkit_core::{LockProvider, Memory, Result, async_trait};
///
/// struct MyFixture(Memory);
///
/// #[async_trait]
/// impl Fixture for MyFixture {
///     async fn connect(&self) -> Result<Arc<dyn LockProvider>> {
///         Ok(Arc::new(self.0.clone()))
///     }
/// }
///
/// assert_eq!(check("C5-01", Arc::new(MyFixture(Memory::new()))), Outcome::Passed);
/// ```
pub fn check(id: &str, fixture: Arc<dyn Fixture>) -> Outcome {
    match cases().iter().find(|case| case.id == id) {
        Some(case) => run_case(case, fixture).outcome,
        None => Outcome::Failed(format!("there is no case {id}")),
    }
}

/// Runs every case on a fixture, four at a time, and tells how each ended.
///
/// ```no_run
/// # use lockkit_core::conformance::{self, Fixture};
/// # fn example(fixture: std::sync::Arc<impl Fixture>) -> Result<(), Box<dyn std::error::Error>> {
/// let report = conformance::run(&fixture)?;
/// println!("{report}");
/// report.write_to("target/conformance".as_ref())?;
/// # Ok(()) }
/// ```
///
/// It blocks its thread and takes no runtime: cases have runtimes of their own, so it may be called
/// inside one too. A fixture whose store lives on that runtime needs `spawn_blocking` around it.
/// As in [`check`], cases with several processes are `NotReached`.
///
/// # Errors
/// Whatever keeps the fixture from connecting at all.
pub fn run<F: Fixture>(fixture: &Arc<F>) -> Result<Report> {
    run_some(fixture, |_| true, |_| ())
}

/// Runs the cases that are chosen as [`run`] does, and hands each to `ended` as soon as it has ended, to show how far it is.
///
/// ```no_run
/// # use lockkit_core::conformance::{self, Fixture};
/// # fn example(fixture: std::sync::Arc<impl Fixture>) -> Result<(), Box<dyn std::error::Error>> {
/// let ended = |run: &conformance::CaseRun| eprintln!("{} {:?}", run.case.id, run.outcome);
/// let report = conformance::run_some(&fixture, |case| case.id.starts_with("C1"), ended)?;
/// # drop(report);
/// # Ok(()) }
/// ```
///
/// # Errors
/// As [`run`].
pub fn run_some<F: Fixture>(
    fixture: &Arc<F>,
    is_chosen: impl Fn(&Case) -> bool,
    ended: impl Fn(&CaseRun) + Sync,
) -> Result<Report> {
    let fixture: Arc<dyn Fixture> = Arc::<F>::clone(fixture);
    let (guarantees, barred) = standing(&fixture)?;
    let started = Instant::now();
    let next = AtomicUsize::new(0);
    let chosen: Vec<&Case> = cases().iter().filter(|case| is_chosen(case)).collect();
    let runs: Vec<OnceLock<CaseRun>> = cases().iter().map(|_| OnceLock::new()).collect();
    thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                while let Some(case) = chosen.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let place = case_number(case);
                    let run = match &barred[place] {
                        Some(outcome) => CaseRun::barred(case, outcome.clone()),
                        None => run_case(case, Arc::clone(&fixture)),
                    };
                    ended(runs[place].get_or_init(|| run));
                }
            });
        }
    });
    let runs = runs.into_iter().filter_map(OnceLock::into_inner).collect();
    Ok(Report::new(&*fixture, guarantees, runs, started.elapsed()))
}

/// The whole of a test binary: runs every case on `fixture`, with the arguments of `cargo test`.
///
/// It ends with the [`Report`]. `--report DIR`, or the directory in the environment variable
/// `LOCKKIT_REPORT`, has it written there too, as JSON and as a page: `cargo test --test
/// conformance -- --report target/conformance`.
///
/// The binary starts itself again for cases with several processes, so this must come first in its
/// `main`.
pub fn main(fixture: impl Fixture) -> ExitCode {
    let fixture: Arc<dyn Fixture> = Arc::new(fixture);
    if let Some(code) = child::serve(&fixture) {
        return code;
    }
    let (arguments, directory) = match report_directory(env::args_os(), env::var_os(REPORT)) {
        Ok((arguments, directory)) => (Arguments::from_iter(arguments), directory),
        Err(why) => return failed(&why),
    };
    let arguments =
        Arguments { test_threads: arguments.test_threads.or(Some(AT_A_TIME)), ..arguments };
    let (guarantees, barred) = match standing(&fixture) {
        Ok(standing) => standing,
        Err(error) => return failed(&format!("the fixture does not connect: {error}")),
    };
    let started = Instant::now();
    let runs: Arc<Vec<OnceLock<CaseRun>>> =
        Arc::new(cases().iter().map(|_| OnceLock::new()).collect());
    let trials: Vec<_> = cases()
        .iter()
        .zip(barred)
        .map(|(case, barred)| {
            let trial = trial(case, &fixture, barred.as_ref(), &runs);
            if let Some(outcome) = barred.filter(|_| !arguments.is_filtered_out(&trial)) {
                runs[case_number(case)].get_or_init(|| CaseRun::barred(case, outcome));
            }
            trial
        })
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if arguments.list {
        return conclusion.exit_code();
    }
    let runs = runs.iter().filter_map(OnceLock::get).cloned().collect();
    let report = Report::new(&*fixture, guarantees, runs, started.elapsed());
    println!("{report}");
    if let Some(directory) = directory {
        match report.write_to(&directory) {
            Ok(files) => files.iter().for_each(|file| println!("written: {}", file.display())),
            Err(error) => {
                return failed(&format!("no report in {}: {error}", directory.display()));
            }
        }
    }
    conclusion.exit_code()
}

fn failed(why: &str) -> ExitCode {
    eprintln!("{why}");
    ExitCode::FAILURE
}

/// The arguments without those that are for the report, and the directory that it goes to.
fn report_directory(
    arguments: impl Iterator<Item = OsString>,
    variable: Option<OsString>,
) -> Result<(Vec<OsString>, Option<PathBuf>), String> {
    let variable = variable.filter(|value| !value.is_empty());
    let (mut others, mut directory) = (Vec::new(), variable.map(PathBuf::from));
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--report") => {
                directory = arguments.next().map(PathBuf::from);
                directory.as_ref().ok_or("--report needs a directory: --report DIR")?;
            }
            Some(text) if text.starts_with("--report=") => {
                directory = Some(text["--report=".len()..].into());
            }
            _ => others.push(argument),
        }
    }
    Ok((others, directory))
}

/// The claims of the store, and what keeps each case from running on it, in the order of the cases.
fn standing(fixture: &Arc<dyn Fixture>) -> Result<(Guarantees, Vec<Option<Outcome>>)> {
    let fixture = Arc::clone(fixture);
    // A thread of its own: the caller may be inside a runtime.
    let asked = thread::spawn(move || {
        let runtime =
            runtime(fixture.time()).map_err(|error| Error::unavailable(Applied::No, error))?;
        let provider = runtime.block_on(fixture.connect())?;
        let barred = cases().iter().map(|case| case.barred(&*fixture, &*provider)).collect();
        let guarantees = provider.guarantees();
        runtime.block_on(provider.close()).map(|()| (guarantees, barred))
    });
    asked.join().unwrap_or_else(|panic| {
        Err(Error::unavailable(Applied::No, format!("it panicked: {}", text_of(&*panic))))
    })
}

/// The place of a case in the order in which they run.
fn case_number(case: &Case) -> usize {
    cases().iter().position(|other| other.id == case.id).unwrap_or_default()
}

fn trial(
    case: &'static Case,
    fixture: &Arc<dyn Fixture>,
    barred: Option<&Outcome>,
    runs: &Arc<Vec<OnceLock<CaseRun>>>,
) -> Trial {
    let (fixture, runs) = (Arc::clone(fixture), Arc::clone(runs));
    let trial = Trial::ignorable_test(case.to_string(), move || {
        let run = run_case(case, fixture);
        let run = runs[case_number(case)].get_or_init(|| run);
        match &run.outcome {
            Outcome::Passed => Ok(Completion::Completed),
            Outcome::Failed(_) => Err(run.failure().into()),
            Outcome::NotClaimed(why) | Outcome::NotReached(why) => {
                Ok(Completion::ignored_with(why))
            }
        }
    });
    match barred {
        Some(Outcome::NotClaimed(_)) => trial.with_kind("not claimed").with_ignored_flag(true),
        Some(_) => trial.with_kind("not reached").with_ignored_flag(true),
        None => trial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(
        arguments: &[&str],
        variable: Option<&str>,
    ) -> Option<(Vec<OsString>, Option<PathBuf>)> {
        let arguments = arguments.iter().map(OsString::from);
        report_directory(arguments, variable.map(OsString::from)).ok()
    }

    #[test]
    fn the_reports_directory_is_an_argument_or_a_variable() {
        let some = |others: &[&str], directory: Option<&str>| {
            Some((others.iter().map(OsString::from).collect(), directory.map(PathBuf::from)))
        };
        assert_eq!(taken(&["suite", "AT-01"], None), some(&["suite", "AT-01"], None));
        assert_eq!(
            taken(&["suite", "--report", "a", "-q"], None),
            some(&["suite", "-q"], Some("a"))
        );
        assert_eq!(taken(&["suite", "--report=a"], Some("b")), some(&["suite"], Some("a")));
        assert_eq!(taken(&["suite"], Some("b")), some(&["suite"], Some("b")));
        assert_eq!(taken(&["suite"], Some("")), some(&["suite"], None));
        assert_eq!(taken(&["suite", "--report"], Some("b")), None);
    }
}
