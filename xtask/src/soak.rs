//! What takes hours: larger state spaces, a virtual year, each broken provider 20 times, old clients
//! beside today's, mutants.

use std::env;

use crate::jobs::{self, FEW, Job};
use crate::programs;
use crate::steps::{Steps, has};
use crate::tiers::{self, Table, Tier};
use crate::{Result, mutants, peers, setup};

/// How often each broken provider must be caught.
const RUNS: &str = "20";
/// How long the test of the simulation lasts, in virtual days.
const DAYS: &str = "60";

/// Builds with optimization and without its checks, as the larger tests ask for, and runs them.
pub(crate) fn run() -> Result<()> {
    setup::run()?;
    let table = Table::committed()?;
    let built = programs::build(&["--release"])?;
    tiers::check(&table, &programs::list(&built)?)?;
    let mut steps = Steps::default();
    let larger = "these, larger and optimized: the core's tests, the broken providers 20 times";
    steps.step(larger, || {
        let is_core = |program: &&programs::Program| program.part() == "core";
        let all = built.iter().filter(is_core).filter_map(|program| {
            let tests = table.of(program, &[Tier::First, Tier::Store]);
            Job::new(program, tests, Vec::new())
        });
        let scale = [("LOCKKIT_RUNS", RUNS), ("LOCKKIT_DAYS", DAYS)];
        jobs::run(all.map(|job| job.with(&scale)).collect(), FEW).map(drop)
    });
    let clients = versions(&mut steps);
    let variables = borrowed(&clients);
    steps.step("the tests that only this command runs", || {
        let of_soak = |program| Job::new(program, table.of(program, &[Tier::Soak]), Vec::new());
        let jobs = built.iter().filter_map(of_soak).map(|job| job.ignored().with(&variables));
        jobs::run(jobs.collect(), FEW).map(drop)
    });
    let simulate =
        "run --release --locked -p lockkit-core --features conformance --example simulate";
    steps.cargo(&format!("{simulate} -- --days 365"));
    steps.step("the suite convicts each mistake made in a store's client", mutants::all);
    steps.step("each change to the code that keeps the promises is noticed", of_the_core);
    steps.finish()
}

/// Only the old clients beside today's.
pub(crate) fn only_versions() -> Result<()> {
    setup::run()?;
    let mut steps = Steps::default();
    let clients = versions(&mut steps);
    let test = "cargo test --release --locked -p testbed --test it -- --ignored --nocapture";
    steps.command(&format!("{test} --test-threads=2 versions::"), &borrowed(&clients));
    steps.finish()
}

/// Builds one client in both versions; gives the variables that name the programs.
fn versions(steps: &mut Steps) -> Vec<(&'static str, String)> {
    let mut variables = Vec::new();
    steps.step(
        "a client of the oldest version that shares today's layouts, and of today's",
        || {
            variables.extend(peers::build()?);
            Ok(())
        },
    );
    variables
}

fn borrowed<'a>(variables: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    variables.iter().map(|(name, value)| (*name, &**value)).collect()
}

/// What `cargo-mutants` changes in the driver and its like.
fn of_the_core() -> Result<()> {
    if !has("cargo-mutants") {
        return Err("install it first: cargo install --locked cargo-mutants".to_owned());
    }
    let mut steps = Steps::default();
    // Where they go: a directory that git ignores.
    let output = env::var("CARGO_TARGET_DIR").unwrap_or_else(|_| "target".to_owned());
    steps.cargo(&format!("mutants -p lockkit-core -p lockkit-fence --output {output}"));
    steps.finish()
}
