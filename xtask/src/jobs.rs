//! Running test programs: several at a time, since most of their time they wait.
//!
//! A suite is one process for each store, whose server starts once. Every other program runs its
//! tests as threads too: a process for each test would cost more than it gains (CONTRIBUTING.md).

use std::collections::VecDeque;
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::ended::{Said, said};
use crate::output::{self, Failure};
use crate::pressure::Pressure;
use crate::programs::{Kind, Program};
use crate::reports;
use crate::steps::root;

/// A program that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(20 * 60);

/// Has the suite leave its re-runs to this runner, which makes them when nothing else runs.
const RERUN_LATER: &str = "LOCKKIT_RERUN_LATER";

/// How many tests run at a time: more than there are cores, since most of their time they wait.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    /// Over all programs.
    all: usize,
    /// Of one suite's cases.
    cases: usize,
    /// Of another program's tests.
    tests: usize,
}

/// Short tests, which seldom ask much of a core.
pub(crate) const MANY: Crowd = Crowd { all: 10, cases: 5, tests: 4 };
/// Tests that cut connections at every byte or start clusters: more of them than these, and servers
/// on two cores no longer answer in time.
pub(crate) const FEW: Crowd = Crowd { all: 8, cases: 4, tests: 3 };

/// Some tests of one program.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    program: &'a Program,
    tests: Vec<&'a str>,
    /// Those of the program that do not run.
    others: Vec<&'a str>,
    is_ignored: bool,
    variables: &'a [(&'a str, &'a str)],
    crowd: Crowd,
}

/// How a job went.
#[derive(Debug, Default)]
pub(crate) struct Ran {
    name: String,
    took: Duration,
    passed: usize,
    /// The tests that failed, or what else went wrong, each with what the program said of it.
    failures: Vec<Failure>,
    /// Whether threads waited for a core for half of the time that it took, or the machine stood still.
    is_starved: bool,
    /// The tests that missed a time bound for want of time, and ran once more.
    reruns: Vec<String>,
    reports: Vec<PathBuf>,
    log: PathBuf,
}

impl<'a> Job<'a> {
    /// These tests of a program, and not the others; `None` where there are none to run.
    pub(crate) fn new(
        program: &'a Program,
        tests: Vec<&'a str>,
        others: Vec<&'a str>,
    ) -> Option<Self> {
        let job = Self { program, tests, others, is_ignored: false, variables: &[], crowd: FEW };
        (!job.tests.is_empty()).then_some(job)
    }

    /// Sets variables of its environment.
    pub(crate) fn with(self, variables: &'a [(&'a str, &'a str)]) -> Self {
        Self { variables, ..self }
    }

    /// Runs tests that are ignored otherwise; a suite's are not, for it ignores what its store does not claim.
    pub(crate) fn ignored(self) -> Self {
        Self { is_ignored: self.program.kind() != Kind::Suite, ..self }
    }

    /// How many of its tests run at a time.
    fn threads(&self) -> usize {
        match self.program.kind() {
            Kind::Suite => self.crowd.cases,
            Kind::Libtest | Kind::Mimic => self.crowd.tests.min(self.tests.len()),
        }
    }

    /// Long ones start first.
    fn weight(&self) -> usize {
        let each = if self.program.kind() == Kind::Suite { 10 } else { 1 };
        each * self.tests.len()
    }

    fn command(&self, tests: &[&str]) -> Command {
        let mut command = self.program.command();
        command.arg(format!("--test-threads={}", self.threads()));
        command.envs(self.variables.iter().copied());
        match self.program.kind() {
            Kind::Suite => {
                // A case's id and the blank behind it begin its name, and stand in no other.
                let skipped = self.others.iter().map(|id| format!("--skip={id} "));
                command.env(RERUN_LATER, "1").args(skipped)
            }
            Kind::Libtest if self.others.is_empty() && tests.len() > 1 => {
                command.arg("--show-output")
            }
            Kind::Libtest => command.args(["--show-output", "--exact"]).args(tests),
            Kind::Mimic if self.others.is_empty() => &mut command,
            Kind::Mimic => {
                let skipped = self.others.iter().map(|name| format!("--skip={name}"));
                command.arg("--exact").args(skipped)
            }
        };
        if self.is_ignored {
            command.arg("--ignored");
        }
        command
    }

