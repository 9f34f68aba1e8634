//! Random clients under random faults: cancelled calls, dropped guards, mixed kinds and ttls, lost connections and
//! role changes. No two believe at once that exclude each other, a semaphore's limit is kept while it is changed, tokens
//! grow, and nothing is left.

mod permits;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lockkit_core::{Error, FencingToken, Guard, GuardWatch, Kind, Lock, Locks, Semaphore};
use testbed::{Connections, Fault, Link, RedisServer, Way, timing};
use tokio::task::JoinSet;

use crate::common::{by, join, ms, report};
use crate::roles::{Failover, replicated};
use crate::scripts::chance::Chance;
use crate::scripts::seed;
use permits::Permits;

const CLIENTS: u64 = 3;
const TASKS: u64 = 12;
const NAMES: [&str; 3] = ["a", "b", "c"];
const TTLS: [Duration; 4] = [ms(400), ms(900), ms(2_000), ms(3_000)];

/// What all tasks share.
#[derive(Debug, Default)]
struct Seen {
    /// What was granted of each name.
    names: Mutex<HashMap<String, Name>>,
    /// What was granted of the semaphore.
    permits: Permits,
    grants: AtomicU64,
    shared: AtomicU64,
    counted: AtomicU64,
    /// Grants beside another that was believed in.
    together: AtomicU64,
    cancelled: AtomicU64,
    failed: AtomicU64,
    faults: AtomicU64,
    role_changes: AtomicU64,
}

/// What was granted of a name.
#[derive(Debug, Default)]
struct Name {
    /// The greatest tokens of exclusive and of shared grants.
    greatest: [Option<FencingToken>; 2],
    /// The last exclusive grant, or the shared ones since.
    latest: Vec<(Kind, GuardWatch)>,
}

impl Seen {
    /// Checks a grant of this kind against those before it.
    fn granted(&self, guard: &Guard, kind: Kind) {
        let mut names = self.names.lock().unwrap();
        // Told late, it may have ended: then it is no belief.
        if !guard.is_held() {
            return;
        }
        let name = names.entry(guard.name().as_str().to_owned()).or_default();
        let (is_shared, token) = (kind == Kind::Shared, guard.token());
        // Looked at last: a loss is final, so it was held at the look at the other one too.
        let believed: Vec<_> =
            name.latest.iter().filter(|(_, watch)| watch.is_held()).map(|it| it.0).collect();
        assert!(kind.admits(believed.iter().copied()), "{kind} of {}: {believed:?}", guard.name());
        let [exclusive, shared] = name.greatest;
        let before = if is_shared { exclusive } else { exclusive.max(shared) };
        assert!(before < Some(token), "{kind} of {}: {before:?} before {token}", guard.name());
        let greatest = &mut name.greatest[usize::from(is_shared)];
        *greatest = (*greatest).max(Some(token));
        name.latest.retain(|(kind, watch)| is_shared && *kind == Kind::Shared && watch.is_held());
        name.latest.push((kind, guard.watch()));
        Self::count(&self.grants);
        if is_shared {
            Self::count(&self.shared);
        }
        if !believed.is_empty() {
            Self::count(&self.together);
        }
    }

    /// Whether there were so many grants, and a fault for each fifty of them, some of them role changes.
    fn is_enough(&self, grants: u64) -> bool {
        Self::of(&self.grants) >= grants
            && Self::of(&self.faults) >= grants / 50
            && Self::of(&self.role_changes) >= grants / 300
    }

    fn count(count: &AtomicU64) {
        count.fetch_add(1, Ordering::SeqCst);
    }

    fn of(count: &AtomicU64) -> u64 {
        count.load(Ordering::SeqCst)
    }
}

/// What a task asks for.
enum Wanted {
    Lock(Lock),
    Permit(Semaphore),
}

impl Wanted {
    fn new(locks: &Locks, kind: Kind, chance: &mut Chance) -> Self {
        let (name, ttl) = (NAMES[chance.below(NAMES.len())], TTLS[chance.below(TTLS.len())]);
        match kind {
            // One, so that its permits are fewer than those who ask.
            Kind::Counted => Self::Permit(locks.semaphore(NAMES[0], permits::LEAST).ttl(ttl)),
            Kind::Shared => Self::Lock(locks.lock(name).ttl(ttl).shared()),
            _ => Self::Lock(locks.lock(name).ttl(ttl)),
        }
    }

