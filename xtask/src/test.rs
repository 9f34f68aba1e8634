//! Running tests by their tiers.

use crate::jobs::{self, FEW, Job, MANY};
use crate::programs::{self, Program};
use crate::steps::Steps;
use crate::tiers::{self, Table, Tier};
use crate::{Result, reports, setup};

/// `cargo xtask test`: sets up what is missing, builds once, and runs the first tier.
pub(crate) fn first() -> Result<()> {
    run(&[Tier::First], None, "first")
}

/// `cargo xtask test <store>`: every test of one store, or of another part of the workspace.
pub(crate) fn part(part: &str) -> Result<()> {
    run(&[Tier::First, Tier::Store], Some(part), part)
}

/// `cargo xtask test stores`, which CI runs once the first tier has passed: the tests of every store
/// that are not in it.
pub(crate) fn stores() -> Result<()> {
    run(&[Tier::Store], None, "stores")
}

/// `cargo xtask tiers`: builds the test programs, and hands on the tests that they have.
pub(crate) fn existing() -> Result<Vec<programs::Listed>> {
    setup::run()?;
    programs::list(&programs::build(&[])?)
}

/// Builds, checks the table, and runs the tests of these tiers; the suite's reports go to `reports`.
fn run(tiers: &[Tier], part: Option<&str>, reports: &str) -> Result<()> {
    setup::run()?;
    let table = Table::committed()?;
    let mut steps = Steps::default();
    let mut built = Vec::new();
    steps.step("build all test programs with all features", || {
        built = programs::build(&[])?;
        Ok(())
    });
    if built.is_empty() {
        return steps.finish();
    }
    if let Some(part) = part {
        check_part(part, &built)?;
    }
    steps.step("each test has its tier", || tiers::check(&table, &programs::list(&built)?));
    steps.step("the tests", || {
        let directory = reports::cleared(reports)?.display().to_string();
        let crowd = if tiers == [Tier::First] { MANY } else { FEW };
        let variables = [(reports::VARIABLE, &*directory)];
        let jobs = built.iter().filter_map(|program| job(program, &table, tiers, part));
        let written = jobs::run(jobs.map(|job| job.with(&variables)).collect(), crowd)?;
        eprintln!("the conformance suite's reports are in {directory}");
        reports::check(&written)
    });
    steps.finish()
}

/// The tests of a program that are of these tiers and belong to this part.
fn job<'a>(
    program: &'a Program,
    table: &'a Table,
    tiers: &'a [Tier],
    part: Option<&str>,
) -> Option<Job<'a>> {
    let chosen = |test: &&str| part.is_none_or(|part| belongs(program, test, part));
    let tests: Vec<_> = table.of(program, tiers).into_iter().filter(chosen).collect();
    let every = table.of(program, &[Tier::First, Tier::Store]);
    let others = every.into_iter().filter(|test| !tests.contains(test)).collect();
    Job::new(program, tests, others)
}

/// Whether a test is one of a part's: of its package, or in a module named after it, as the
/// testbed's are.
fn belongs(program: &Program, test: &str, part: &str) -> bool {
    program.part() == part || test.split("::").any(|module| module == part)
}

fn check_part(part: &str, programs: &[Program]) -> Result<()> {
    let mut parts: Vec<_> = programs.iter().map(Program::part).collect();
    parts.sort_unstable();
    parts.dedup();
    if parts.contains(&part) {
        return Ok(());
    }
    Err(format!("cargo xtask test {part}: there is no such part; these are: {}", parts.join(", ")))
}