    /// The command that runs this test and no other; the report is that of the first run.
    fn alone(&self, test: &str) -> Command {
        let mut command = self.program.command();
        command.envs(self.variables.iter().copied()).env_remove(reports::VARIABLE);
        match self.program.kind() {
            // A case's id and the blank behind it begin its name, and stand in no other.
            Kind::Suite => {
                let id = test.split(' ').next().unwrap_or(test);
                command.env(RERUN_LATER, "1").arg(format!("{id} "))
            }
            Kind::Libtest => command.args(["--show-output", "--exact", test]),
            Kind::Mimic => command.args(["--exact", test]),
        };
        if self.is_ignored {
            command.arg("--ignored");
        }
        command
    }

    /// Runs it.
    fn run(&self) -> Ran {
        let (started, pressure) = (Instant::now(), Pressure::now());
        let log = log_of(&self.program.name);
        let Said { has_passed, said, has_stalled } = said(self.command(&self.tests), &log, LIMIT);
        let mut ran = Ran {
            name: self.program.name.clone(),
            log,
            passed: output::passed(&said),
            reports: reports::written(&said).collect(),
            ..Ran::default()
        };
        if !has_passed {
            ran.failures = output::failures(&said);
        } else if self.program.kind() == Kind::Libtest && ran.passed < self.tests.len() {
            let fewer = format!("{} of {} tests ran", ran.passed, self.tests.len());
            ran.failures.push(Failure::of_program(&fewer, &said));
        }
        ran.took = started.elapsed();
        ran.is_starved = has_stalled || pressure.is_half_of(ran.took);
        ran
    }

    /// A time bound that was missed for want of time shows nothing: its test runs once more, alone on
    /// the machine.
    fn run_again(&self, ran: &mut Ran) {
        for failure in std::mem::take(&mut ran.failures) {
            if !failure.is_inconclusive(ran.is_starved) {
                ran.failures.push(failure);
                continue;
            }
            eprintln!("    {}: {} is {}", ran.name, failure.test, failure.first_line());
            eprintln!("    it runs once more");
            ran.reruns.push(format!("{}: {}", failure.test, failure.first_line()));
            let log = log_of(&format!("{} again", ran.name));
            let Said { has_passed, said, .. } = said(self.alone(&failure.test), &log, LIMIT);
            if has_passed {
                ran.passed += 1;
            } else {
                ran.failures.push(output::failures(&said).pop().unwrap_or(failure));
            }
        }
    }
}

/// Runs them, the longest first, and shows how each went.
///
/// # Errors
/// Which tests failed.
pub(crate) fn run(mut jobs: Vec<Job<'_>>, crowd: Crowd) -> Result<Vec<PathBuf>> {
    jobs.iter_mut().for_each(|job| job.crowd = crowd);
    jobs.sort_by_key(|job| std::cmp::Reverse(job.weight()));
    let started = Instant::now();
    let workers = jobs.len();
    let (left, free) = (Mutex::new(VecDeque::from(jobs)), Room::new(crowd.all));
    let ran: Mutex<Vec<(Job<'_>, Ran)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let Some(job) = own(&left).pop_front() else { return };
                let threads = job.threads();
                free.take(threads);
                let outcome = job.run();
                free.give_back(threads);
                outcome.show();
                own(&ran).push((job, outcome));
            });
        }
    });
    let ran = ran.into_inner().unwrap_or_else(PoisonError::into_inner);
    let ran = ran.into_iter().map(|(job, mut ran)| {
        job.run_again(&mut ran);
        ran
    });
    summed_up(&ran.collect::<Vec<_>>(), started.elapsed())
}

fn summed_up(ran: &[Ran], took: Duration) -> Result<Vec<PathBuf>> {
    let failed: Vec<_> = ran.iter().filter(|ran| !ran.failures.is_empty()).collect();
    for ran in &failed {
        for failure in &ran.failures {
            eprintln!("\n--> {} {} FAILED\n{}", ran.name, failure.test, failure.said);
        }
    }
    let mut slowest: Vec<_> = ran.iter().collect();
    slowest.sort_by_key(|ran| std::cmp::Reverse(ran.took));
    eprintln!("\nthe slowest of {} programs, in {took:.0?}:", ran.len());
    for ran in slowest.iter().take(6) {
        eprintln!("    {:>5.0?} {}", ran.took, ran.name);
    }
    let reruns: Vec<_> = ran.iter().flat_map(|ran| &ran.reruns).collect();
    eprintln!("inconclusive, and run once more: {}", reruns.len());
    for rerun in reruns {
        eprintln!("    {rerun}");
    }
    let count = |of: fn(&Ran) -> usize| ran.iter().map(of).sum::<usize>();
    eprintln!("{} passed, {} failed", count(|ran| ran.passed), count(|ran| ran.failures.len()));
    if failed.is_empty() {
        return Ok(ran.iter().flat_map(|ran| ran.reports.iter().cloned()).collect());
    }
    let name = |ran: &&Ran| {
        let tests: Vec<_> = ran.failures.iter().map(|failure| &*failure.test).collect();
        format!("{} ({}; all of it: {})", ran.name, tests.join(", "), ran.log.display())
    };
    Err(format!("tests failed: {}", failed.iter().map(name).collect::<Vec<_>>().join("; ")))
}

