//! Mistakes made on purpose in a store's client, one at a time: the conformance suite must convict each.
//!
//! A copy of the workspace gets the mistake and is built; then the case that the list names runs on the
//! real server.

mod list;

use std::collections::VecDeque;
use std::env;
use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::Result;
use crate::jobs;
use crate::output;
use crate::steps::{output as printed, root};
use list::{Edit, Fate, Mutant};

/// How long a program may take with one case, or with all of them.
const LIMIT: Duration = Duration::from_secs(5 * 60);
/// How many programs run at a time, while the next one is built.
const AT_A_TIME: usize = 2;
/// The version in the workspace's manifest, and the copy's. With another version the copy's crates
/// are not the workspace's to cargo, which would run a mutant for the unchanged client otherwise; what
/// they depend on is built once for both.
const VERSION: [&str; 2] = ["\nversion = \"0.1.0\"\n", "\nversion = \"0.1.0+mutant\"\n"];

/// What the words behind `cargo xtask mutants` ask for: a store, perhaps a mutant, and `--whole` to run
/// all cases and not only the one that the list names.
pub(crate) fn run(words: &[String]) -> Result<()> {
    let (options, names): (Vec<_>, Vec<_>) =
        words.iter().map(String::as_str).partition(|word| word.starts_with("--"));
    let is_whole = match options[..] {
        [] => false,
        ["--whole"] => true,
        _ => return Err(format!("{}: only --whole is an option", options.join(" "))),
    };
    match names[..] {
        [] => all(),
        [store] => of_store(store, None, is_whole),
        [store, name] => of_store(store, Some(name), is_whole),
        _ => Err("cargo xtask mutants STORE [NAME] [--whole]".to_owned()),
    }
}

