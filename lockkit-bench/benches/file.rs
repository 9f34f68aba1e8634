//! Locks on this machine's disk: lockkit's file store beside flock(2) with a token and fdatasync.
//!
//! Each part stands for itself: `cargo bench -p lockkit-bench --bench file -- cycle` runs those whose names contain
//! one of the words. The store lies in Cargo's target directory: on a disk, not in memory.

#![allow(clippy::unwrap_used)]

#[path = "file/crowd.rs"]
mod crowd;
#[path = "file/ways.rs"]
mod ways;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lockkit_bench::{is_wanted, median, print_ratios};
use tempfile::TempDir;

use ways::Way;

const ROUNDS: usize = 7;
/// How many cycles of one way follow each other within a round, and how often its turn comes.
const SLICE: usize = 50;
const SLICES: usize = 10;

/// A directory on the disk.
pub(crate) fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// Acquire and release that nothing disturbs, in microseconds: for each way, the median of each round.
async fn cycles(directory: &Path, ways: &[Way]) -> Vec<Vec<f64>> {
    let mut clients = Vec::new();
    for way in ways {
        clients.push(way.client(directory).await);
    }
    let mut all = vec![Vec::new(); ways.len()];
    // The first one warms up.
    for round in 0..=ROUNDS {
        let mut took = vec![Vec::new(); ways.len()];
        for _ in 0..SLICES {
            for ((way, client), took) in ways.iter().zip(&mut clients).zip(&mut took) {
                for _ in 0..SLICE {
                    let began = Instant::now();
                    client.cycle(way.label(), || {}).await;
                    took.push(began.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
        for (medians, took) in all.iter_mut().zip(&took).filter(|_| round > 0) {
            medians.push(median(took));
        }
    }
    all
}

fn print(title: &str, unit: &str, ways: &[Way], all: &[Vec<f64>]) {
    println!("{title}: median ({unit}), the rounds");
    for (way, values) in ways.iter().zip(all) {
        let rounds: Vec<_> = values.iter().map(|value| format!("{value:.0}")).collect();
        println!("  {:<34} {:>8.0}   {}", way.label(), median(values), rounds.join(" "));
    }
}

/// Ratios of two ways, paired within each round.
fn ratios(ours: &[f64], floor: &[f64]) -> Vec<f64> {
    ours.iter().zip(floor).map(|(ours, floor)| ours / floor).collect()
}

async fn cycle() {
    let directory = on_disk();
    let ways = [Way::Flock, Way::Kept, Way::Lockkit];
    let all = cycles(directory.path(), &ways).await;
    print("acquire and release alone", "µs", &ways, &all);
    print_ratios("lockkit / flock, fdatasync", &ratios(&all[2], &all[0]), "<= 1.5");
    print_ratios("lockkit / the same, kept open", &ratios(&all[2], &all[1]), "");
}

/// Names that no process has taken for longer than the disk is told of tokens ahead: lockkit syncs, too.
async fn synced() {
    const NAMES: usize = 50;
    let directory = on_disk();
    let ways = [Way::Flock, Way::Lockkit];
    let mut clients = Vec::new();
    for way in &ways {
        clients.push(way.client(directory.path()).await);
    }
    let name = |round: usize, number: usize| format!("{round}-{number}");
    for number in 0..ROUNDS * NAMES {
        for client in &mut clients {
            client.cycle(&name(number / NAMES, number % NAMES), || {}).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(11)).await;
    let mut all = vec![Vec::new(); ways.len()];
    for round in 0..ROUNDS {
        let mut took = vec![Vec::new(); ways.len()];
        for number in 0..NAMES {
            for (client, took) in clients.iter_mut().zip(&mut took) {
                let began = Instant::now();
                client.cycle(&name(round, number), || {}).await;
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        for (medians, took) in all.iter_mut().zip(&took) {
            medians.push(median(took));
        }
    }
    print("the same after a pause, so that each token is synced", "µs", &ways, &all);
    print_ratios("lockkit / flock, fdatasync", &ratios(&all[1], &all[0]), "");
}

fn hand_off() {
    const PROCESSES: usize = 8;
    let ways = [Way::Flock, Way::Lockkit];
    let (mut rates, mut shares) = (vec![Vec::new(); 2], vec![Vec::new(); 2]);
    for _ in 0..ROUNDS {
        let directory: PathBuf = on_disk().keep();
        for (n, way) in ways.iter().enumerate() {
            let grants = crowd::grants(*way, &directory, PROCESSES);
            let least = grants.iter().min().unwrap();
            let most = grants.iter().max().unwrap();
            rates[n].push(grants.iter().sum::<u64>() as f64 / crowd::WINDOW.as_secs_f64());
            shares[n].push(*least as f64 / *most as f64);
        }
        std::fs::remove_dir_all(directory).unwrap();
    }
    print(&format!("hand-offs of {PROCESSES} processes"), "/s", &ways, &rates);
    print_ratios("lockkit / flock, fdatasync", &ratios(&rates[1], &rates[0]), ">= 0.5");
    for (way, shares) in ways.iter().zip(&shares) {
        print_ratios(&format!("{}: least / most of a process", way.label()), shares, "");
    }
}

fn main() {
    if let Some(role) = crowd::role() {
        return crowd::child(&role);
    }
    // In a task, as programs do.
    let runtime = ways::runtime();
    if is_wanted("file/cycle") {
        runtime.block_on(runtime.spawn(cycle())).unwrap();
    }
    if is_wanted("file/synced") {
        runtime.block_on(runtime.spawn(synced())).unwrap();
    }
    if is_wanted("file/hand_off") {
        hand_off();
    }
}
