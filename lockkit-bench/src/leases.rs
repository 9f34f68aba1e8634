//! What a cycle allocates, and what ten thousand leases keep.

use std::time::Duration;

use allocation_counter::measure;
use lockkit_core::Guard;
use tokio::runtime::{Builder, Runtime};

use crate::cpu::used;
use crate::report::Part;
use crate::way::{Store, Task, Way};

const CYCLES: u64 = 500;
const RENEWING: Duration = Duration::from_secs(20);

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// Allocations of an acquire and a release, on one thread: a number, not a time.
///
/// # Panics
/// If a way does.
pub(crate) fn allocations<S: Store>(store: &S, ways: &[Way<S::Kind>]) -> Part {
    let mut part = Part::new("allocations for an acquire and its release", "allocations");
    for way in ways {
        let runtime = one_thread();
        let mut task = runtime.block_on(store.tasks(way, 1)).remove(0);
        let turns = async |task: &mut S::Task, count: u64| {
            for _ in 0..count {
                let held = task.take("allocations").await;
                task.give("allocations", held).await;
            }
        };
        runtime.block_on(async {
            task.prepare("allocations").await;
            turns(&mut task, 50).await;
        });
        let counted = measure(|| runtime.block_on(turns(&mut task, CYCLES)));
        runtime.block_on(task.close());
        let each = |total: u64| total as f64 / CYCLES as f64;
        let note = format!("{:.0} bytes", each(counted.bytes_total));
        part = part.row(way.label, vec![each(counted.count_total)], note);
    }
    part
}

/// So many leases of one client: what each keeps of this process's memory, and the server's load while they renew.
///
/// # Panics
/// If a lock is not granted.
pub(crate) fn leases<S: Store>(store: &S, count: usize) -> [Part; 2] {
    let runtime = one_thread();
    let locks = runtime.block_on(store.locks());
    let mut guards: Vec<Guard> = Vec::with_capacity(count);
    let counted = measure(|| {
        runtime.block_on(async {
            for number in 0..count {
                let lock = locks.lock(format!("lease-{number}")).ttl(Duration::from_secs(30));
                guards.push(lock.acquire().await.expect("a grant"));
            }
        });
    });
    let before = store.pid().map_or(0.0, used);
    runtime.block_on(async { tokio::time::sleep(RENEWING).await });
    let load = (store.pid().map_or(0.0, used) - before) / RENEWING.as_secs_f64();
    let lost = guards.iter().filter(|guard| !guard.is_held()).count();
    assert_eq!(lost, 0, "leases were lost while they were renewed");
    let kept = counted.bytes_current as f64 / count as f64;
    runtime.block_on(async {
        guards.clear();
        drop(locks.close(Duration::from_secs(30)).await);
    });
    [
        Part::new(format!("{count} leases of one client, a ttl of 30 s: memory"), "bytes a lease")
            .row("lockkit", vec![kept], "goal <= 4096"),
        Part::new(
            format!("{count} leases of one client, a ttl of 30 s: load"),
            "cores of the server",
        )
        .row("lockkit", vec![load], "goal < 0.2"),
    ]
}
