//! A quorum of memory stores: what becomes of it when members fail, forget a grant, or never answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use lockkit_core::{
    Clock, Error, Exclusion, FencingToken, Grant, Guarantees, LockName, LockProvider, Locks,
    LossReason, Memory, Operator, Quorum, Request, Result, async_trait,
};
use tokio::sync::watch;

const TTL: Duration = Duration::from_secs(15);

/// A member's client whose calls get no answer while it is frozen; what they ask is done when it thaws.
#[derive(Debug)]
struct Freezing {
    memory: Memory,
    frozen: watch::Sender<bool>,
    /// How many calls it was asked.
    calls: AtomicUsize,
}

impl Freezing {
    fn new(memory: &Memory) -> Arc<Self> {
        let (frozen, calls) = (watch::Sender::new(false), AtomicUsize::new(0));
        Arc::new(Self { memory: memory.clone(), frozen, calls })
    }

    fn freeze(&self, is_frozen: bool) {
        self.frozen.send_replace(is_frozen);
    }

    async fn answers(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
        self.frozen.subscribe().wait_for(|frozen| !frozen).await.unwrap();
    }
}

#[async_trait]
impl LockProvider for Freezing {
    fn guarantees(&self) -> Guarantees {
        self.memory.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.answers().await;
        self.memory.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.answers().await;
        self.memory.acquire(request).await
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.answers().await;
        self.memory.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        None
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}

/// So many stores, and a client of each.
struct Stores {
    stores: Vec<Memory>,
}

impl Stores {
    fn new(number: usize) -> Self {
        Self { stores: (0..number).map(|_| Memory::new()).collect() }
    }

    fn locks(&self) -> Locks {
        let members = self.stores.iter().map(|store| Arc::new(store.clone()) as _);
        locks_of(members.collect())
    }

    fn freezing(&self) -> (Locks, Vec<Arc<Freezing>>) {
        let clients: Vec<_> = self.stores.iter().map(Freezing::new).collect();
        let members = clients.iter().map(|client| Arc::clone(client) as _);
        (locks_of(members.collect()), clients)
    }

    /// The tokens of the holders of a name, by store.
    async fn holders(&self, name: &str) -> Vec<Option<FencingToken>> {
        let mut holders = Vec::new();
        for store in &self.stores {
            let seen = store.inspect(&LockName::new(name).unwrap()).await.unwrap();
            holders.push(seen.holders.first().and_then(|holder| holder.token));
        }
        holders
    }

    async fn is_empty(&self, name: &str) -> bool {
        for store in &self.stores {
            let seen = store.inspect(&LockName::new(name).unwrap()).await.unwrap();
            if !seen.holders.is_empty() || seen.waiters != Some(0) {
                return false;
            }
        }
        true
    }

