//! A child that runs one case, and is stopped again and again meanwhile.

use std::env;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::Duration;

use libtest_mimic::Failed;
use rustix::process::{Pid, Signal, kill_process};

use super::MISTAKE;

/// A case with one wait that has a time bound, and little else.
const WAITS: &str = "SF-23";
const STOPPED: Duration = Duration::from_millis(300);
const RUNS: Duration = Duration::from_millis(200);
/// How often a machine that is busy with other work may spoil a run that must have its time.
const ATTEMPTS: usize = 5;

/// How long a child is stopped again and again.
#[derive(Clone, Copy, PartialEq)]
enum Stops {
    Never,
    /// Until it says that its case runs once more.
    FirstRun,
    ToTheEnd,
}

/// What a child said, and whether its case passed.
struct Said {
    lines: Vec<String>,
    passed: bool,
}

impl Said {
    /// The lines that tell of a re-run.
    fn reruns(&self) -> usize {
        self.lines.iter().filter(|line| line.contains("; it runs once more")).count()
    }

    fn tells(&self, text: &str) -> bool {
        self.lines.iter().any(|line| line.contains(text))
    }

    /// Fails unless `holds`.
    fn check(&self, holds: bool, what: &str) -> Result<(), Failed> {
        if holds { Ok(()) } else { Err(format!("not {what}:\n{}", self.lines.join("\n")).into()) }
    }
}

/// Runs a case on a store with this mistake.
fn run(mistake: &str, case: &str, stops: Stops) -> Result<Said, Failed> {
    let mut child = Command::new(env::current_exe()?)
        .arg(format!("{case} "))
        .env(MISTAKE, mistake)
        .env_remove("LOCKKIT_REPORT")
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let heard = lines(&mut child)?;
    let (mut said, mut stopping) = (Vec::new(), stops != Stops::Never);
    let status = loop {
        let more: Vec<String> = heard.try_iter().collect();
        let again = more.iter().any(|line| line.contains("; it runs once more"));
        stopping = stopping && (stops == Stops::ToTheEnd || !again);
        said.extend(more);
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if stopping {
            let process = Pid::from_child(&child);
            kill_process(process, Signal::STOP)?;
            thread::sleep(STOPPED);
            kill_process(process, Signal::CONT)?;
        }
        thread::sleep(RUNS);
    };
    said.extend(heard);
    Ok(Said { lines: said, passed: status.success() })
}

/// The lines of a child, as they come.
fn lines(child: &mut Child) -> Result<Receiver<String>, Failed> {
    let out = child.stdout.take().ok_or("a child without its pipe")?;
    let (heard, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            if heard.send(line).is_err() {
                return;
            }
        }
    });
    Ok(lines)
}

/// Fails unless `case` finds the mistake in its first run, stopped or not.
pub(super) fn fails_at_once(mistake: &str, case: &str, why: &str) -> Result<(), Failed> {
    for stops in [Stops::Never, Stops::ToTheEnd] {
        let said = run(mistake, case, stops)?;
        said.check(!said.passed, "failed")?;
        said.check(said.tells(why), why)?;
        said.check(said.reruns() == 0 && !said.tells("inconclusive"), "at once")?;
        let stalled = said.tells("the machine stood still for");
        said.check(stalled || stops == Stops::Never, "seen as stopped")?;
    }
    Ok(())
}

pub(super) fn late_once() -> Result<(), Failed> {
    let mut said = run("late-1", WAITS, Stops::FirstRun)?;
    // A machine that stands still in the second run too says so.
    for _ in 1..ATTEMPTS {
        if !said.passed && said.tells("meanwhile)") {
            said = run("late-1", WAITS, Stops::FirstRun)?;
        }
    }
    said.check(said.passed, "passed at the second run")?;
    let first = format!("{WAITS}: inconclusive: the machine stood still for ");
    said.check(said.lines.iter().any(|line| line.starts_with(&first)), &first)?;
    said.check(said.reruns() == 1, "run once more, and once only")?;
    said.check(said.lines.iter().any(|line| line == "re-run: 1"), "counted in the report")
}

pub(super) fn late_twice() -> Result<(), Failed> {
    let said = run("late-2", WAITS, Stops::ToTheEnd)?;
    said.check(!said.passed, "failed at the second run")?;
    said.check(said.reruns() == 1, "run once more, and once only")?;
    said.check(said.tells("meanwhile)"), "stopped in the second run too")?;
    said.check(said.lines.iter().any(|line| line == "re-run: 1"), "counted in the report")
}

pub(super) fn late_without_a_stall() -> Result<(), Failed> {
    for _ in 0..ATTEMPTS {
        let said = run("late-1", WAITS, Stops::Never)?;
        if said.reruns() == 0 {
            said.check(!said.passed, "failed at once")?;
            said.check(said.tells("not within"), "late")?;
            return said.check(!said.tells("re-run"), "without a re-run in the report");
        }
        // The machine has other work too, and is said to: then the second run counts.
        let first = format!("{WAITS}: inconclusive: the machine ");
        said.check(said.lines.iter().any(|line| line.starts_with(&first)), &first)?;
        said.check(said.passed && said.reruns() == 1, "passed at the second run")?;
    }
    Ok(())
}
