//! The test programs of the workspace: built once, with all features, and asked for their tests.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use serde_json::Value;

use crate::Result;
use crate::steps::root;

/// A test program, and the directory of its package, in which it runs.
#[derive(Debug)]
pub(crate) struct Program {
    /// Its package and its target, as in `lockkit-redis it`.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
    pub(crate) directory: PathBuf,
}

/// What a program understands, and how its tests are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Rust's own test harness.
    Libtest,
    /// The conformance suite on one store: its cases stand by their ids.
    Suite,
    /// Another program on libtest-mimic.
    Mimic,
}

/// The tests that a program has.
#[derive(Debug)]
pub(crate) struct Listed {
    pub(crate) program: String,
    pub(crate) tests: BTreeSet<String>,
    pub(crate) ignored: BTreeSet<String>,
    /// Whether `ignored` means what it says: a suite ignores what its store does not claim.
    pub(crate) has_ignored: bool,
}

impl Kind {
    /// The kind of the program of this name.
    pub(crate) fn of(name: &str) -> Self {
        match name.rsplit(' ').next().unwrap_or_default() {
            target if target.contains("conformance") => Self::Suite,
            "broken" | "stalls" => Self::Mimic,
            _ => Self::Libtest,
        }
    }
}

impl Program {
    pub(crate) fn kind(&self) -> Kind {
        Kind::of(&self.name)
    }

    /// Its package without `lockkit-`: what `cargo xtask test` calls it.
    pub(crate) fn part(&self) -> &str {
        let package = self.name.split(' ').next().unwrap_or_default();
        package.strip_prefix("lockkit-").unwrap_or(package)
    }

    /// This program with these arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(&self.directory);
        command
    }

    fn listed(&self) -> Result<Listed> {
        let list = |more: &[&str]| {
            let listed = self.command().args(["--list", "--format", "terse"]).args(more).output();
            let listed = listed.map_err(|error| format!("{}: {error}", self.name))?;
            if !listed.status.success() {
                let said = String::from_utf8_lossy(&listed.stderr).into_owned();
                return Err(format!("{} lists no tests: {said}", self.name));
            }
            let text = String::from_utf8_lossy(&listed.stdout).into_owned();
            let tests = text.lines().filter_map(|line| line.strip_suffix(": test"));
            Ok(tests.map(|test| self.key(test).to_owned()).collect())
        };
        Ok(Listed {
            program: self.name.clone(),
            tests: list(&[])?,
            ignored: list(&["--ignored"])?,
            has_ignored: self.kind() != Kind::Suite,
        })
    }

    /// How the table calls a test: a case by its id, which may stand behind `[not claimed] `.
    fn key<'a>(&self, test: &'a str) -> &'a str {
        if self.kind() != Kind::Suite {
            return test;
        }
        let test = test.split_once("] ").map_or(test, |(_, test)| test);
        test.split(' ').next().unwrap_or(test)
    }
}

/// Builds every test program with all features.
///
/// `profile` is what cargo is told besides, for example `--release`.
pub(crate) fn build(profile: &[&str]) -> Result<Vec<Program>> {
    let built = Command::new("cargo")
        .args("test --locked --workspace --all-features --no-run".split(' '))
        .arg("--message-format=json-render-diagnostics")
        .args(profile)
        .current_dir(root())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cargo did not start: {error}"))?;
    if !built.status.success() {
        return Err(format!("cargo ended with {}", built.status));
    }
    Ok(in_messages(&built.stdout, root()))
}

/// The test programs that cargo says it has built, of the workspace in this directory.
pub(crate) fn in_messages(said: &[u8], workspace: &Path) -> Vec<Program> {
    let said = String::from_utf8_lossy(said);
    let messages = said.lines().filter_map(|line| serde_json::from_str(line).ok());
    messages.filter_map(|message| program(&message, workspace)).collect()
}

/// Asks each program for its tests: side by side, since some start a server for it.
pub(crate) fn list(programs: &[Program]) -> Result<Vec<Listed>> {
    thread::scope(|scope| {
        let asked: Vec<_> =
            programs.iter().map(|program| scope.spawn(|| program.listed())).collect();
        let panicked = |_| Err("a thread that lists tests panicked".to_owned());
        asked.into_iter().map(|asked| asked.join().unwrap_or_else(panicked)).collect()
    })
}

fn program(message: &Value, workspace: &Path) -> Option<Program> {
    if message["reason"] != "compiler-artifact" || message["profile"]["test"] != true {
        return None;
    }
    let directory = Path::new(message["manifest_path"].as_str()?).parent()?.to_owned();
    let package = directory.strip_prefix(workspace).ok()?.to_str()?;
    let package = if package.is_empty() { "lockkit" } else { package };
    Some(Program {
        name: format!("{package} {}", message["target"]["name"].as_str()?),
        path: message["executable"].as_str()?.into(),
        directory,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cargo_built_to_test_is_a_program() {
        let manifest = root().join("lockkit-core").join("Cargo.toml");
        let message = |test: bool| {
            serde_json::json!({
                "reason": "compiler-artifact", "manifest_path": manifest.to_str(),
                "profile": {"test": test}, "target": {"name": "it"}, "executable": "/x/it-1",
            })
        };
        let program = program(&message(true), root()).expect("a program");
        assert_eq!(
            (&*program.name, program.part(), program.path.to_str(), program.kind()),
            ("lockkit-core it", "core", Some("/x/it-1"), Kind::Libtest)
        );
        assert!(super::program(&message(false), root()).is_none());
        assert!(super::program(&serde_json::json!({"reason": "build-finished"}), root()).is_none());
    }

    #[test]
    fn a_case_stands_by_its_id() {
        let program = |name: &str| Program {
            name: name.to_owned(),
            path: PathBuf::new(),
            directory: PathBuf::new(),
        };
        let suite = program("lockkit-zk ensemble_conformance");
        assert_eq!(suite.key("AT-01 atomicity C1: one wins"), "AT-01");
        assert_eq!(suite.key("[not claimed] C11-02 safety C11: a [note]"), "C11-02");
        assert_eq!(program("lockkit-core broken").key("no-ttl: none"), "no-ttl: none");
    }
}
