//! Rounds by turns: what else the machine does meets every way, and a ratio is one of two figures of one round.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use lockkit_bench::{median, print_ratios};
use testbed::PostgresServer;
use tokio::sync::Barrier;

use crate::ways::{Task, Way};

/// How many cycles of one way follow each other within a round.
const SLICE: usize = 50;
/// For how long the tasks take their turns before grants are counted: the server plans its statements.
const WARM_UP: Duration = Duration::from_millis(1_000);
const WINDOW: Duration = Duration::from_millis(2_000);

/// What a round gave for one way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Figure {
    /// The median of a cycle in microseconds, or grants per second.
    pub(crate) value: f64,
    /// The most connections that the way had.
    pub(crate) connections: usize,
}

/// For each way its figures, one a round.
pub(crate) type Rounds = Vec<Vec<Figure>>;

/// The median of acquire and release that no other client disturbs, for each way in each round.
pub(crate) async fn cycles(
    server: &PostgresServer,
    ways: &[Way],
    rounds: usize,
    slices: usize,
) -> Rounds {
    let mut tasks = Vec::new();
    for way in ways {
        let mut task = way.tasks(server, 1).await.remove(0);
        task.prepare(way.label).await;
        tasks.push(task);
    }
    let mut all = vec![Vec::new(); ways.len()];
    // The first one warms up.
    for round in 0..=rounds {
        let mut took = vec![Vec::new(); ways.len()];
        for _ in 0..slices {
            for ((way, task), took) in ways.iter().zip(&mut tasks).zip(&mut took) {
                for _ in 0..SLICE {
                    let began = Instant::now();
                    task.cycle(way.label, || {}).await;
                    took.push(began.elapsed().as_secs_f64() * 1e6);
                }
            }
        }
        for (figures, took) in all.iter_mut().zip(&took) {
            if round > 0 {
                figures.push(Figure { value: median(took), connections: 1 });
            }
        }
    }
    for task in tasks {
        task.close().await;
    }
    all
}

/// Grants per second to so many tasks that hold nothing, for each way in each round.
pub(crate) async fn rates(
    server: &PostgresServer,
    ways: &[Way],
    rounds: usize,
    tasks: usize,
    name: impl Fn(&Way, usize) -> String,
) -> Rounds {
    let mut all = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        for (way, figures) in ways.iter().zip(&mut all) {
            let names = (0..tasks).map(|number| name(way, number)).collect();
            figures.push(rate(server, way, names).await);
        }
    }
    all
}

/// One round of a way: a task for each of these names.
async fn rate(server: &PostgresServer, way: &Way, names: Vec<String>) -> Figure {
    let (counting, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let grants = Arc::new(AtomicU64::new(0));
    let mut tasks = way.tasks(server, names.len()).await;
    for (task, name) in tasks.iter_mut().zip(&names) {
        task.prepare(name).await;
    }
    let together = Arc::new(Barrier::new(names.len()));
    let start = |(mut task, name): (Task, String)| {
        let (counting, over) = (Arc::clone(&counting), Arc::clone(&over));
        let (grants, together) = (Arc::clone(&grants), Arc::clone(&together));
        tokio::spawn(async move {
            together.wait().await;
            while !over.load(Ordering::Relaxed) {
                let count = || {
                    if counting.load(Ordering::Relaxed) {
                        grants.fetch_add(1, Ordering::Relaxed);
                    }
                };
                task.cycle(&name, count).await;
            }
            task
        })
    };
    let running: Vec<_> = tasks.into_iter().zip(names).map(start).collect();
    tokio::time::sleep(WARM_UP).await;
    counting.store(true, Ordering::Relaxed);
    let began = Instant::now();
    tokio::time::sleep(WINDOW).await;
    counting.store(false, Ordering::Relaxed);
    let took = began.elapsed();
    let granted = grants.load(Ordering::Relaxed);
    let connections = connections(server, way);
    over.store(true, Ordering::Relaxed);
    let mut ended = Vec::new();
    for task in running {
        ended.push(task.await.unwrap());
    }
    // Only now: tasks may share a client.
    for task in ended {
        task.close().await;
    }
    Figure { value: granted as f64 / took.as_secs_f64(), connections }
}

fn connections(server: &PostgresServer, way: &Way) -> usize {
    let counted = "SELECT count(*) FROM pg_stat_activity WHERE application_name";
    server.sql(&format!("{counted} = '{}'", way.label)).unwrap().parse().unwrap()
}

/// The figures of each way, with the least and the most.
pub(crate) fn print_figures(title: &str, unit: &str, ways: &[Way], all: &Rounds) {
    println!("{title}: median ({unit}), the rounds, connections");
    for (way, figures) in ways.iter().zip(all) {
        let values: Vec<_> = figures.iter().map(|figure| figure.value).collect();
        let rounds: Vec<_> = values.iter().map(|value| format!("{value:.0}")).collect();
        let connections = figures.iter().map(|figure| figure.connections).max().unwrap_or(0);
        let (label, middle) = (way.label, median(&values));
        println!("  {label:<34} {middle:>8.0}   {:<44} {connections:>3}", rounds.join(" "));
    }
}

/// A ratio of two ways, paired within each round, beside what it should be.
pub(crate) fn print_ratio(ways: &[Way], all: &Rounds, ours: &str, floor: &str, goal: &str) {
    let of = |label: &str| {
        let at = ways.iter().position(|way| way.label == label).expect("a way of that label");
        &all[at]
    };
    let pairs = of(ours).iter().zip(of(floor));
    let ratios: Vec<_> = pairs.map(|(ours, floor)| ours.value / floor.value).collect();
    print_ratios(&format!("{ours} / {floor}"), &ratios, goal);
}
