//! The driver over the memory store: lockkit, and tokio's own mutex.

#![allow(clippy::unwrap_used)]

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use lockkit_bench::{Goals, Plan, Store, Way, run};
use lockkit_core::{Guard, Locks, Memory};
use tokio::sync::OwnedMutexGuard;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Lockkit,
    /// A mutex for each name, taken in a task of its own, as the driver takes its locks.
    Mutex,
}

#[derive(Default)]
struct InMemory {
    store: Memory,
    mutexes: Mutexes,
}

type Mutexes = Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>;

enum Task {
    Lockkit(Locks),
    Mutex(Mutexes),
}

enum Held {
    Lockkit(Guard),
    Mutex(OwnedMutexGuard<()>),
}

impl Store for InMemory {
    type Kind = Kind;
    type Task = Task;

    fn server(&self) -> String {
        "This process".to_owned()
    }

    fn address(&self) -> String {
        String::new()
    }

    fn at(_address: &str) -> Self {
        unreachable!("no other process has this store")
    }

    async fn tasks(&self, way: &Way<Kind>, count: usize) -> Vec<Task> {
        if way.kind == Kind::Mutex {
            return (0..count).map(|_| Task::Mutex(Arc::clone(&self.mutexes))).collect();
        }
        way.locks(count, || self.locks()).await.into_iter().map(Task::Lockkit).collect()
    }

    async fn locks(&self) -> Locks {
        Locks::new(self.store.clone())
    }

    fn pid(&self) -> Option<u32> {
        None
    }
}

impl lockkit_bench::Task for Task {
    type Held = Held;

    async fn take(&mut self, name: &str) -> Held {
        match self {
            Self::Lockkit(locks) => Held::Lockkit(locks.lock(name).acquire().await.unwrap()),
            Self::Mutex(mutexes) => {
                let mutex = Arc::clone(mutexes.lock().unwrap().entry(name.to_owned()).or_default());
                Held::Mutex(tokio::spawn(mutex.lock_owned()).await.unwrap())
            }
        }
    }

    async fn give(&mut self, _name: &str, held: Held) {
        match held {
            Held::Lockkit(guard) => guard.release().await.unwrap(),
            Held::Mutex(guard) => drop(guard),
        }
    }

    async fn close(self) {
        if let Self::Lockkit(locks) = self {
            drop(locks.close(Duration::from_secs(5)).await);
        }
    }
}

fn main() {
    let plan = Plan {
        store: "memory",
        ours: Way::new("lockkit", Kind::Lockkit),
        hand: None,
        floor: Way::new("tokio's mutex", Kind::Mutex),
        fair: Some(Way::new("tokio's mutex", Kind::Mutex)),
        variants: Vec::new(),
        peers: Vec::new(),
        goals: Goals::default(),
        crowd: 10_000,
        killed_ttl: None,
    };
    run(&plan, InMemory::default);
}
