//! Every test program of the workspace: whole suites one by one, for they load the machine and have
//! bounds of time; then the others two at a time, since most of their time they wait.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use serde_json::Value;

use crate::Result;
use crate::steps::root;

const AT_ONCE: usize = 2;
/// Those that run one by one, and first.
const ALONE: &[&str] = &[
    "cluster_conformance",
    "ensemble_conformance",
    "conformance",
    "conformance_table",
    "simulation",
];

/// A test program, and the directory of its package, in which it runs.
struct Suite {
    name: String,
    program: PathBuf,
    directory: PathBuf,
}

/// Builds and runs them with these environment variables; the names of those that failed.
pub(crate) fn run(envs: &[(&str, &str)]) -> Result<()> {
    let suites = build()?;
    let count = suites.len();
    let (alone, others) = suites.into_iter().partition(Suite::is_alone);
    let failed = Mutex::new(Vec::new());
    for (suites, at_once) in [(alone, 1), (others, AT_ONCE)] {
        let left: Mutex<VecDeque<Suite>> = Mutex::new(suites);
        thread::scope(|scope| {
            for _ in 0..at_once {
                scope.spawn(|| {
                    while let Some(suite) = { own(&left).pop_front() } {
                        if !suite.passes(envs) {
                            own(&failed).push(suite.name);
                        }
                    }
                });
            }
        });
    }
    let failed = std::mem::take(&mut *own(&failed));
    if failed.is_empty() {
        eprintln!("all {count} test programs passed");
        return Ok(());
    }
    Err(format!("{} of {count} test programs failed: {}", failed.len(), failed.join(", ")))
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

    /// Runs it, and shows its output as a whole once it has ended.
    fn passes(&self, envs: &[(&str, &str)]) -> bool {
        let started = Instant::now();
        let mut program = Command::new(&self.program);
        program.current_dir(&self.directory).envs(envs.iter().copied());
        let (passed, text) = match program.output() {
            Ok(ended) => {
                let text = [ended.stdout, ended.stderr].concat();
                (ended.status.success(), String::from_utf8_lossy(&text).into_owned())
            }
            Err(error) => (false, error.to_string()),
        };
        let how = if passed { "passed" } else { "FAILED" };
        eprintln!("\n--> {}\n{text}    {how} after {:.0?}", self.name, started.elapsed());
        passed
    }
}

fn own<T>(shared: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

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
