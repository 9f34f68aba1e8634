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
use std::sync::{Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::Result;
use crate::ended::{self, Said};
use crate::jobs;
use crate::output;
use crate::programs;
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
    println!("{store:<44} {:<4} {:<16} outcome", "", "case");
    let trial = Trial { workshop, is_whole, outcomes: Mutex::default(), left: Mutex::default() };
    trial.of_each(&mutants);
    trial.of_those_left();
    summed_up(store, &trial.outcomes.into_inner().unwrap_or_default())
}

/// The mutants of one store, one after the other: first the case of each, which takes seconds, and then
/// the whole suite for those that passed it.
#[derive(Debug)]
struct Trial<'a> {
    workshop: Workshop,
    is_whole: bool,
    outcomes: Mutex<Vec<(&'a Mutant, Outcome)>>,
    left: Mutex<VecDeque<Built<'a>>>,
}

impl<'a> Trial<'a> {
    /// Builds each, and runs its case while the next is built.
    fn of_each(&self, mutants: &'a [Mutant]) {
        let (send, built) = mpsc::sync_channel::<Built<'_>>(0);
        let built = Mutex::new(built);
        let next = || jobs::own(&built).recv();
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    while let Ok(built) = next() {
                        self.case(built);
                    }
                });
            }
            for mutant in mutants {
                match self.workshop.build(mutant) {
                    Ok(program) => send.send(Built { mutant, program }).unwrap_or_default(),
                    Err(why) => self.note(mutant, Outcome::Unfit(why), Duration::ZERO),
                }
            }
            drop(send);
        });
    }

    fn of_those_left(&self) {
        thread::scope(|scope| {
            for _ in 0..AT_A_TIME {
                scope.spawn(|| {
                    let next = || jobs::own(&self.left).pop_front();
                    while let Some(built) = next() {
                        self.end(&built, &built.run(&self.workshop, None));
                    }
                });
            }
        });
    }

    fn case(&self, built: Built<'a>) {
        let case = match &built.mutant.fate {
            Fate::Convicted(case) if !self.is_whole => case,
            _ => return jobs::own(&self.left).push_back(built),
        };
        match built.run(&self.workshop, Some(case)) {
            (Outcome::Survived, _) => jobs::own(&self.left).push_back(built),
            ended => self.end(&built, &ended),
        }
    }

    fn end(&self, built: &Built<'a>, (outcome, took): &(Outcome, Duration)) {
        fs::remove_file(&built.program).ok();
        self.note(built.mutant, outcome.clone(), *took);
    }

    fn note(&self, mutant: &'a Mutant, outcome: Outcome, took: Duration) {
        println!("{} {:>5.1} s", line(mutant, &outcome), took.as_secs_f64());
        jobs::own(&self.outcomes).push((mutant, outcome));
    }
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
#[derive(Clone, Debug)]
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
    /// What this case makes of it, or the whole suite, and how long that took.
    fn run(&self, workshop: &Workshop, case: Option<&str>) -> (Outcome, Duration) {
        let started = Instant::now();
        let outcome = match self.failed(workshop, case) {
            Err(why) => Outcome::Unfit(why),
            Ok(failed) if failed.is_empty() => Outcome::Survived,
            Ok(cases) => Outcome::Convicted { cases },
        };
        (outcome, started.elapsed())
    }

    /// The ids of the cases that failed.
    fn failed(&self, workshop: &Workshop, case: Option<&str>) -> Result<Vec<String>> {
        let mut command = Command::new(&self.program);
        command.current_dir(workshop.tree.join(list::directory(&workshop.store)));
        // A case's id and the blank behind it begin its name, and stand in no other.
        command.args(case.map(|id| format!("{id} ")));
        let log = workshop.place.join(format!("{}-{}.log", workshop.store, self.mutant.name));
        let Said { has_passed, said, .. } = ended::said(command, &log, LIMIT);
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
        let built = made.and_then(|()| self.suite(&mutant.suite));
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

    fn suite(&self, suite: &str) -> Result<PathBuf> {
        let package = list::directory(&self.store);
        let built = Command::new("cargo")
            .args(["test", "--offline", "--no-run", "--test", suite])
            .args(["--message-format=json-render-diagnostics", "-p", &package])
            .current_dir(&self.tree)
            .env("CARGO_TARGET_DIR", &self.target)
            .output()
            .map_err(|error| format!("cargo did not start: {error}"))?;
        if !built.status.success() {
            let said = String::from_utf8_lossy(&built.stderr);
            return Err(format!("it does not build:\n{said}"));
        }
        let suite = format!("{package} {suite}");
        let mut built = programs::in_messages(&built.stdout, &self.tree).into_iter();
        let program = built.find(|program| program.name == suite);
        program.map(|program| program.path).ok_or_else(|| "cargo names no program".to_owned())
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
