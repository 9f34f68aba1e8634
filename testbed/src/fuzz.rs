//! Random clients of a store: what each believed, judged by one clock, while its server or its link fails.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use lockkit_core::{
    Clock, Error, FencingToken, Grant, Instant, Kind, LockName, LockProvider, Request, Result, Term,
};
use tokio::task::JoinSet;

/// Starts the names of a fuzz.
pub const PREFIX: &str = "fuzz/";
/// How long a client rests after a call that failed.
const REST: Duration = Duration::from_millis(20);
/// A fuzz that has not come to its grants by then has shown that the store stands still.
const LIMIT: Duration = Duration::from_secs(600);

/// What random clients do.
#[derive(Clone, Copy, Debug)]
pub struct Fuzz {
    /// How many clients, each with a provider of its own.
    pub clients: u64,
    /// For how many names they contend.
    pub names: u64,
    /// The ttls of their requests.
    pub ttls: [Duration; 2],
    /// After so many grants they stop.
    pub grants: usize,
}

impl Default for Fuzz {
    fn default() -> Self {
        let ttls = [Duration::from_millis(900), Duration::from_millis(2_000)];
        Self { clients: 10, names: 6, ttls, grants: 1_000 }
    }
}

/// For how long a client believed that it held a name.
#[derive(Clone, Debug)]
struct Belief {
    name: u64,
    kind: Kind,
    token: FencingToken,
    from: Instant,
    until: Instant,
}

/// What the clients have had so far.
#[derive(Debug, Default)]
struct Beliefs {
    all: Mutex<Vec<Belief>>,
    grants: AtomicUsize,
}

impl Beliefs {
    fn push(&self, belief: Belief) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).push(belief);
        self.grants.fetch_add(1, Ordering::Relaxed);
    }
}

