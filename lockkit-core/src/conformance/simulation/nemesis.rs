//! What happens to the processes, to their links, and to the store.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::task::JoinHandle;

use super::permits::SimulatedSemaphore;
use super::process::{Process, surroundings};
use super::random::Random;
use super::resource::Resource;
use super::wire::{Cut, Link, Server, Wire};
use super::worker::Worker;
use super::world::World;
use crate::driver::runtime::TaskHost;
use crate::driver::timing::call_limit;
use crate::{Clock, LockName, LockProvider, Locks, Quorum};

/// Makes the client of a process from the wire to its store.
pub(super) type ClientOf =
    Arc<dyn Fn(Arc<dyn LockProvider>) -> Arc<dyn LockProvider> + Send + Sync>;

/// All processes of a run, each in its present incarnation.
pub(super) struct Cluster {
    world: Arc<World>,
    /// One store, or the members of a quorum.
    servers: Arc<[Arc<Server>]>,
    client: Option<ClientOf>,
    resources: Arc<[(LockName, Arc<Resource>)]>,
    semaphore: Option<Arc<SimulatedSemaphore>>,
    running: Mutex<Vec<Running>>,
    /// How many incarnations there were.
    incarnations: Mutex<u64>,
}

struct Running {
    number: u64,
    process: Process,
    link: Arc<Link>,
    locks: Locks,
    workers: Vec<JoinHandle<()>>,
}

impl Cluster {
    pub(super) fn start(
        client: Option<ClientOf>,
        world: &Arc<World>,
        servers: &Arc<[Arc<Server>]>,
        names: impl IntoIterator<Item = LockName>,
    ) -> Arc<Self> {
        // A quorum has no semaphores.
        let semaphore = match &**servers {
            [server] => SimulatedSemaphore::new(world, &server.store).map(Arc::new),
            _ => None,
        };
        let cluster = Arc::new(Self {
            world: Arc::clone(world),
            servers: Arc::clone(servers),
            client,
            resources: names.into_iter().map(|name| (name, Arc::default())).collect(),
            semaphore,
            running: Mutex::default(),
            incarnations: Mutex::default(),
        });
        for _ in 0..world.weather.processes {
            let incarnation = cluster.incarnation();
            cluster.running().push(incarnation);
        }
        cluster
    }

