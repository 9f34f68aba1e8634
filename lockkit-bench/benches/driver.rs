//! What the driver costs: acquire and release on memory, beside the provider alone and the floor.

#![allow(missing_docs, clippy::unwrap_used)] // criterion's macros write undocumented functions

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_group, criterion_main};
use lockkit_core::{Clock, LockProvider, Locks, Memory, Request};
use tokio::runtime::{Builder, Runtime};

fn one_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn two_threads() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn cycle(locks: &Locks) {
    let guard = locks.lock("bench").acquire().await.unwrap();
    black_box(guard.token());
    guard.release().await.unwrap();
}

fn uncontended(c: &mut Criterion) {
    let mut group = c.benchmark_group("acquire and release");

    let mutex = Arc::new(tokio::sync::Mutex::new(()));
    group.bench_function("floor: tokio's mutex, from a task of its own", |bench| {
        bench.to_async(one_thread()).iter(|| {
            let mutex = Arc::clone(&mutex);
            tokio::spawn(async move { drop(black_box(mutex.lock().await)) })
        });
    });

    let (store, clock) = (Memory::new(), Clock::system());
    group.bench_function("memory, the provider alone", |bench| {
        bench.to_async(one_thread()).iter(async || {
            let name = "bench".parse().unwrap();
            let request = Request::new(name, Duration::from_secs(15), clock.clone()).unwrap();
            let grant = store.try_acquire(&request).await.unwrap().unwrap();
            grant.lease.release().await.unwrap();
        });
    });

    let locks = Locks::memory();
    group.bench_function("memory, through the driver, one thread", |bench| {
        bench.to_async(one_thread()).iter(|| cycle(&locks));
    });
    let locks = Locks::memory();
    group.bench_function("memory, through the driver, two threads", |bench| {
        bench.to_async(two_threads()).iter(|| cycle(&locks));
    });
    let locks = Locks::memory();
    group.bench_function("is_held", |bench| {
        let guard = one_thread().block_on(locks.lock("bench").acquire()).unwrap();
        bench.iter(|| black_box(guard.is_held()));
    });
    group.finish();
}

/// Not a time but a number, the same on every machine: what a lease takes while it is held.
fn room(_: &mut Criterion) {
    const LEASES: usize = 10_000;
    let (runtime, locks) = (one_thread(), Locks::memory());
    let mut guards = Vec::with_capacity(LEASES);
    let taken = allocation_counter::measure(|| {
        runtime.block_on(async {
            for n in 0..LEASES {
                guards.push(locks.lock(format!("bench/{n}")).acquire().await.unwrap());
            }
            // Each has its task by then.
            tokio::time::sleep(Duration::from_millis(100)).await;
        });
    });
    println!("{LEASES} leases: {} bytes each", taken.bytes_current / 10_000);
}

/// A caller beside 64 that give up at once, again and again: how much longer its cycle takes than alone.
fn beside_leavers(_: &mut Criterion) {
    const LEAVERS: usize = 64;
    let (runtime, locks) = (two_threads(), Locks::memory());
    let median = async |locks: &Locks| {
        let mut took = Vec::new();
        for _ in 0..1000 {
            let began = Instant::now();
            cycle(locks).await;
            took.push(began.elapsed());
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        took.sort_unstable();
        took[took.len() / 2]
    };
    runtime.block_on(async {
        let _held = locks.lock("held").acquire().await.unwrap();
        let alone = median(&locks).await;
        for _ in 0..LEAVERS {
            let lock = locks.lock("held");
            tokio::spawn(async move {
                loop {
                    drop(tokio::time::timeout(Duration::from_millis(1), lock.acquire()).await);
                }
            });
        }
        let beside = median(&locks).await;
        println!("a cycle beside {LEAVERS} that leave: {beside:?}, alone {alone:?}");
    });
}

/// Not a time but a number: printed once, the same on every machine.
fn allocations(_: &mut Criterion) {
    const CYCLES: u64 = 1000;
    let (runtime, locks) = (one_thread(), Locks::memory());
    runtime.block_on(cycle(&locks));
    let counted = allocation_counter::measure(|| {
        runtime.block_on(async {
            for _ in 0..CYCLES {
                cycle(&locks).await;
            }
        });
    });
    let tasks = runtime.metrics().num_alive_tasks();
    println!(
        "allocations for one acquire and release: {} of {} bytes in all; kept: {} bytes; tasks left: {tasks}",
        counted.count_total / CYCLES,
        counted.bytes_total / CYCLES,
        counted.bytes_current,
    );
}

criterion_group!(benches, allocations, room, beside_leavers, uncontended);
criterion_main!(benches);
