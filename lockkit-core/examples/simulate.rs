//! The simulation of the memory store for as long as one likes, or one seed of it.
//!
//! ```sh
//! cargo run --release -p lockkit-core --features conformance --example simulate -- --days 365
//! cargo run -p lockkit-core --features conformance --example simulate -- --seed 7 --trace
//! ```

use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use lockkit_core::conformance::simulation::Simulation;

const HELP: &str = "\
simulate --days 365     runs seeds until they have lasted this long, by their own clocks
         --first 1      beginning with this one; at random unless it is given
         --threads 2    in so many threads; as many as there are cores unless it is given
simulate --seed 7       runs one seed
         --trace        and prints all that happens
         --quorum 5     a quorum of so many stores, instead of one store";

#[derive(Debug, Default)]
struct Options {
    days: Option<u64>,
    first: Option<u64>,
    threads: Option<usize>,
    seed: Option<u64>,
    trace: bool,
    quorum: Option<usize>,
}

fn main() -> ExitCode {
    let options = match options(std::env::args().skip(1)) {
        Ok(options) => options,
        Err(wrong) => {
            eprintln!("{wrong}\n{HELP}");
            return ExitCode::FAILURE;
        }
    };
    let simulation = options.quorum.map_or_else(Simulation::of_memory, Simulation::of_quorum);
    let started = Instant::now();
    let run = match options.seed {
        Some(seed) if options.trace => simulation.trace(seed),
        Some(seed) => simulation.run(seed),
        None => {
            let days = Duration::from_secs(24 * 3600 * options.days.unwrap_or(20));
            let cores = thread::available_parallelism().map_or(1, Into::into);
            let first = options.first.unwrap_or_else(|| u64::from(std::process::id()) << 32);
            println!("seeds from {first} on");
            simulation.campaign(first, days, options.threads.unwrap_or(cores))
        }
    };
    match run {
        Ok(tally) => {
            println!("{tally}\nin {:.1?}", started.elapsed());
            match tally.enough() {
                Err(little) if options.seed.is_none() => {
                    eprintln!("too little was done to show anything: {little}");
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(failure) => {
            eprintln!("{failure}\nit runs alone with: --seed {} --trace", failure.seed);
            ExitCode::FAILURE
        }
    }
}

fn options(arguments: impl Iterator<Item = String>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        let mut number = || {
            let value = arguments.next().and_then(|value| value.parse::<u64>().ok());
            value.ok_or_else(|| format!("{argument} needs a number"))
        };
        match argument.as_str() {
            "--days" => options.days = Some(number()?),
            "--first" => options.first = Some(number()?),
            "--threads" => options.threads = Some(usize::try_from(number()?).unwrap_or(1)),
            "--seed" => options.seed = Some(number()?),
            "--trace" => options.trace = true,
            "--quorum" => options.quorum = usize::try_from(number()?).ok(),
            _ => return Err(format!("{argument} is not an option")),
        }
    }
    Ok(options)
}