    fn running(&self) -> MutexGuard<'_, Vec<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn incarnation(&self) -> Running {
        let number = {
            let mut incarnations = self.incarnations.lock().unwrap_or_else(PoisonError::into_inner);
            *incarnations += 1;
            *incarnations
        };
        let world = &self.world;
        let (process, link) = (Process::default(), Link::new());
        let wire = |server: &Arc<Server>| Wire {
            world: Arc::clone(world),
            server: Arc::clone(server),
            link: Arc::clone(&link),
        };
        let seed = world.draw(Random::seed);
        let builder = Locks::builder()
            .clock(Clock::tokio())
            .ttl(world.weather.ttl)
            .label(format!("process {number}"))
            .simulated(process.clone(), seed);
        let locks = match (&*self.servers, &self.client) {
            ([server], Some(client)) => builder.build(client(Arc::new(wire(server)))),
            ([server], None) => builder.build(wire(server)),
            (members, _) => {
                let members = members.iter().map(|server| Arc::new(wire(server)) as _);
                builder.build(self.quorum(members.collect(), &process))
            }
        };
        let worker = Worker {
            world: Arc::clone(world),
            locks: locks.clone(),
            process: number,
            resources: Arc::clone(&self.resources),
            semaphore: self.semaphore.clone(),
        };
        let workers = (0..world.weather.workers)
            .map(|_| tokio::spawn(process.host(Box::pin(worker.clone().work()))))
            .collect();
        Running { number, process, link, locks, workers }
    }

    /// The client of a quorum, whose time of day is not that of the others.
    fn quorum(&self, members: Vec<Arc<dyn LockProvider>>, process: &Process) -> Quorum {
        let draw = |random: &mut Random| (random.seed(), random.up_to(Duration::from_secs(5)));
        let (seed, ahead) = self.world.draw(draw);
        let surroundings = surroundings(process.clone(), seed, ahead);
        Quorum::surrounded(members, &surroundings).expect("a right number of right members")
    }

    /// Makes trouble until the faults are to end.
    pub(super) async fn nemesis(self: Arc<Self>) {
        let Some(every) = self.world.weather.nemesis else { return };
        loop {
            self.world.sleep_up_to(every * 2).await;
            if self.world.is_calm() {
                return;
            }
            let cluster = Arc::clone(&self);
            tokio::spawn(async move { cluster.trouble().await });
        }
    }

    async fn trouble(&self) {
        let world = &self.world;
        let ttl = world.weather.ttl;
        let (victim, kind, lasting) = world.draw(|random| {
            (random.place(world.weather.processes), random.below(10), random.up_to(ttl))
        });
        let (process, link, number) = {
            let running = self.running();
            let victim = &running[victim];
            (victim.process.clone(), Arc::clone(&victim.link), victim.number)
        };
        match kind {
            0 => self.freeze(&process, lasting / 2, "process frozen").await,
            1..=2 => {
                let lasting = ttl + lasting * 2;
                self.freeze(&process, lasting, "process frozen for more than a ttl").await;
            }
            3 => self.kill(victim, number, &process, &link, lasting).await,
            4 => {
                world.fault("connection reset");
                link.reset();
            }
            5..=7 => {
                let (requests, replies, what) = match kind {
                    5 => (true, true, "link cut"),
                    6 => (true, false, "requests cut"),
                    _ => (false, true, "replies cut"),
                };
                world.fault(what);
                link.cut(Cut { requests, replies });
                world.clock.sleep(lasting * 2).await;
                link.cut(Cut::default());
                link.reset();
            }
            8 if self.servers.len() == 1 => {
                world.fault("store stalled");
                world.stall(lasting);
            }
            8 => {
                world.fault("member stalled");
                let member = world.draw(|random| random.place(self.servers.len()));
                self.servers[member].stall(lasting * 4);
            }
            _ => self.freeze(&process, lasting, "process frozen").await,
        }
    }

    async fn freeze(&self, process: &Process, lasting: Duration, what: &'static str) {
        if process.is_running() {
            self.world.fault(what);
            process.freeze();
            self.world.clock.sleep(lasting).await;
            process.thaw();
        }
    }

    /// Kills a process; the store notices within a ttl, and a new one takes its place.
    async fn kill(
        &self,
        victim: usize,
        number: u64,
        process: &Process,
        link: &Arc<Link>,
        lasting: Duration,
    ) {
        let world = &self.world;
        if process.is_killed() {
            return;
        }
        world.fault("process killed");
        process.kill();
        world.killed(number);
        let (link, clock, ttl) = (Arc::clone(link), world.clock.clone(), world.weather.ttl);
        tokio::spawn(async move {
            clock.sleep(ttl).await;
            link.end();
        });
        world.clock.sleep(lasting).await;
        self.replace(victim);
    }

    /// A new process in place of one that was killed, unless there is one already.
    fn replace(&self, place: usize) {
        if self.running()[place].process.is_killed() {
            let incarnation = self.incarnation();
            self.running()[place] = incarnation;
        }
    }

    /// Ends all faults, and waits until every worker has been granted every name once more.
    pub(super) async fn heal(&self) {
        self.world.calm_down();
        let mut workers = Vec::new();
        for place in 0..self.world.weather.processes {
            self.replace(place);
            let running = &mut self.running()[place];
            running.link.cut(Cut::default());
            running.link.reset();
            running.process.thaw();
            workers.append(&mut running.workers);
        }
        let limit = self.world.weather.ttl * 2000;
        let all = async {
            for worker in workers {
                if let Err(error) = worker.await {
                    self.world.wrong(&format!("a worker ended: {error}"));
                }
            }
        };
        if tokio::time::timeout(limit, all).await.is_err() {
            self.world.wrong("a worker waits for ever");
        }
    }

    /// Closes every client, and looks for what is left in the store.
    pub(super) async fn close(&self) {
        let world = &self.world;
        let ttl = world.weather.ttl;
        let locks: Vec<Locks> = self.running().iter().map(|one| one.locks.clone()).collect();
        for locks in locks {
            if let Err(error) = locks.close(ttl * 4).await {
                world.wrong(&format!("a client does not close in calm: {error}"));
            }
        }
        let semaphore = self.semaphore.iter().map(|semaphore| &semaphore.name);
        for name in self.resources.iter().map(|(name, _)| name).chain(semaphore) {
            for server in &*self.servers {
                self.nothing_left(server, name).await;
            }
        }
    }

    async fn nothing_left(&self, server: &Server, name: &LockName) {
        let (world, ttl) = (&self.world, self.world.weather.ttl);
        let Some(operator) = server.store.operator() else { return };
        let mut left = None;
        // What arrived after its withdrawal, or was granted to the dead, ends by its ttl; a
        // message is held for at most three of them.
        let end = world.clock.now().saturating_add(ttl * 4 + call_limit(ttl));
        while world.clock.now() < end {
            let seen = operator.inspect(name).await.ok();
            left = seen.filter(|seen| !seen.holders.is_empty() || seen.waiters != Some(0));
            if left.is_none() {
                break;
            }
            world.clock.sleep(ttl / 4).await;
        }
        if let Some(left) = left {
            world.wrong(&format!("something is left in the store: {left:?}"));
        }
    }
}
