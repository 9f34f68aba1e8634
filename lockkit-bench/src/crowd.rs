//! What grows with the waiters of a name.

use std::time::{Duration, Instant};

use lockkit_core::{Guard, Locks};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::cpu::used;
use crate::report::{Part, median};
use crate::way::Store;

const CLIENTS: usize = 20;
const RELEASES: usize = 21;
const IDLE: Duration = Duration::from_secs(8);
const TTL: Duration = Duration::from_secs(30);

/// Waiters of a name, spread over the clients; their guards come in the order of their grants.
struct Crowd<'a> {
    clients: &'a [Locks],
    name: &'a str,
    entered: usize,
    granted: UnboundedSender<Guard>,
    guards: UnboundedReceiver<Guard>,
}

impl<'a> Crowd<'a> {
    async fn enter(clients: &'a [Locks], name: &'a str, count: usize) -> Self {
        let (granted, guards) = unbounded_channel();
        let mut crowd = Self { clients, name, entered: 0, granted, guards };
        (0..count).for_each(|_| crowd.one_more());
        // A store that cannot tell them is given the time.
        for _ in 0..600 {
            let seen = clients[0].lock(name).inspect().await;
            if seen.is_ok_and(|seen| seen.waiters.is_some_and(|waiters| waiters >= count)) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        crowd
    }

    fn one_more(&mut self) {
        let lock = self.clients[self.entered % self.clients.len()].lock(self.name).ttl(TTL);
        let granted = self.granted.clone();
        self.entered += 1;
        tokio::spawn(async move { granted.send(lock.acquire().await.expect("a grant")) });
    }

    /// From a release to the next waiter's guard, in ms: the median, the first left out.
    async fn releases(&mut self, mut holder: Guard, count: usize) -> f64 {
        let mut took = Vec::new();
        while took.len() < count {
            let began = Instant::now();
            holder.release().await.expect("a release");
            holder = self.guards.recv().await.expect("the next grant");
            took.push(began.elapsed().as_secs_f64() * 1e3);
            self.one_more();
            // As in ordinary use, the releases do not follow each other at once.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        median(&took[1..])
    }
}

/// What one round found.
struct Round {
    few: f64,
    many: f64,
    idle: f64,
    cpu_few: f64,
    cpu_many: f64,
}

async fn round<S: Store>(store: &S, count: usize) -> Round {
    let mut clients = Vec::new();
    for _ in 0..CLIENTS {
        clients.push(store.locks().await);
    }
    let others = store.locks().await;
    let held = async |name: &str| others.lock(name).ttl(TTL).acquire().await.expect("a grant");
    let cpu = || store.pid().map_or(0.0, used);
    // All of them have waited once before something is measured.
    let holder = held("warm").await;
    let mut warm = Crowd::enter(&clients, "warm", 10).await;
    warm.releases(holder, 5 * CLIENTS).await;

    let holder = held("few").await;
    let mut crowd = Crowd::enter(&clients, "few", 10).await;
    let before = cpu();
    let few = crowd.releases(holder, RELEASES).await;
    let cpu_few = (cpu() - before) * 1e3 / RELEASES as f64;

    let holder = held("many").await;
    let mut crowd = Crowd::enter(&clients, "many", count).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cpu();
    tokio::time::sleep(IDLE).await;
    let idle = (cpu() - before) / IDLE.as_secs_f64();
    let before = cpu();
    let many = crowd.releases(holder, RELEASES).await;
    let cpu_many = (cpu() - before) * 1e3 / RELEASES as f64;
    Round { few, many, idle, cpu_few, cpu_many }
}

/// Twenty clients with so many waiters of one name in all: the idle load, and what a release costs with ten waiters
/// and with all. Each round has a server of its own.
///
/// # Panics
/// If a round does.
pub(crate) fn crowd<S: Store>(start: impl Fn() -> S, rounds: usize, count: usize) -> [Part; 2] {
    let mut found = Vec::new();
    for _ in 0..rounds {
        let store = start();
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        found.push(runtime.block_on(round(&store, count)));
        // The tasks go without a word, and the server with them.
        runtime.shutdown_timeout(Duration::from_secs(1));
    }
    let of = |figure: fn(&Round) -> f64| found.iter().map(figure).collect::<Vec<_>>();
    let cpu = |figure: fn(&Round) -> f64| {
        format!("server {:.2} ms of processor a release", median(&of(figure)))
    };
    let all = format!("{count} waiters");
    let title =
        format!("{CLIENTS} clients: from a release to the next guard, ten waiters and {count}");
    let releases = Part::new(title, "ms")
        .row("10 waiters", of(|round| round.few), cpu(|round| round.cpu_few))
        .row(&all, of(|round| round.many), cpu(|round| round.cpu_many))
        .ratio(&all, "10 waiters", "<= 2");
    let idle = Part::new(format!("{count} idle waiters of one name"), "cores of the server").row(
        "idle",
        of(|round| round.idle),
        "goal <= 0.05",
    );
    [releases, idle]
}