    async fn try_acquire(&self) -> Result<Option<Guard>, Error> {
        match self {
            Self::Lock(lock) => lock.try_acquire().await,
            Self::Permit(semaphore) => semaphore.try_acquire().await,
        }
    }

    async fn acquire_within(&self, limit: Duration) -> Result<Guard, Error> {
        match self {
            Self::Lock(lock) => lock.acquire_within(limit).await,
            Self::Permit(semaphore) => semaphore.acquire_within(limit).await,
        }
    }

    async fn acquire(&self) -> Result<Guard, Error> {
        match self {
            Self::Lock(lock) => lock.acquire().await,
            Self::Permit(semaphore) => semaphore.acquire().await,
        }
    }
}

/// One call of a task; `None`: it was cancelled.
async fn call(wanted: &Wanted, chance: &mut Chance) -> Option<Result<Option<Guard>, Error>> {
    let wait = ms(chance.below(300) as u64 + 1);
    let (kind, leaves) = (chance.below(10), chance.percent(25).then(|| chance.below(25)));
    let asked = async {
        match kind {
            0..3 => wanted.try_acquire().await,
            3..6 => wanted.acquire_within(wait).await.map(Some),
            _ => wanted.acquire().await.map(Some),
        }
    };
    match leaves {
        Some(after) => tokio::time::timeout(ms(after as u64), asked).await.ok(),
        None => Some(asked.await),
    }
}

/// What a task does with a grant.
async fn hold(guard: Guard, chance: &mut Chance) {
    tokio::time::sleep(ms(chance.below(25) as u64)).await;
    if chance.percent(20) {
        drop(guard.renew().await);
    }
    match chance.below(10) {
        // Released in the background.
        0..3 => drop(guard),
        // A release that no caller waits for to the end.
        3 => drop(tokio::time::timeout(ms(1), guard.release()).await),
        _ => drop(guard.release().await),
    }
}

async fn task(locks: Locks, seen: Arc<Seen>, mut chance: Chance, grants: u64) {
    while !seen.is_enough(grants) {
        let kind = [Kind::Exclusive, Kind::Shared, Kind::Shared, Kind::Counted][chance.below(4)];
        let asked = seen.permits.asked();
        match call(&Wanted::new(&locks, kind, &mut chance), &mut chance).await {
            Some(Ok(Some(guard))) => {
                if kind == Kind::Counted {
                    seen.permits.granted(&guard, asked);
                    Seen::count(&seen.counted);
                } else {
                    seen.granted(&guard, kind);
                }
                hold(guard, &mut chance).await;
            }
            Some(Ok(None) | Err(Error::TimedOut { .. })) => {
                tokio::time::sleep(ms(chance.below(5) as u64)).await;
            }
            Some(Err(Error::Unavailable { .. })) => {
                Seen::count(&seen.failed);
                tokio::time::sleep(ms(chance.below(20) as u64)).await;
            }
            Some(Err(error)) => panic!("neither held nor an outage: {error}"),
            None => Seen::count(&seen.cancelled),
        }
    }
}

/// Makes faults until there were enough; gives the servers, the primary first.
async fn faults(
    links: &[Link],
    mut servers: [RedisServer; 2],
    seen: &Seen,
    mut chance: Chance,
    grants: u64,
) -> [RedisServer; 2] {
    while !seen.is_enough(grants) {
        tokio::time::sleep(ms(100 + chance.below(300) as u64)).await;
        Seen::count(&seen.faults);
        // Not the last one, which has no faults.
        let link = &links[chance.below(links.len() - 1)];
        let length = ms(20 + chance.below(400) as u64);
        match chance.below(10) {
            0..3 => link.reset().unwrap(),
            3 => link.fault_on(Connections::Existing, Way::ToClient, Fault::Blackhole),
            4 => link.fault_on(Connections::Existing, Way::ToServer, Fault::Hold),
            5 => link.fault(Way::Both, Fault::delay(ms(chance.below(30) as u64))),
            6 => link.refuse().unwrap(),
            7 => drop(servers[0].cli(&["SCRIPT", "FLUSH"]).unwrap()),
            _ => {
                let [primary, replica] = &servers;
                timing::until(ms(20_000), "a replica in step", || {
                    replica.info("master_link_status").unwrap() == "up"
                        && primary.info("connected_slaves").unwrap() == "1"
                })
                .await;
                let way = [Failover::Command, Failover::ByHand][chance.below(2)];
                way.run(primary, replica).await;
                servers.reverse();
                Seen::count(&seen.role_changes);
                for link in links {
                    // Each client's address leads on a little later than that of the one before.
                    tokio::time::sleep(ms(chance.below(100) as u64)).await;
                    link.lead_to(servers[0].address());
                }
            }
        }
        tokio::time::sleep(length).await;
        links.iter().for_each(|link| link.pass().unwrap());
    }
    servers
}

