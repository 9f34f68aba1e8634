//! Rounds by turns: cycles alone, grants to many tasks, and many grants of one name.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Barrier;

use crate::report::{Part, median, number};
use crate::way::{Store, Task, Way};

/// How many cycles of one way follow each other within a round.
const SLICE: usize = 50;
/// For how long the tasks take their turns before grants are counted: servers plan statements, caches fill.
const WARM_UP: Duration = Duration::from_millis(700);

/// The tasks of a measurement, what each does while it holds its name, and for how long grants are counted.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// How many tasks.
    pub tasks: usize,
    /// How long each holds its name.
    pub hold: Duration,
    /// Whether each task has a name of its own.
    pub own_names: bool,
    /// For how long grants are counted.
    pub window: Duration,
}

/// Acquire and release that no other client disturbs: the median in µs, for each way in each round.
pub async fn cycles<S: Store>(
    store: &S,
    ways: &[Way<S::Kind>],
    rounds: usize,
    slices: usize,
) -> Part {
    let mut tasks = Vec::new();
    for way in ways {
        let mut task = store.tasks(way, 1).await.remove(0);
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
                    took.push(cycle(task, way.label).await);
                }
            }
        }
        for (figures, took) in all.iter_mut().zip(&took) {
            if round > 0 {
                figures.push(median(took));
            }
        }
    }
    for task in tasks {
        task.close().await;
    }
    let part = Part::new("acquire and release alone", "µs");
    ways.iter().zip(all).fold(part, |part, (way, values)| part.row(way.label, values, ""))
}

/// What one cycle takes, in µs.
async fn cycle<T: Task>(task: &mut T, name: &str) -> f64 {
    let began = Instant::now();
    let held = task.take(name).await;
    task.give(name, held).await;
    began.elapsed().as_secs_f64() * 1e6
}

