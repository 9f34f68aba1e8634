//! `cargo xtask ...`: what people and CI run, the same on every machine.

mod ci;
mod circles;
mod ended;
mod jobs;
mod licences;
mod matrix;
mod metadata;
mod msrv;
mod mutants;
mod output;
mod peers;
mod pressure;
mod programs;
mod readme;
mod reports;
mod room;
mod setup;
mod soak;
mod steps;
mod test;
mod tiers;

use std::process::ExitCode;

use steps::Steps;

const HELP: &str = "\
cargo xtask setup        installs what the tests need and this machine lacks
cargo xtask test         setup, one build, and the first tier of the tests: minutes
cargo xtask test <part>  every test of one store or crate: core, fence, file, redis, etcd, zk, postgres, cli, testbed
cargo xtask test stores  the tests of every store that are not in the first tier
cargo xtask ci           the commands of the README, every other store's tests, format, clippy, docs, each
                         feature alone, Rust versions, licences, and the room taken
cargo xtask soak         what takes hours: a virtual year, broken providers 20 times, old clients beside
                         today's, mutants; `soak versions` runs the old clients alone
cargo xtask tiers        how many tests each tier has; `tiers list` names them, `tiers write` brings the
                         table up to the tests that exist
cargo xtask features     builds each feature alone, and runs the examples
cargo xtask bench        every store beside its floors and peers, or the parts whose names contain the words
                         that follow: `bench redis`, `bench etcd/alone`; `--quick` for a short run;
                         `bench write` makes docs/performance.md and its plots of the last runs
cargo xtask circles      whether files import each other in a circle that the list of them lacks
cargo xtask msrv         whether each crate builds with the Rust version that it declares
cargo xtask mutants      builds each store's client with one mistake at a time, and runs the case that must
                         convict it; or one store's, `mutants redis`, or one mistake, `mutants redis NAME`;
                         `--whole` runs every case
cargo xtask table        writes docs/stores.md's table of what the stores declare
cargo xtask unclaimed    writes the list of cases that the last reports do not count as passed
";

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["setup"] => setup::run(),
        ["test"] => test::first(),
        ["test", "stores"] => test::stores(),
        ["test", part] => test::part(part),
        ["soak"] => soak::run(),
        ["soak", "versions"] => soak::only_versions(),
        ["tiers"] => test::existing().and_then(|existing| tiers::print(&existing, false)),
        ["tiers", "list"] => test::existing().and_then(|existing| tiers::print(&existing, true)),
        ["tiers", "write"] => test::existing().and_then(|existing| tiers::write(&existing)),
        ["bench", "write"] => write_performance(),
        ["bench", ..] => bench(&args[1..]),
        ["features"] => matrix::run(),
        ["msrv"] => msrv::run(),
        ["mutants", ..] => mutants::run(&args[1..]),
        ["table"] => table(),
        ["unclaimed"] => reports::write_list(),
        ["circles"] => circles::check(),
        ["circles", "write"] => circles::write(),
        ["ci"] => ci::run(),
        [] | ["help" | "--help" | "-h"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("cargo xtask {}: no such command\n{HELP}", args.join(" "))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::FAILURE
        }
    }
}

fn table() -> Result<()> {
    let mut steps = Steps::default();
    let test = "cargo test --locked -q -p lockkit --all-features --test it -- guarantees::";
    steps.command(test, &[("LOCKKIT_TABLE", "write")]);
    steps.finish()
}

fn write_performance() -> Result<()> {
    let mut steps = Steps::default();
    steps.cargo("run --locked -q -p lockkit-bench --bin render");
    steps.finish()
}

/// The benches, one on each line, and the parts of each.
const BENCHES: &str = include_str!("../../lockkit-bench/stores.txt");
const PARTS: [&str; 9] = [
    "alone",
    "hand_off",
    "processes",
    "names",
    "waiters",
    "leases",
    "allocations",
    "crash",
    "grants",
];

fn bench(filter: &[String]) -> Result<()> {
    let benches: Vec<_> = BENCHES.lines().collect();
    let is_of = |names: &[&str], word: &str| names.iter().any(|name| name.contains(word));
    for word in filter.iter().filter(|word| !word.starts_with('-')) {
        let is_known = match word.split_once('/') {
            Some((bench, part)) => is_of(&benches, bench) && is_of(&PARTS, part),
            None => is_of(&benches, word) || is_of(&PARTS, word),
        };
        if !is_known {
            let (benches, parts) = (benches.join(", "), PARTS.join(", "));
            return Err(format!(
                "{word}: no such bench; there are {benches}, each with the parts {parts}"
            ));
        }
    }
    let mut steps = Steps::default();
    steps.cargo(format!("bench --locked -p lockkit-bench -- {}", filter.join(" ")).trim());
    steps.finish()
}
