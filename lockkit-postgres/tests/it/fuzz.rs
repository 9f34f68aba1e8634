//! Random clients of both strategies: what each believed, judged by one clock. Under the table the server crashes.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::future::join_all;
use lockkit_core::{
    Applied, Clock, Error, FencingToken, Grant, Instant, LockName, LockProvider, Request, Result,
};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use testbed::{Data, PostgresServer};

use crate::common::{ALONE, SLACK, advisory, config, count, ms, until};

const TTL: Duration = ms(900);
const CLIENTS: u64 = 10;
const NAMES: u64 = 4;

/// For how long a client believed that it held a name.
#[derive(Clone, Debug)]
struct Belief {
    name: u64,
    token: FencingToken,
    from: Instant,
    until: Instant,
}

/// A sequence that follows from its seed.
struct Sequence(u64);

impl Sequence {
    fn below(&mut self, end: u64) -> u64 {
        // Source: Steele and others, "Fast splittable pseudorandom number generators" (SplitMix64).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// What one client does until the end.
async fn client(
    number: u64,
    config: PostgresConfig,
    end: Instant,
    beliefs: Arc<Mutex<Vec<Belief>>>,
) {
    let provider = PostgresProvider::connect(config).await.unwrap();
    let (clock, mut random) = (Clock::system(), Sequence(number));
    while clock.now() < end {
        let name = random.below(NAMES);
        let lock = LockName::new(format!("fuzz/{name}")).unwrap();
        let request = Request::new(lock, TTL, clock.clone()).unwrap();
        let waits = random.below(4) > 0;
        let limit = ms([30, 300, 3_000][usize::try_from(random.below(3)).unwrap()]);
        let asked = async {
            if waits {
                provider.acquire(&request).await.map(Some)
            } else {
                provider.try_acquire(&request).await
            }
        };
        let Ok(asked) = tokio::time::timeout(limit, asked).await else {
            // It leaves: what is granted meanwhile is given back.
            provider.withdraw(&request).await.ok();
            continue;
        };
        match asked {
            Ok(Some(grant)) => {
                let held = hold(&provider, &request, grant, &mut random).await;
                let believed = held.map(|(token, from, until)| Belief { name, token, from, until });
                beliefs.lock().unwrap().extend(believed);
            }
            Ok(None) => {}
            // The server is away.
            Err(Error::Unavailable { .. }) => {
                provider.withdraw(&request).await.ok();
                clock.sleep(ms(20)).await;
            }
            Err(error) => panic!("{error}"),
        }
    }
    provider.close().await.unwrap();
}

/// Holds for a while and ends in some way; from when until when the client believed.
async fn hold(
    provider: &PostgresProvider,
    request: &Request,
    grant: Grant,
    random: &mut Sequence,
) -> Option<(FencingToken, Instant, Instant)> {
    let clock = request.clock();
    let ends = |grant: &Grant| grant.term.sent.saturating_add(grant.term.ttl.unwrap());
    let (token, from, mut until) = (grant.token, clock.now(), ends(&grant));
    if from >= until {
        return None;
    }
    let mut lease = grant.lease;
    for _ in 0..random.below(3) {
        clock.sleep(ms(random.below(60))).await;
        if random.below(4) == 0 {
            // The same request once more: the same grant, or none.
            if let Ok(Some(again)) = provider.try_acquire(request).await {
                if again.token != token {
                    // Its first grant had ended: this is one of its own, and is given back.
                    assert!(
                        again.token > token && clock.now() >= until,
                        "{token}, {}",
                        again.token
                    );
                    again.lease.release().await.ok();
                    return Some((token, from, until));
                }
                until = until.max(ends(&again));
                lease = again.lease;
            }
        } else if let Ok(term) = lease.renew().await {
            until = until.max(term.sent.saturating_add(term.ttl.unwrap()));
        }
    }
    let believed = |until: Instant| Some((token, from, until));
    match random.below(10) {
        // It dies, or stands still for longer than its term.
        0 => {
            clock.sleep(TTL).await;
            believed(until)
        }
        1 => {
            let left = clock.now().min(until);
            given_back(&provider.withdraw(request).await);
            believed(left)
        }
        _ => {
            let left = clock.now().min(until);
            given_back(&lease.release().await);
            believed(left)
        }
    }
}

fn given_back(answer: &Result<()>) {
    let is_known = match answer {
        Ok(()) | Err(Error::Lost { .. }) => true,
        Err(Error::Unavailable { applied, .. }) => matches!(applied, Applied::Maybe | Applied::No),
        Err(_) => false,
    };
    assert!(is_known, "{answer:?}");
}

/// Has the clients work for so long, on a server that crashes so many times; how many grants there were.
async fn fuzz(server: &PostgresServer, strategy: Strategy, lasts: Duration, crashes: u32) -> usize {
    let clock = Clock::system();
    let end = clock.now().saturating_add(lasts);
    let beliefs = Arc::<Mutex<Vec<Belief>>>::default();
    let start = |number| client(number, config(&server.url(), strategy), end, Arc::clone(&beliefs));
    let work: Vec<_> = (0..CLIENTS).map(|number| tokio::spawn(start(number))).collect();
    for _ in 0..crashes {
        tokio::time::sleep(lasts / (crashes + 1)).await;
        server.kill().unwrap();
        server.restart(Data::Kept).unwrap();
    }
    for ended in join_all(work).await {
        ended.unwrap();
    }
    let mut beliefs = std::mem::take(&mut *beliefs.lock().unwrap());
    beliefs.sort_by_key(|belief| (belief.name, belief.token));
    println!("{} grants", beliefs.len());
    for pair in beliefs.windows(2).filter(|pair| pair[0].name == pair[1].name) {
        let [first, second] = pair else { unreachable!() };
        assert!(first.token < second.token, "{first:?} and {second:?}");
        assert!(first.until <= second.from, "two believed: {first:?} and {second:?}");
    }
    beliefs.len()
}

/// Waits until no row of a client that lives is left.
async fn no_row_is_left(server: &PostgresServer) {
    let rows = "SELECT count(*) FROM lockkit.waiter w JOIN lockkit.client c ON c.id = w.client \
        WHERE c.last_seen + c.life * interval '1 ms' > clock_timestamp()";
    until(TTL * 4 + SLACK, "no waiter is left", || count(server, rows) == 0).await;
    let held = "SELECT count(*) FROM lockkit.lease WHERE expires_at > clock_timestamp()";
    until(TTL * 4 + SLACK, "no holder is left", || count(server, held) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_of_a_server_that_crashes_never_believe_two_at_once() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    let grants = fuzz(&server, Strategy::Table, ms(14_000), 2).await;
    assert!(grants > 50, "{grants} grants show little");
    no_row_is_left(&server).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn random_clients_of_advisory_locks_never_believe_two_at_once() {
    let _alone = ALONE.lock().await;
    let server = PostgresServer::start().unwrap();
    let grants = fuzz(&server, Strategy::Advisory, ms(8_000), 0).await;
    assert!(grants > 50, "{grants} grants show little");
    until(TTL * 4 + SLACK, "no lock is left", || advisory(&server) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "10 minutes or more; `cargo xtask soak` runs it"]
async fn ten_thousand_grants_of_each_strategy_never_overlap() {
    let _alone = ALONE.lock().await;
    for (strategy, crashes) in [(Strategy::Table, 4), (Strategy::Advisory, 0)] {
        let server = PostgresServer::start().unwrap();
        let mut grants = 0;
        while grants < 10_000 {
            grants += fuzz(&server, strategy, Duration::from_secs(60), crashes).await;
        }
        match strategy {
            Strategy::Table => no_row_is_left(&server).await,
            _ => until(TTL * 4 + SLACK, "no lock is left", || advisory(&server) == 0).await,
        }
    }
}