    async fn is_soon_empty(&self, name: &str) {
        let end = tokio::time::Instant::now() + TTL;
        while !self.is_empty(name).await {
            assert!(tokio::time::Instant::now() < end, "{:?}", self.holders(name).await);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

fn locks_of(members: Vec<Arc<dyn LockProvider>>) -> Locks {
    Locks::builder().clock(Clock::tokio()).ttl(TTL).build(Quorum::new(members).unwrap())
}

#[test]
fn a_wrong_set_of_members_is_refused_with_what_to_do() {
    let memory = || Arc::new(Memory::new()) as Arc<dyn LockProvider>;
    let of = |members: Vec<_>| Quorum::new(members).map(drop);
    for number in [0, 1, 2, 4, 11] {
        let refused = of((0..number).map(|_| memory()).collect());
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{number}: {refused:?}");
    }
    let one = memory();
    let twice = of(vec![memory(), Arc::clone(&one), one]);
    assert!(matches!(twice, Err(Error::Invalid { .. })), "{twice:?}");
    for number in [3, 5, 7, 9] {
        let guarantees = Quorum::new((0..number).map(|_| memory())).unwrap().guarantees();
        assert_eq!(guarantees.exclusion, Exclusion::QuorumAndClocks);
        assert!(!guarantees.belief_breaks_on.is_empty() && !guarantees.token_survives.data_loss);
    }
}

#[tokio::test(start_paused = true)]
async fn all_members_grant_the_same_token_and_need_no_write_back() {
    let (stores, mut last) = (Stores::new(5), None);
    for locks in [stores.locks(), stores.locks()] {
        for _ in 0..10 {
            let guard = locks.lock("a").acquire().await.unwrap();
            assert!(Some(guard.token()) > last);
            last = Some(guard.token());
            tokio::task::yield_now().await;
            assert_eq!(stores.holders("a").await, [last; 5]);
            guard.release().await.unwrap();
        }
    }
    assert!(stores.is_empty("a").await);
}

#[tokio::test(start_paused = true)]
async fn members_whose_counters_differ_are_raised_to_one_token() {
    let stores = Stores::new(3);
    // A counter far above every client's hint.
    let far = FencingToken::new(1 << 60).unwrap();
    let request = Request::new("a".parse().unwrap(), TTL, Clock::tokio()).unwrap();
    let ahead = stores.stores[1].try_acquire(&request.with_token_floor(far)).await.unwrap();
    ahead.unwrap().lease.release().await.unwrap();
    let guard = stores.locks().lock("a").acquire().await.unwrap();
    assert!(guard.token() > far);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(stores.holders("a").await, [Some(guard.token()); 3]);
    let token = guard.token();
    guard.release().await.unwrap();
    let next = stores.locks().lock("a").acquire().await.unwrap();
    assert!(next.token() > token);
}

#[tokio::test(start_paused = true)]
async fn two_members_of_five_that_never_answer_hold_nothing_up() {
    let stores = Stores::new(5);
    let (locks, members) = stores.freezing();
    members[..2].iter().for_each(|member| member.freeze(true));
    let lock = locks.lock("a");
    let guard = lock.acquire().await.unwrap();
    let waits = tokio::spawn(lock.acquire());
    // Held for long, and renewed by the three.
    tokio::time::sleep(TTL * 4).await;
    assert!(guard.is_held() && !waits.is_finished());
    assert!(lock.try_acquire().await.unwrap().is_none());
    let first = guard.token();
    guard.release().await.unwrap();
    let guard = waits.await.unwrap().unwrap();
    assert!(guard.token() > first);
    let asked: Vec<_> = members.iter().map(|member| member.calls.load(Ordering::SeqCst)).collect();
    // A silent member is asked whether it answers, about once a second, and for nothing else.
    members[..2].iter().for_each(|member| member.freeze(false));
    tokio::time::sleep(TTL).await;
    assert!(guard.is_held(), "{asked:?}");
    // Those that are back are taken in the background.
    assert!(stores.holders("a").await.iter().all(Option::is_some));
    guard.release().await.unwrap();
    stores.is_soon_empty("a").await;
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_there_is_an_error_within_the_limit_and_nothing_is_left() {
    let stores = Stores::new(5);
    let (locks, members) = stores.freezing();
    members[..3].iter().for_each(|member| member.freeze(true));
    let limit = Duration::from_secs(7);
    let asked = tokio::time::Instant::now();
    let error = locks.lock("a").acquire_within(limit).await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    assert!(asked.elapsed() < limit + Duration::from_secs(1), "{:?}", asked.elapsed());
    let error = locks.lock("a").try_acquire().await.unwrap_err();
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    // What was asked of them is done now: it must not stay.
    members[..3].iter().for_each(|member| member.freeze(false));
    tokio::time::sleep(TTL + Duration::from_secs(3)).await;
    assert!(stores.is_empty("a").await, "{:?}", stores.holders("a").await);
    locks.lock("a").acquire().await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_member_that_forgets_the_grant_lets_no_other_in_and_is_taken_again() {
    let stores = Stores::new(5);
    let locks = stores.locks();
    let guard = locks.lock("a").acquire().await.unwrap();
    for jumped in [0, 3] {
        stores.stores[jumped].expire("a");
    }
    let other = stores.locks();
    assert!(other.lock("a").try_acquire().await.unwrap().is_none());
    tokio::time::sleep(TTL).await;
    assert!(guard.is_held());
    assert!(stores.holders("a").await.iter().all(Option::is_some), "taken again");
    // One more than can be missed at once.
    for jumped in 0..3 {
        stores.stores[jumped].expire("a");
    }
    assert_eq!(guard.lost().await, LossReason::Removed);
    let next = other.lock("a").acquire().await.unwrap();
    assert!(next.token() > guard.token());
    drop(guard);
    next.release().await.unwrap();
    stores.is_soon_empty("a").await;
}

#[tokio::test(start_paused = true)]
async fn a_revocation_is_not_undone_by_the_holder() {
    let stores = Stores::new(5);
    let (locks, operator) = (stores.locks(), stores.locks());
    let guard = locks.lock("a").acquire().await.unwrap();
    tokio::time::sleep(Duration::from_millis(10)).await;
    let seen = operator.lock("a").inspect().await.unwrap();
    assert_eq!(seen.holders[0].token, Some(guard.token()));
    assert!(operator.lock("a").revoke(guard.token()).await.unwrap());
    assert_eq!(guard.lost().await, LossReason::Revoked);
    stores.is_soon_empty("a").await;
    tokio::time::sleep(TTL).await;
    assert!(stores.is_empty("a").await, "{:?}", stores.holders("a").await);
}

/// Queues on all members would deadlock where each client heads some of them.
#[tokio::test(start_paused = true)]
async fn many_that_begin_at_once_are_all_granted_and_the_tokens_grow() {
    const CLIENTS: usize = 5;
    const GRANTS: usize = 300;
    let stores = Arc::new(Stores::new(5));
    let (last, all) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut clients = Vec::new();
    let seeds = Arc::new(AtomicU64::new(0));
    for _ in 0..CLIENTS {
        // The members' answers take uneven times, so that their queues differ.
        let members = stores.stores.iter().map(|store| Slow::new(store, &seeds) as _);
        let locks = locks_of(members.collect());
        let (last, all) = (Arc::clone(&last), Arc::clone(&all));
        clients.push(tokio::spawn(async move {
            let (mut own, mut longest) = (0, Duration::ZERO);
            while all.load(Ordering::SeqCst) < GRANTS {
                let asked = tokio::time::Instant::now();
                let guard = locks.lock("a").acquire_within(TTL * 10).await.unwrap();
                longest = longest.max(asked.elapsed());
                let token = guard.token().as_u64();
                assert!(last.swap(token, Ordering::SeqCst) < token, "a smaller token came later");
                tokio::time::sleep(Duration::from_millis(10)).await;
                own += 1;
                all.fetch_add(1, Ordering::SeqCst);
                guard.release().await.unwrap();
            }
            (own, longest)
        }));
    }
    for client in clients {
        let (own, longest) = client.await.unwrap();
        assert!(own > GRANTS / CLIENTS / 10, "one was granted {own} times only");
        assert!(longest < TTL, "one waited for {longest:?}");
    }
    stores.is_soon_empty("a").await;
}

/// A member whose answers take up to 4 ms each way, in an order that follows from its seed.
#[derive(Debug)]
struct Slow {
    memory: Memory,
    drawn: AtomicU64,
}

impl Slow {
    fn new(memory: &Memory, seeds: &AtomicU64) -> Arc<Self> {
        let seed = seeds.fetch_add(1 << 32, Ordering::SeqCst);
        Arc::new(Self { memory: memory.clone(), drawn: AtomicU64::new(seed) })
    }

    async fn delay(&self) {
        // The generator splitmix64.
        let drawn = self.drawn.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst);
        let mixed = (drawn ^ (drawn >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        tokio::time::sleep(Duration::from_micros((mixed >> 56) * 16)).await;
    }
}

#[async_trait]
impl LockProvider for Slow {
    fn guarantees(&self) -> Guarantees {
        self.memory.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        self.delay().await;
        self.memory.try_acquire(request).await
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        self.delay().await;
        let grant = self.memory.acquire(request).await;
        self.delay().await;
        grant
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.delay().await;
        self.memory.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.memory.operator()
    }

    async fn close(&self) -> Result<()> {
        Ok(())
    }
}