/// A sequence that follows from its seed.
#[derive(Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// The sequence of this seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number, below `end`.
    pub const fn below(&mut self, end: u64) -> u64 {
        // Source: Steele and others, "Fast splittable pseudorandom number generators" (SplitMix64).
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

impl Fuzz {
    /// Has the clients work until they have had their grants, and the `fault` of each round happen meanwhile.
    ///
    /// # Panics
    /// Where two clients believed at once that may not, where a token is not greater than an earlier one of its name
    /// that it excludes, where a call fails with anything but `Unavailable`, and where the grants do not come.
    pub async fn run<P, C>(
        &self,
        connect: impl Fn(u64) -> C,
        mut fault: impl AsyncFnMut(usize),
    ) -> usize
    where
        P: LockProvider,
        C: Future<Output = Result<P>> + Send + 'static,
    {
        let beliefs = Arc::<Beliefs>::default();
        let mut clients = JoinSet::new();
        for number in 0..self.clients {
            let (fuzz, connecting, beliefs) = (*self, connect(number), Arc::clone(&beliefs));
            clients.spawn(async move {
                let provider = connecting.await.expect("the store is there at first");
                let client = Client { fuzz, number, provider: Arc::new(provider), beliefs };
                client.work().await;
            });
        }
        let work = async {
            while let Some(ended) = clients.join_next().await {
                ended.expect("a client failed");
            }
        };
        let faults = async {
            for round in 0.. {
                fault(round).await;
            }
        };
        tokio::select! {
            () = work => {}
            () = faults => {}
        }
        let all = std::mem::take(&mut *beliefs.all.lock().unwrap_or_else(PoisonError::into_inner));
        judge(all)
    }
}

/// Checks that no two believed at once that exclude each other, and that their tokens grow; how many grants there were.
fn judge(mut all: Vec<Belief>) -> usize {
    all.sort_by_key(|belief| (belief.name, belief.from));
    let mut together = 0;
    for of_name in all.chunk_by(|one, next| one.name == next.name) {
        // Of those so far: the one that was believed longest, and the one with the greatest token, of each kind.
        let mut so_far: HashMap<Kind, [&Belief; 2]> = HashMap::new();
        for belief in of_name {
            for (kind, [longest, greatest]) in &so_far {
                if belief.kind.admits([*kind]) {
                    together += usize::from(longest.until > belief.from);
                    continue;
                }
                assert!(longest.until <= belief.from, "two believed: {longest:?} and {belief:?}");
                assert!(greatest.token < belief.token, "{greatest:?} and {belief:?}");
            }
            let [longest, greatest] = so_far.entry(belief.kind).or_insert([belief; 2]);
            *longest = if belief.until > longest.until { belief } else { longest };
            *greatest = if belief.token > greatest.token { belief } else { greatest };
        }
    }
    let shared = all.iter().filter(|belief| belief.kind == Kind::Shared).count();
    println!("{} grants, {shared} of them shared, {together} beside another", all.len());
    assert!(together >= shared / 20, "few of the shared grants were held together");
    all.len()
}

struct Client<P> {
    fuzz: Fuzz,
    number: u64,
    provider: Arc<P>,
    beliefs: Arc<Beliefs>,
}

impl<P: LockProvider> Client<P> {
    async fn work(&self) {
        let (clock, mut random) = (Clock::system(), Sequence(self.number));
        let end = clock.now().saturating_add(LIMIT);
        let shares = self.provider.guarantees().kinds.contains(&Kind::Shared);
        while self.beliefs.grants.load(Ordering::Relaxed) < self.fuzz.grants {
            assert!(clock.now() < end, "the grants did not come within {LIMIT:?}");
            let name = random.below(self.fuzz.names);
            let lock = LockName::new(format!("{PREFIX}{name}")).expect("a name");
            let ttl = self.fuzz.ttls[usize::from(random.below(2) == 0)];
            let is_shared = shares && random.below(2) == 0;
            let kind = if is_shared { Kind::Shared } else { Kind::Exclusive };
            let request = Request::new(lock, ttl, clock.clone()).expect("random numbers");
            let request = request.with_kind(kind);
            match self.ask(&request, &mut random).await {
                Some(Ok(Some(grant))) => {
                    if let Some(belief) = self.hold(name, &request, grant, &mut random).await {
                        self.beliefs.push(belief);
                    }
                }
                Some(Ok(None)) => {}
                // It left, or the server is away: what is granted meanwhile is given back.
                failed => {
                    self.provider.withdraw(&request).await.ok();
                    if failed.is_some() {
                        clock.sleep(REST).await;
                    }
                }
            }
        }
        self.provider.close().await.ok();
    }

    /// Asks for the name, at once or in the queue, and leaves after a while; `None`: it left.
    async fn ask(&self, request: &Request, random: &mut Sequence) -> Option<Result<Option<Grant>>> {
        let (waits, is_aborted) = (random.below(4) > 0, random.below(4) == 0);
        let limit = Duration::from_millis([30, 300, 3_000][below_three(random)]);
        let (provider, asked) = (Arc::clone(&self.provider), request.clone());
        let call = async move {
            match waits {
                true => provider.acquire(&asked).await.map(Some),
                false => provider.try_acquire(&asked).await,
            }
        };
        let answer = if is_aborted {
            // Its task is aborted, wherever it stands.
            let mut task = tokio::spawn(call);
            match tokio::time::timeout(limit, &mut task).await {
                Ok(answer) => Some(answer.expect("a call panicked")),
                Err(_) => {
                    task.abort();
                    task.await.ok().filter(Result::is_ok)
                }
            }
        } else {
            tokio::time::timeout(limit, call).await.ok()
        };
        if let Some(Err(error)) = &answer {
            assert!(matches!(error, Error::Unavailable { .. }), "{error}");
        }
        answer
    }

    /// Holds for a while and ends in some way; from when until when the client believed.
    async fn hold(
        &self,
        name: u64,
        request: &Request,
        grant: Grant,
        random: &mut Sequence,
    ) -> Option<Belief> {
        let (clock, kind) = (request.clock(), request.kind());
        let (token, from, mut until) = (grant.token, clock.now(), end_of(grant.term));
        let expires = grant.term.ttl.is_some();
        if from >= until {
            return None;
        }
        let believed = |until| Some(Belief { name, kind, token, from, until });
        let mut lease = grant.lease;
        for _ in 0..random.below(3) {
            clock.sleep(Duration::from_millis(random.below(40))).await;
            if random.below(4) > 0 {
                if let Ok(term) = lease.renew().await {
                    until = until.max(end_of(term));
                }
            } else if let Ok(Some(again)) = self.provider.try_acquire(request).await {
                // The same request once more: the same grant, or one of its own once that had ended.
                if again.token != token {
                    let is_later = again.token > token && clock.now() >= until;
                    assert!(is_later, "{token} until {until:?}, and a replay got {}", again.token);
                    again.lease.release().await.ok();
                    return believed(until);
                }
                until = until.max(end_of(again.term));
                lease = again.lease;
            }
        }
        match random.below(20) {
            // It dies, or stands still for longer than its term.
            0 if expires => clock.sleep(request.ttl()).await,
            1 => {
                until = until.min(clock.now());
                is_an_end(&self.provider.withdraw(request).await);
            }
            _ => {
                until = until.min(clock.now());
                is_an_end(&lease.release().await);
            }
        }
        believed(until)
    }
}

fn below_three(random: &mut Sequence) -> usize {
    usize::try_from(random.below(3)).unwrap_or_default()
}

/// Until when a holder believes in this term.
fn end_of(term: Term) -> Instant {
    term.sent.saturating_add(term.ttl.unwrap_or(LIMIT))
}

fn is_an_end(answer: &Result<impl Debug>) {
    let is_known = matches!(answer, Ok(_) | Err(Error::Lost { .. } | Error::Unavailable { .. }));
    assert!(is_known, "{answer:?}");
}

/// Waits until the store shows nothing of a fuzz to an operator.
///
/// # Panics
/// Where something is left after `limit`.
pub async fn nothing_is_left(provider: &impl LockProvider, limit: Duration) {
    let operator = provider.operator().expect("an operator");
    let is_gone = async || {
        let left = operator.list(PREFIX, None, 100).await;
        if left.as_ref().is_ok_and(Vec::is_empty) {
            return true;
        }
        println!("left: {left:?}");
        tokio::time::sleep(Duration::from_millis(90)).await;
        false
    };
    crate::timing::gone(limit, "what a fuzz left", is_gone).await;
}
