//! Running commands: each is announced, all are run, and the end tells how long each took and names
//! those that failed.

use std::env;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::Result;

/// A sequence of commands that goes on after a failure.
#[derive(Default)]
pub(crate) struct Steps {
    failed: Vec<String>,
    run: Vec<(String, Duration)>,
}

impl Steps {
    /// Runs cargo with `args`, which are separated by white space.
    pub(crate) fn cargo(&mut self, args: &str) {
        self.command(&format!("cargo {args}"), &[]);
    }

    /// Runs a command line of plain words, with these environment variables set.
    pub(crate) fn command(&mut self, line: &str, envs: &[(&str, &str)]) {
        self.step(line, || {
            let mut words = line.split_whitespace();
            let program = words.next().unwrap_or_default();
            run(Command::new(program).args(words).envs(envs.iter().copied()))
        });
    }

    /// Runs `work` as a step called `name`.
    pub(crate) fn step(&mut self, name: &str, work: impl FnOnce() -> Result<()>) {
        eprintln!("\n==> {name}");
        let started = Instant::now();
        let outcome = work();
        let took = started.elapsed();
        self.run.push((name.to_owned(), took));
        match outcome {
            Ok(()) => eprintln!("    done in {took:.0?}"),
            Err(error) => {
                eprintln!("    FAILED: {error}");
                self.failed.push(name.to_owned());
            }
        }
    }

    /// All passed, or the names of those that failed.
    pub(crate) fn finish(self) -> Result<()> {
        let whole: Duration = self.run.iter().map(|(_, took)| took).sum();
        eprintln!("\n{} steps in {whole:.0?}:", self.run.len());
        for (name, took) in &self.run {
            let state = if self.failed.contains(name) { "FAILED" } else { "" };
            eprintln!("{took:>8.0?}  {name} {state}");
        }
        if self.failed.is_empty() {
            eprintln!("all {} steps passed", self.run.len());
            return Ok(());
        }
        Err(format!(
            "{} of {} steps failed:\n  {}",
            self.failed.len(),
            self.run.len(),
            self.failed.join("\n  ")
        ))
    }
}

/// Runs a command to its end, in the root of the workspace unless it names another directory.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    if command.get_current_dir().is_none() {
        command.current_dir(root());
    }
    let program = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("{program} did not start: {error}"))?;
    status.success().then_some(()).ok_or_else(|| format!("{program} ended with {status}"))
}

/// What `line` prints.
pub(crate) fn output(line: &str) -> Result<String> {
    let mut words = line.split_whitespace();
    let output = Command::new(words.next().unwrap_or_default())
        .args(words)
        .current_dir(root())
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    if !output.status.success() {
        return Err(format!("{line}: {}", String::from_utf8_lossy(&output.stderr)));
    }
    String::from_utf8(output.stdout).map_err(|error| format!("{line}: {error}"))
}

/// Whether a program of this name is on the path.
pub(crate) fn has(program: &str) -> bool {
    let name = format!("{program}{}", env::consts::EXE_SUFFIX);
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|directory| directory.join(&name).is_file())
}

/// The root of the workspace.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}