/// Every store's mutants.
pub(crate) fn all() -> Result<()> {
    let failed: Vec<_> =
        list::stores()?.iter().filter_map(|store| of_store(store, None, false).err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn of_store(store: &str, name: Option<&str>, is_whole: bool) -> Result<()> {
    let mut mutants = list::of(store)?;
    mutants.retain(|mutant| name.is_none_or(|name| name == mutant.name));
    if mutants.is_empty() {
        return Err(format!("{store} has no such mutant"));
    }
    let workshop = Workshop::open(store)?;
    let built: Mutex<VecDeque<Built<'_>>> = Mutex::default();
    let outcomes: Mutex<Vec<(&Mutant, Outcome)>> = Mutex::default();
    let note = |mutant, outcome: Outcome, took: Duration| {
        println!("{} {:>5.1} s", line(mutant, &outcome), took.as_secs_f64());
        jobs::own(&outcomes).push((mutant, outcome));
    };
    println!("{:<44} {:<4} {:<16} outcome", store, "", "case");
    thread::scope(|scope| {
        let mut workers = VecDeque::new();
        for mutant in &mutants {
            if workers.len() >= AT_A_TIME {
                workers.pop_front().map(thread::ScopedJoinHandle::join);
            }
            match workshop.build(mutant) {
                Ok(program) => jobs::own(&built).push_back(Built { mutant, program }),
                Err(why) => {
                    note(mutant, Outcome::Unfit(why), Duration::ZERO);
                    continue;
                }
            }
            workers.push_back(scope.spawn(|| {
                let Some(built) = jobs::own(&built).pop_front() else { return };
                let started = Instant::now();
                let outcome = built.tried(&workshop, is_whole);
                fs::remove_file(&built.program).ok();
                note(built.mutant, outcome, started.elapsed());
            }));
        }
    });
    let outcomes = outcomes.into_inner().unwrap_or_default();
    summed_up(store, &outcomes)
}

fn summed_up(store: &str, outcomes: &[(&Mutant, Outcome)]) -> Result<()> {
    let count = |is: fn(&Outcome) -> bool| outcomes.iter().filter(|(_, it)| is(it)).count();
    let convicted = count(|outcome| matches!(outcome, Outcome::Convicted { .. }));
    println!("{store}: {convicted} of {} mutants convicted", outcomes.len());
    let wrong: Vec<_> = outcomes
        .iter()
        .filter_map(|(mutant, outcome)| {
            Some(format!("{}: {}", mutant.name, outcome.wrong(mutant)?))
        })
        .collect();
    if wrong.is_empty() {
        return Ok(());
    }
    Err(format!("{store}: not as its list says:\n  {}", wrong.join("\n  ")))
}

fn line(mutant: &Mutant, outcome: &Outcome) -> String {
    let case = match &mutant.fate {
        Fate::Convicted(case) => case,
        Fate::Survives(_) => "-",
    };
    format!("{:<44} {:<4} {case:<16} {outcome}", mutant.name, mutant.clause)
}

/// What came of a mutant.
#[derive(Debug)]
enum Outcome {
    /// The case that the list names failed, or these did of the whole suite.
    Convicted { cases: Vec<String> },
    /// Every case passed.
    Survived,
    /// The list is wrong, or the program did not run.
    Unfit(String),
}

impl Outcome {
    /// What differs from the list.
    fn wrong(&self, mutant: &Mutant) -> Option<String> {
        match (self, &mutant.fate) {
            (Self::Unfit(why), _) => Some(why.clone()),
            (Self::Convicted { cases }, Fate::Convicted(case)) => (!cases.contains(case))
                .then(|| format!("{case} passes; these convict it: {}", cases.join(", "))),
            (Self::Convicted { cases }, Fate::Survives(_)) => {
                Some(format!("no survivor any more: {}", cases.join(", ")))
            }
            (Self::Survived, Fate::Convicted(_)) => Some("the whole suite passes".to_owned()),
            (Self::Survived, Fate::Survives(_)) => None,
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Convicted { cases } => write!(out, "convicted by {}", cases.join(", ")),
            Self::Survived => out.write_str("survived"),
            Self::Unfit(why) => out.write_str(why.lines().next().unwrap_or_default()),
        }
    }
}

/// A program with a mistake.
#[derive(Debug)]
struct Built<'a> {
    mutant: &'a Mutant,
    program: PathBuf,
}

impl Built<'_> {
    /// Runs the case that should convict it; then, or where there is none, every case.
    fn tried(&self, workshop: &Workshop, is_whole: bool) -> Outcome {
        let case = match &self.mutant.fate {
            Fate::Convicted(case) if !is_whole => Some(&**case),
            _ => None,
        };
        match self.failed(workshop, case) {
            Err(why) => Outcome::Unfit(why),
            Ok(failed) if !failed.is_empty() => Outcome::Convicted { cases: failed },
            Ok(_) if case.is_none() => Outcome::Survived,
            Ok(_) => self.tried(workshop, true),
        }
    }

    /// The ids of the cases that failed.
    fn failed(&self, workshop: &Workshop, case: Option<&str>) -> Result<Vec<String>> {
        let mut command = Command::new(&self.program);
        command.current_dir(workshop.tree.join(list::directory(&workshop.store)));
        // A case's id and the blank behind it begin its name, and stand in no other.
        command.args(case.map(|id| format!("{id} ")));
        let log = workshop.place.join(format!("{}-{}.log", workshop.store, self.mutant.name));
        let (has_passed, said) = jobs::said(command, &log, LIMIT);
        if has_passed && output::passed(&said) == 0 {
            return Err(format!("{} does not run on this store", case.unwrap_or("the suite")));
        }
        if has_passed {
            return Ok(Vec::new());
        }
        let failures = output::failures(&said);
        let by_case = |failure: &&output::Failure| failure.test != output::PROGRAM;
        if failures.iter().filter(by_case).count() == 0 {
            return Err(format!("no case failed, but the program did: {}", log.display()));
        }
        // The suite runs a case again whose bound was missed for want of time; a second miss shows nothing.
        let conclusive = failures.iter().filter(|failure| !failure.is_inconclusive(false));
        let id = |failure: &output::Failure| failure.test.split(' ').next().map(str::to_owned);
        Ok(conclusive.filter_map(id).collect())
    }
}