impl Ran {
    fn show(&self) {
        let is_final = |failure: &Failure| !failure.is_inconclusive(self.is_starved);
        let state = match &self.failures[..] {
            [] => "passed",
            failures if failures.iter().any(is_final) => "FAILED",
            _ => "inconclusive",
        };
        eprintln!("    {state} after {:>4.0?}: {}, {} tests", self.took, self.name, self.passed);
    }
}

/// Where a program's output goes.
fn log_of(name: &str) -> PathBuf {
    let directory = root().join("target").join("tests");
    // Where there can be no directory there is no log either, which is what is reported.
    fs::create_dir_all(&directory).ok();
    directory.join(format!("{}.log", name.replace(' ', "-")))
}

/// Room for so many tests at a time.
struct Room {
    left: Mutex<usize>,
    changed: Condvar,
}

impl Room {
    fn new(size: usize) -> Self {
        Self { left: Mutex::new(size), changed: Condvar::new() }
    }

    /// Waits for room for `some`.
    fn take(&self, some: usize) {
        let short = |left: &mut usize| *left < some;
        let left = self.changed.wait_while(own(&self.left), short);
        *left.unwrap_or_else(PoisonError::into_inner) -= some;
    }

    fn give_back(&self, some: usize) {
        *own(&self.left) += some;
        self.changed.notify_all();
    }
}

pub(crate) fn own<T>(shared: &Mutex<T>) -> MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// Prints what Rust's harness prints of a test that fails so, and of one that passes.
    const HARNESS: &str = r#"#!/bin/sh
fails() {
    printf 'running 1 test\nfailures:\n\n---- a::late stdout ----\n'
    printf "thread 'a::late' (7) panicked at a.rs:1:2:\n%s\n\n" "$1"
    printf 'failures:\n    a::late\n\ntest result: FAILED. 1 passed; 1 failed; 0 ignored\n'
    exit 101
}
passes() { printf 'test result: ok. %s passed; 0 failed; 0 ignored\n' "$1"; exit 0; }
LATE='inconclusive: the machine stood still for 312 ms; a grant: not within 1s'
case "$*" in *--exact*) again=yes ;; *) again=no ;; esac
"#;

    /// What comes of a program of two tests that goes on so behind the lines of `HARNESS`.
    fn ran(name: &str, script: &str) -> Ran {
        // A script that another thread's child still has open for writing does not start.
        static ALONE: Mutex<()> = Mutex::new(());
        let _alone = own(&ALONE);
        let directory = root().join("target").join("tests");
        fs::create_dir_all(&directory).expect("a directory");
        let path = directory.join(format!("{name}.sh"));
        fs::write(&path, format!("{HARNESS}{script}\n")).expect("a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("a program");
        let program = Program { name: format!("scripts {name}"), path, directory };
        let job = Job::new(&program, vec!["a::late", "b"], Vec::new()).expect("tests");
        let mut ran = job.run();
        job.run_again(&mut ran);
        ran
    }

    fn failed(ran: &Ran) -> Vec<&str> {
        ran.failures.iter().map(|failure| &*failure.test).collect()
    }

    #[test]
    fn a_bound_that_was_missed_in_a_stall_runs_once_more_and_then_counts() {
        let script = "[ $again = yes ] && passes 1; fails \"$LATE\"";
        let late = ran("late-once", script);
        assert_eq!((late.passed, failed(&late), late.reruns.len()), (2, vec![], 1), "{late:?}");
        let late = ran("late-twice", "fails \"$LATE\"");
        assert_eq!((failed(&late), late.reruns.len()), (vec!["a::late"], 1), "{late:?}");
    }

    #[test]
    fn any_other_failure_counts_at_once() {
        let held = ran("two-held", "[ $again = yes ] && passes 1; fails 'two guards held'");
        assert_eq!((held.passed, failed(&held), held.reruns.len()), (1, vec!["a::late"], 0));
    }

    #[test]
    fn a_program_that_runs_fewer_tests_than_it_should_has_failed() {
        assert_eq!(failed(&ran("whole", "passes 2")), [""; 0]);
        assert_eq!(failed(&ran("fewer", "passes 1")), ["1 of 2 tests ran"]);
        assert_eq!(failed(&ran("crashed", "exit 3")), ["the program itself"]);
    }
}