/// What tells tasks that take their turns to count from now on, and to end.
#[derive(Clone, Default)]
pub(crate) struct Signals {
    counting: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Signals {
    pub(crate) fn count(&self, counts: bool) {
        self.counting.store(counts, Ordering::Relaxed);
    }

    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Takes the name and gives it back until it is over: the grants that were counted, and the longest wait among them.
pub(crate) async fn turns<T: Task>(
    task: &mut T,
    name: &str,
    hold: Duration,
    signals: &Signals,
) -> (u32, Duration) {
    let (mut grants, mut longest) = (0, Duration::ZERO);
    while !signals.over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let held = task.take(name).await;
        if signals.counting.load(Ordering::Relaxed) {
            grants += 1;
            longest = longest.max(began.elapsed());
        }
        if !hold.is_zero() {
            tokio::time::sleep(hold).await;
        }
        task.give(name, held).await;
        // A way that is answered at once would keep its thread from the other tasks, and from the timer that ends all.
        tokio::task::coop::consume_budget().await;
    }
    (grants, longest)
}

/// What a round gave for one way.
struct Rate {
    per_second: f64,
    /// The least over the most grants of a task.
    share: f64,
    longest: Duration,
    connections: usize,
}

/// Grants per second, for each way in each round, with the fairness among the tasks and the longest wait.
pub async fn rates<S: Store>(store: &S, ways: &[Way<S::Kind>], rounds: usize, load: Load) -> Part {
    let mut all: Vec<Vec<Rate>> = ways.iter().map(|_| Vec::new()).collect();
    for round in 0..rounds {
        for (way, figures) in ways.iter().zip(&mut all) {
            figures.push(rate(store, way, load, round).await);
        }
    }
    let Load { tasks, hold, own_names, .. } = load;
    let names = if own_names { format!("{tasks} names") } else { "one name".to_owned() };
    let title = format!("{tasks} tasks on {names}, each holds for {} ms", hold.as_millis());
    let mut part = Part::new(title, "grants/s");
    for (way, rates) in ways.iter().zip(all) {
        let share = rates.iter().map(|rate| rate.share).fold(1.0, f64::min);
        let longest = rates.iter().map(|rate| rate.longest).max().unwrap_or_default();
        let connections = rates.iter().map(|rate| rate.connections).max().unwrap_or_default();
        let mut note =
            format!("least/most {share:.2}, longest wait {:.0} ms", longest.as_secs_f64() * 1e3);
        if connections > 0 {
            note += &format!(", {connections} connections");
        }
        part = part.row(way.label, rates.iter().map(|rate| rate.per_second).collect(), note);
    }
    part
}

/// One round of a way.
async fn rate<S: Store>(store: &S, way: &Way<S::Kind>, load: Load, round: usize) -> Rate {
    let name = |task: usize| {
        let task = if load.own_names { task } else { 0 };
        format!("{}-{round}-{task}", way.label.replace([' ', '/', ',', '(', ')'], "-"))
    };
    let signals = Signals::default();
    let together = Arc::new(Barrier::new(load.tasks));
    let mut running = Vec::new();
    for (number, mut task) in store.tasks(way, load.tasks).await.into_iter().enumerate() {
        let name = name(number);
        task.prepare(&name).await;
        let (signals, together) = (signals.clone(), Arc::clone(&together));
        running.push(tokio::spawn(async move {
            together.wait().await;
            let (grants, longest) = turns(&mut task, &name, load.hold, &signals).await;
            (task, grants, longest)
        }));
    }
    tokio::time::sleep(WARM_UP).await;
    signals.count(true);
    let began = Instant::now();
    tokio::time::sleep(load.window).await;
    signals.count(false);
    let took = began.elapsed();
    let connections = store.connections(way);
    signals.end();
    let (mut ended, mut grants, mut longest) = (Vec::new(), Vec::new(), Duration::ZERO);
    for task in running {
        let (task, granted, waited) = task.await.expect("a task ends");
        ended.push(task);
        grants.push(granted);
        longest = longest.max(waited);
    }
    // Only now: tasks may share a client.
    for task in ended {
        task.close().await;
    }
    let per_second = f64::from(grants.iter().sum::<u32>()) / took.as_secs_f64();
    Rate { per_second, share: share(&grants), longest, connections }
}

/// The least over the most.
pub(crate) fn share(grants: &[u32]) -> f64 {
    let least = grants.iter().min().copied().unwrap_or_default();
    let most = grants.iter().max().copied().unwrap_or_default();
    f64::from(least) / f64::from(most.max(1))
}

/// So many grants of one name of ours and as many of the floor's, in blocks by turns: whether a name costs more with
/// each grant that it has had.
pub(crate) async fn many_grants<S: Store>(
    store: &S,
    ours: Way<S::Kind>,
    floor: Way<S::Kind>,
    grants: usize,
) -> Part {
    let block = grants / 10;
    let mut tasks = Vec::new();
    for way in [ours, floor] {
        tasks.push(store.tasks(&way, 1).await.remove(0));
    }
    let names = ["many-ours", "many-floor"];
    for (task, name) in tasks.iter_mut().zip(names) {
        task.prepare(name).await;
    }
    let mut ratios = Vec::new();
    let mut values = [Vec::new(), Vec::new()];
    for _ in 0..10 {
        let mut took = [Vec::new(), Vec::new()];
        for _ in 0..block / SLICE {
            for ((task, name), took) in tasks.iter_mut().zip(names).zip(&mut took) {
                for _ in 0..SLICE {
                    took.push(cycle(task, name).await);
                }
            }
        }
        let [ours, floor] = took.map(|took| median(&took));
        ratios.push(ours / floor);
        values[0].push(ours);
        values[1].push(floor);
    }
    for task in tasks {
        task.close().await;
    }
    let last = ratios[ratios.len() - 1] / ratios[0];
    let [of_ours, of_floor] = values;
    let note = format!("the ratio of the last tenth is {} times that of the first", number(last));
    Part::new(format!("{grants} grants of one name, a figure for each tenth"), "µs")
        .row(ours.label, of_ours, note)
        .row(floor.label, of_floor, "")
        .ratio(ours.label, floor.label, "")
}
