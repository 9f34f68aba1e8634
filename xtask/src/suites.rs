//! Every test program of the workspace: whole suites one by one, for they load the machine and have
//! bounds of time; then the others two at a time, since most of their time they wait.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::steps::root;
use crate::{Result, reports};

const AT_ONCE: usize = 2;
/// Those that run one by one, and first.
const ALONE: &[&str] = &[
    "cluster_conformance",
    "ensemble_conformance",
    "conformance",
    "conformance_table",
    "simulation",
];

/// Those whose tests say what they did: seeds, operations, faults, margins.
const SHOWN: &[&str] = &[
    "lockkit-core lockkit_core",
    "lockkit-core simulation",
    "lockkit-core history",
    "lockkit-etcd cluster",
    "lockkit-etcd processes",
    "lockkit-postgres processes",
    "lockkit-postgres server",
    "lockkit-redis processes",
    "lockkit-redis scripts",
    "lockkit-redis server",
    "lockkit-zk ensemble",
    "lockkit-zk processes",
];

/// A test program, and the directory of its package, in which it runs.
struct Suite {
    name: String,
    program: PathBuf,
    directory: PathBuf,
}

/// Builds and runs them; the names of those that failed, and what is wrong with the reports.
pub(crate) fn run() -> Result<()> {
    let suites = build()?;
    check_names(&suites)?;
    reports::clear()?;
    let count = suites.len();
    let (alone, others) = suites.into_iter().partition(Suite::is_alone);
    let failed: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());
    let written: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    for (suites, at_once) in [(alone, 1), (others, AT_ONCE)] {
        let left: Mutex<VecDeque<Suite>> = Mutex::new(suites);
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(suite) = { own(&left).pop_front() } {
                        let (has_passed, output) = suite.run();
                        own(&written).extend(reports::written(&output));
                        if !has_passed {
                            own(&failed).push((suite.name, output));
                        }
                    }
                });
            }
        });
    }
    let failed = std::mem::take(&mut *own(&failed));
    eprintln!("the conformance suite's reports are in {}", reports::directory().display());
    let problems = reports::problems(&own(&written))?;
    if failed.is_empty() && problems.is_empty() {
        eprintln!("all {count} test programs passed");
        return Ok(());
    }
    for (name, output) in &failed {
        eprintln!("\n--> {name} FAILED\n{output}");
    }
    // Once more at the very end: the logs of servers are long.
    for (name, output) in &failed {
        eprintln!("\n--> {name} panicked:\n{}", panics(output).join("\n"));
    }
    if !problems.is_empty() {
        eprintln!("\n--> the reports FAILED:\n{}", problems.join("\n"));
    }
    let mut names: Vec<&str> = failed.iter().map(|(name, _)| &**name).collect();
    let count = format!("{} of {count} test programs failed", names.len());
    if !problems.is_empty() {
        names.push("the reports are not as listed");
    }
    Err(format!("{count}: {}", names.join(", ")))
}

/// What cargo says that it has built.
fn build() -> Result<Vec<Suite>> {
    let built = Command::new("cargo")
        .args("test --locked --workspace --all-features --no-run".split(' '))
        .arg("--message-format=json-render-diagnostics")
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !built.status.success() {
        return Err(format!("cargo ended with {}", built.status));
    }
    let messages = String::from_utf8_lossy(&built.stdout);
    Ok(messages.lines().filter_map(|line| suite(&serde_json::from_str(line).ok()?)).collect())
}

/// A program of another name would say nothing.
fn check_names(suites: &[Suite]) -> Result<()> {
    match SHOWN.iter().find(|shown| suites.iter().all(|suite| suite.name != **shown)) {
        Some(missing) => Err(format!("suites.rs shows {missing:?}, and there is no such program")),
        None => Ok(()),
    }
}

fn suite(message: &Value) -> Option<Suite> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = directory.strip_prefix(root()).ok()?.to_str()?;
    let package = if package.is_empty() { "lockkit" } else { package };
    Some(Suite {
        name: format!("{package} {}", message["target"]["name"].as_str()?),
        program: message["executable"].as_str()?.into(),
        directory,
    })
}

impl Suite {
    fn is_alone(&self) -> bool {
        ALONE.iter().any(|alone| self.name.ends_with(&format!(" {alone}")))
    }

    /// Runs it, and shows its results once it has ended, those of one that passed only; whether it
    /// passed, and everything it said.
    fn run(&self) -> (bool, String) {
        let started = Instant::now();
        let mut program = Command::new(&self.program);
        program.current_dir(&self.directory).env("LOCKKIT_REPORT", reports::directory());
        if SHOWN.contains(&&*self.name) {
            program.arg("--show-output");
        }
        let (has_passed, results, said) = match program.output() {
            Ok(ended) => {
                let results = String::from_utf8_lossy(&ended.stdout).into_owned();
                let said = String::from_utf8_lossy(&ended.stderr).into_owned();
                (ended.status.success(), results, said)
            }
            Err(error) => (false, String::new(), error.to_string()),
        };
        let took = started.elapsed();
        if has_passed {
            // Tests panic on purpose too: what they say of it is of no use to anybody.
            eprintln!("\n--> {}\n{results}    passed after {took:.0?}", self.name);
        } else {
            eprintln!("\n--> {}\n    FAILED after {took:.0?}: its output is at the end", self.name);
        }
        (has_passed, results + &said)
    }
}

/// Where a program panicked, and the first lines of what it said there, cut to a readable length.
fn panics(output: &str) -> Vec<String> {
    const LINES: usize = 3;
    const LENGTH: usize = 600;
    let mut said = Vec::new();
    let mut left = 0;
    for line in output.lines() {
        if line.contains("' panicked at ") || line.contains(") panicked at ") {
            left = LINES;
        } else if line.starts_with("stack backtrace:") || line.starts_with("note: ") {
            left = 0;
        }
        if left > 0 {
            left -= 1;
            said.push(line.chars().take(LENGTH).collect());
        }
    }
    said
}

fn own<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn panics_are_found_in_an_output_and_logs_are_not() {
        let output = "running 2 tests\n\
            thread 'a' (7) panicked at tests/a.rs:1:2:\nleft: 1\nstack backtrace:\n   0: main\n\
            the end of the log of Server\n{\"level\":\"warn\"}\n\
            thread 'b' panicked at tests/b.rs:3:4:\nassertion failed\nleft\nright\n";
        assert_eq!(
            panics(output),
            [
                "thread 'a' (7) panicked at tests/a.rs:1:2:",
                "left: 1",
                "thread 'b' panicked at tests/b.rs:3:4:",
                "assertion failed",
                "left",
            ]
        );
    }

    #[test]
    fn only_what_cargo_built_to_test_is_a_suite() {
        let manifest = root().join("lockkit-core").join("Cargo.toml");
        let message = |test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": manifest.to_str(),
                "profile": {"test": test}, "target": {"name": "history"}, "executable": "/x/history-1",
            })
        };
        let suite = suite(&message(true)).expect("a suite");
        assert_eq!(
            (&*suite.name, suite.program.to_str()),
            ("lockkit-core history", Some("/x/history-1"))
        );
        assert!(super::suite(&message(false)).is_none());
        assert!(super::suite(&serde_json::json!({"reason": "build-finished"})).is_none());
    }
}