/// The copy of the workspace, in which one mistake at a time is made.
#[derive(Debug)]
struct Workshop {
    store: String,
    target: PathBuf,
    /// Where the programs and what they say go.
    place: PathBuf,
    tree: PathBuf,
}

impl Workshop {
    /// Copies what differs, so that cargo builds only that.
    fn open(store: &str) -> Result<Self> {
        let target = env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
        let target = root().join(target);
        let place = target.join("mutants");
        let workshop = Self { store: store.to_owned(), tree: place.join("tree"), target, place };
        for file in printed("git ls-files --cached --others --exclude-standard")?.lines() {
            workshop.copy(file)?;
        }
        Ok(workshop)
    }

    fn copy(&self, file: &str) -> Result<()> {
        // A file that is listed and gone has been deleted, and not committed so.
        let Ok(mut text) = fs::read(root().join(file)) else { return Ok(()) };
        if file == "Cargo.toml" {
            let manifest = String::from_utf8_lossy(&text);
            if manifest.matches(VERSION[0]).count() != 1 {
                return Err(format!("{file} lacks the line{}", VERSION[0]));
            }
            text = manifest.replacen(VERSION[0], VERSION[1], 1).into_bytes();
        }
        write(&self.tree.join(file), &text)
    }

    /// Builds the suite of the store with this mistake in its client.
    fn build(&self, mutant: &Mutant) -> Result<PathBuf> {
        let made = mutant.edits.iter().try_for_each(|edit| self.make(edit));
        let built = made.and_then(|()| self.suite());
        // The client is put right again, be it built or not.
        for edit in &mutant.edits {
            self.copy(&self.path(edit))?;
        }
        let program = self.place.join(format!("{}-{}", self.store, mutant.name));
        fs::copy(built?, &program).map_err(|error| format!("{}: {error}", program.display()))?;
        Ok(program)
    }

    /// The file that has the mistake, seen from the root of the workspace.
    fn path(&self, edit: &Edit) -> String {
        format!("{}/{}", list::directory(&self.store), edit.file)
    }

    fn make(&self, edit: &Edit) -> Result<()> {
        let path = self.tree.join(self.path(edit));
        let text = fs::read_to_string(&path);
        let text = text.map_err(|error| format!("{}: {error}", path.display()))?;
        write(&path, edit.made_in(&text)?.as_bytes())
    }

    fn suite(&self) -> Result<PathBuf> {
        let built = Command::new("cargo")
            .args("test --offline --test conformance --no-run --message-format=json".split(' '))
            .args(["-p", &list::directory(&self.store)])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .output()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        let messages = String::from_utf8_lossy(&built.stdout);
        let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let messages: Vec<_> = messages.collect();
        if !built.status.success() {
            let errors = messages.iter().filter(|it| it["message"]["level"] == "error");
            let errors: Vec<_> =
                errors.filter_map(|it| it["message"]["rendered"].as_str()).collect();
            let said = String::from_utf8_lossy(&built.stderr);
            return Err(format!("it does not build:\n{}{said}", errors.concat()));
        }
        let program = messages.iter().find_map(|it| {
            let is_suite = it["target"]["name"] == "conformance" && it["profile"]["test"] == true;
            it["executable"].as_str().filter(|_| is_suite)
        });
        program.map(PathBuf::from).ok_or_else(|| "cargo names no program".to_owned())
    }
}

/// Writes a file, unless it is as it should be.
fn write(path: &Path, text: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == text) {
        return Ok(());
    }
    let directory = path.parent().unwrap_or(path);
    fs::create_dir_all(directory)
        .and_then(|()| fs::write(path, text))
        .map_err(|error| format!("{}: {error}", path.display()))
}
