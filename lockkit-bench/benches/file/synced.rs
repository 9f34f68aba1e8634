//! Names that no process has taken for longer than the disk is told of tokens ahead: each grant is synced.

use std::time::{Duration, Instant};

use lockkit_bench::{Part, Store, Task as _, Way, median};

use crate::ways::{Files, Kind};

const ROUNDS: usize = 5;
const NAMES: usize = 50;
/// Longer than the disk is told of tokens ahead.
const PAUSE: Duration = Duration::from_secs(11);

pub(crate) async fn synced(ours: Way<Kind>, floor: Way<Kind>) -> Part {
    let (store, ways) = (Files::start(), [ours, floor]);
    let mut tasks = Vec::new();
    for way in &ways {
        tasks.push(store.tasks(way, 1).await.remove(0));
    }
    let name = |round: usize, number: usize| format!("{round}-{number}");
    for task in &mut tasks {
        for number in 0..ROUNDS * NAMES {
            let name = name(number / NAMES, number % NAMES);
            let held = task.take(&name).await;
            task.give(&name, held).await;
        }
    }
    tokio::time::sleep(PAUSE).await;
    let mut all = [Vec::new(), Vec::new()];
    for round in 0..ROUNDS {
        let mut took = [Vec::new(), Vec::new()];
        for number in 0..NAMES {
            for (task, took) in tasks.iter_mut().zip(&mut took) {
                let (name, began) = (name(round, number), Instant::now());
                let held = task.take(&name).await;
                task.give(&name, held).await;
                took.push(began.elapsed().as_secs_f64() * 1e6);
            }
        }
        for (medians, took) in all.iter_mut().zip(&took) {
            medians.push(median(took));
        }
    }
    let [of_ours, of_floor] = all;
    Part::new("acquire and release of a name that was idle, so that its token is synced", "µs")
        .row(ours.label, of_ours, "")
        .row(floor.label, of_floor, "")
        .ratio(ours.label, floor.label, "")
}
