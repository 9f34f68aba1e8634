//! `cargo xtask ...`: what people and CI run, the same on every machine.

mod ci;
mod licences;
mod metadata;
mod msrv;
mod readme;
mod reports;
mod room;
mod setup;
mod steps;
mod suites;
mod test;

use std::process::ExitCode;

use steps::Steps;

const HELP: &str = "\
cargo xtask setup      install what the tests need and this machine lacks
cargo xtask test       setup, then every test, doc-test, example and combination of features
cargo xtask bench      the benchmarks, or those whose name contains the words that follow
cargo xtask msrv       whether each crate builds with the Rust version that it declares
cargo xtask suites     the test programs alone, two at a time
cargo xtask table      writes the README's table of what the stores declare
cargo xtask unclaimed  writes the list of cases that the last reports do not count as passed
cargo xtask ci         format, clippy, docs, msrv, licences, the commands of the README, and the room taken
";

type Result<T> = std::result::Result<T, String>;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["setup"] => setup::run(),
        ["test"] => test::run(),
        ["suites"] => suites::run(),
        ["bench", ..] => bench(&args[1..]),
        ["msrv"] => msrv::run(),
        ["table"] => table(),
        ["unclaimed"] => reports::write_list(),
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
    let test = "cargo test --locked -q -p lockkit --all-features --test guarantees";
    steps.command(test, &[("LOCKKIT_TABLE", "write")]);
    steps.finish()
}

fn bench(filter: &[String]) -> Result<()> {
    let mut steps = Steps::default();
    steps.cargo(format!("bench --locked -p lockkit-bench -- {}", filter.join(" ")).trim());
    steps.finish()
}