/// What is left in the server of names that were used.
fn left(server: &RedisServer) -> Vec<String> {
    let keys = server.cli(&["KEYS", "*"]).unwrap();
    let kept =
        |key: &String| [":t", ":d", ":p", ":pd", ":layout"].iter().any(|end| key.ends_with(end));
    keys.items().iter().filter_map(testbed::resp::Reply::text).filter(|key| !kept(key)).collect()
}

async fn fuzz(grants: u64, limit: Duration) {
    let (seed, began) = (seed(), Instant::now());
    println!("seed {seed}");
    let (primary, replica) = replicated().await;
    let (mut links, mut clients) = (Vec::new(), Vec::new());
    for _ in 0..CLIENTS {
        let link = Link::to_redis(primary.address()).unwrap();
        clients.push(join(link.port()).await);
        links.push(link);
    }
    let (seen, mut tasks) = (Arc::<Seen>::default(), JoinSet::new());
    for n in 0..TASKS {
        let locks = clients[(n % CLIENTS) as usize].clone();
        let chance = Chance::new(seed.wrapping_add(n + 1));
        tasks.spawn(task(locks, Arc::clone(&seen), chance, grants));
    }
    // Its link has no faults, and leads to the primary as the others do.
    let straight = Link::to_redis(primary.address()).unwrap();
    let resizes = join(straight.port()).await;
    let resizing = tokio::spawn({
        let (seen, resizes, chance) = (Arc::clone(&seen), resizes.clone(), Chance::new(!seed));
        async move { permits::resize(&resizes, &seen.permits, chance, || seen.is_enough(grants)).await }
    });
    links.push(straight);
    clients.push(resizes);
    let servers = [primary, replica];
    let made = faults(&links, servers, &seen, Chance::new(seed), grants);
    let [primary, _replica] = by(limit, "the grants", made).await;
    by(ms(20_000), "the last resize", resizing).await.unwrap();
    by(ms(20_000), "the end of the tasks", async {
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap_or_else(|error| panic!("LOCKKIT_SEED={seed}: {error}"));
        }
    })
    .await;
    for locks in clients {
        by(ms(10_000), "an end", locks.close(ms(8_000))).await.expect("everything cleaned up");
    }
    // A life, a reservation, and the longest ttl of what was granted to those who had left.
    timing::gone(ms(8_000), "what the clients left", async || left(&primary).is_empty()).await;
    let [granted, cancelled, failed, faults, changes] =
        [&seen.grants, &seen.cancelled, &seen.failed, &seen.faults, &seen.role_changes]
            .map(Seen::of);
    let [shared, together, counted] = [&seen.shared, &seen.together, &seen.counted].map(Seen::of);
    let (permits, resizes) = seen.permits.counts();
    report(&format!(
        "redis: fuzz in {:?}: {granted} grants, {shared} shared, {together} beside others, {counted} of permits, {permits} beside others, \
         {resizes} resizes, {cancelled} calls cancelled, {failed} failed, \
         {faults} faults, {changes} of them role changes",
        began.elapsed()
    ));
    assert!(cancelled > grants / 20, "{cancelled} calls were cancelled");
    assert!(together > grants / 50, "{together} grants beside others");
    assert!(permits > grants / 50, "{permits} of {counted} permits beside others");
    assert!(resizes > grants / 100, "{resizes} resizes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_thousand_random_grants_under_faults_and_role_changes_are_exclusive_and_leave_nothing() {
    fuzz(1_000, ms(120_000)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "it takes minutes: `cargo xtask soak` runs it"]
async fn five_thousand_random_grants_under_faults_and_role_changes_are_exclusive() {
    fuzz(5_000, ms(600_000)).await;
}
