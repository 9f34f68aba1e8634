//! Benches only: what every store is measured by, beside its floors and its peers.
//!
//! A bench starts a real server, and measures all its [`Way`]s by turns within each round, so that what else the
//! machine does meets every way: a ratio is always one of two figures of the same round. What a run found is printed
//! at once and written to `target/bench/<store>.json`; the program `render` makes `docs/performance.md` and its plots
//! from these files.

mod cpu;
mod crash;
mod crowd;
mod leases;
mod plan;
mod processes;
mod report;
mod rounds;
mod way;

use crowd::crowd;
use leases::{allocations, leases};
use processes::{as_child, processes};

pub use cpu::used;
pub use plan::{Goals, Plan, Variant, run};
pub use processes::is_child;
pub use report::{Part, Ratio, Report, Row, directory, median, number, spread};
pub use rounds::{Load, cycles, rates};
pub use way::{Store, Task, Way};

/// Whether the command line asks for the part of a bench with this name: it gives no word, or one that the
/// name contains.
#[must_use]
pub fn is_wanted(name: &str) -> bool {
    let mut words = std::env::args().skip(1).filter(|word| !word.starts_with('-')).peekable();
    words.peek().is_none() || words.any(|word| name.contains(&word))
}

/// Whether the command line asks for fewer rounds and shorter windows (`--quick`).
#[must_use]
pub fn is_quick() -> bool {
    std::env::args().any(|word| word == "--quick")
}

/// Runs a part of a bench in a task of a runtime of its own, as programs do: what the runtime's first thread waits
/// for would be told by another thread each time.
///
/// # Panics
/// If the part does.
pub fn in_a_task<T: Send + 'static>(part: impl Future<Output = T> + Send + 'static) -> T {
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = runtime.worker_threads(2).enable_all().build().expect("a runtime");
    let given = runtime.block_on(runtime.spawn(part)).expect("the part ends");
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    given
}
