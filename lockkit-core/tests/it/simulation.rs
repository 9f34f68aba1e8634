//! Level 2: the memory store and the driver in virtual time, with faults that follow from seeds.
//!
//! Each run takes new seeds. A seed that failed runs alone with
//! `LOCKKIT_SEED=7 cargo test -p lockkit-core --features conformance --test it -- simulation::days`,
//! and with every event printed by the example `simulate`. `LOCKKIT_DAYS=365` lasts longer.

#[expect(dead_code, reason = "the simulation uses a part of the broken stores")]
#[path = "../broken"]
mod broken {
    pub(crate) mod attempt_flaws;
    pub(crate) mod client;
    pub(crate) mod end_flaws;
    pub(crate) mod entry;
    pub(crate) mod flaw;
    pub(crate) mod habits;
    pub(crate) mod handed_on;
    pub(crate) mod link;
    pub(crate) mod linked;
    pub(crate) mod rule_flaws;
    pub(crate) mod rules;
    pub(crate) mod shared_flaws;
    pub(crate) mod store;
    pub(crate) mod term_flaws;
    pub(crate) mod twist;
    pub(crate) mod wait_flaws;
}

use std::any::Any;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use broken::attempt_flaws::attempt_flaws;
use broken::flaw::{Flaw, SmallFixture};
use broken::rule_flaws::RULE_FLAWS;
use broken::shared_flaws::shared_flaws;
use broken::term_flaws::term_flaws;
use futures_util::FutureExt;
use lockkit_core::conformance::simulation::{Failure, Simulation, Tally};
use lockkit_core::conformance::{Fixture, Time};
use lockkit_core::{
    Clock, FencingToken, Grant, Guarantees, Lease, LockProvider, LossReason, Operator, Request,
    Result, Term, async_trait,
};

/// How many days of new seeds run, unless `LOCKKIT_DAYS` says.
const DAYS: u64 = 5;
const DAY: Duration = Duration::from_secs(24 * 3600);

/// How to see what a seed does.
const ALONE: &str = "cargo run -p lockkit-core --features conformance --example simulate --";

fn number(variable: &str) -> Option<u64> {
    let value = std::env::var(variable).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{variable}={value:?} is not a number")))
}

fn cores() -> usize {
    thread::available_parallelism().map_or(1, Into::into)
}

#[test]
fn days_of_faults_break_nothing_that_is_promised() {
    let simulation = Simulation::of_memory();
    let started = Instant::now();
    let run = match number("LOCKKIT_SEED") {
        Some(seed) => simulation.run(seed),
        None => {
            // Room for the seeds after the first one.
            let first = RandomState::new().hash_one(0) >> 8;
            println!("seeds from {first} on");
            let days = u32::try_from(number("LOCKKIT_DAYS").unwrap_or(DAYS)).expect("days");
            simulation.campaign(first, DAY * days, cores())
        }
    };
    match run {
        Ok(tally) => {
            println!("{tally}\nin {:.1?}", started.elapsed());
            if tally.seeds > 1 {
                tally.enough().expect("enough to show something");
            }
        }
        Err(failure) => panic!("{failure}\nsee it with: {ALONE} --seed {} --trace", failure.seed),
    }
}

#[test]
fn a_quorum_keeps_its_promises_over_faulty_messages_to_each_member() {
    let mut raised = 0;
    for (seed, members) in [(1, 3), (2, 5)] {
        let run = Simulation::of_quorum(members).run(seed);
        let tally = run.unwrap_or_else(|failure| {
            panic!("{failure}\nsee it with: {ALONE} --quorum {members} --seed {seed} --trace")
        });
        raised += tally.operations.get("raise").copied().unwrap_or(0);
    }
    assert!(raised > 0, "no token was ever written back");
}

#[test]
fn a_seed_always_runs_the_same_way() {
    for seed in 1..=6 {
        let run = move || Simulation::of_memory().run(seed).expect("no fault");
        let others = [thread::spawn(run), thread::spawn(run)];
        for other in others {
            assert_eq!(other.join().expect("a run"), run(), "seed {seed}");
        }
    }
    let digest = |seed| Simulation::of_memory().run(seed).expect("no fault").digest;
    assert_ne!(digest(1), digest(2));
}

#[test]
fn runs_that_did_too_little_are_no_proof() {
    let little = Tally::default().enough().expect_err("nothing was done");
    assert!(little.contains("only 0"), "{little}");
    // A seed alone may meet every fault once; not each of them does.
    let mut alone = (1..=20).map(|seed| Simulation::of_memory().run(seed).expect("no fault"));
    assert!(alone.any(|run| run.enough().is_err()), "twenty seeds each met everything");
}

/// The small store, with the flaw of this name.
fn small(flaw: &Flaw) -> Simulation {
    let flaw = flaw.clone();
    Simulation::of(move || {
        let fixture = SmallFixture::new(&flaw, Time::Virtual);
        fixture.connect().now_or_never().expect("it waits for nothing").expect("connected")
    })
}

/// The first failure of so many seeds.
fn caught(simulation: &Simulation, seeds: u64) -> Option<Failure> {
    (1..=seeds).find_map(|seed| simulation.run(seed).err())
}

#[test]
fn a_right_store_of_another_kind_passes() {
    let simulation = small(&Flaw::NONE);
    let failure = caught(&simulation, 12);
    assert!(failure.is_none(), "{failure:?}");
}

#[test]
fn broken_stores_are_caught() {
    for name in ["no-exclusion", "reentrant", "release-unchecked", "token-constant"] {
        let flaw = RULE_FLAWS.iter().find(|flaw| flaw.name == name).expect("a flaw");
        let failure = caught(&small(flaw), 12);
        assert!(failure.is_some(), "{name} survived");
    }
}

#[test]
fn broken_shared_locks_are_caught() {
    for name in
        ["shared-beside-exclusive", "exclusive-beside-shared", "one-release-ends-all-shared"]
    {
        let flaws = shared_flaws();
        let flaw = flaws.iter().find(|flaw| flaw.name == name).expect("a flaw");
        let failure = caught(&small(flaw), 12);
        assert!(failure.is_some(), "{name} survived");
    }
}

#[test]
fn names_are_shared_in_the_simulation_where_the_store_offers_it() {
    let runs: Vec<_> = (1..=6).map(|seed| Simulation::of_memory().run(seed)).collect();
    let of = |what| {
        let tallies = runs.iter().map(|run| run.as_ref().expect("no fault"));
        tallies.map(|tally| tally.operations.get(what).copied().unwrap_or_default()).sum::<u64>()
    };
    let (shared, all) = (of("granted a share"), of("granted"));
    assert!(shared > all / 10 && shared < all, "{shared} of {all}");
}

#[test]
#[ignore = "prints which broken stores the simulation catches"]
fn which_broken_stores_are_caught() {
    for flaw in RULE_FLAWS.iter().cloned().chain(attempt_flaws()).chain(term_flaws()) {
        let found = caught(&small(&flaw), 12).map(|failure| failure.to_string());
        let found = found.map(|text| text.chars().take(150).collect::<String>());
        println!("{:28} {}", flaw.name, found.as_deref().unwrap_or("-"));
    }
}

/// What stamps a term when its answer arrives, instead of when it was sent.
#[derive(Debug)]
struct TermAtReceipt(Arc<dyn LockProvider>);

#[derive(Debug)]
struct LeaseAtReceipt(Box<dyn Lease>, Clock);

impl TermAtReceipt {
    fn at_receipt(request: &Request, grant: Grant) -> Grant {
        let clock = request.clock().clone();
        let term = Term { sent: clock.now(), ..grant.term };
        Grant::new(grant.token, term, LeaseAtReceipt(grant.lease, clock))
    }
}

#[async_trait]
impl LockProvider for TermAtReceipt {
    fn guarantees(&self) -> Guarantees {
        self.0.guarantees()
    }

    async fn try_acquire(&self, request: &Request) -> Result<Option<Grant>> {
        let grant = self.0.try_acquire(request).await?;
        Ok(grant.map(|grant| Self::at_receipt(request, grant)))
    }

    async fn acquire(&self, request: &Request) -> Result<Grant> {
        Ok(Self::at_receipt(request, self.0.acquire(request).await?))
    }

    async fn withdraw(&self, request: &Request) -> Result<()> {
        self.0.withdraw(request).await
    }

    fn operator(&self) -> Option<&dyn Operator> {
        self.0.operator()
    }

    async fn close(&self) -> Result<()> {
        self.0.close().await
    }
}

#[async_trait]
impl Lease for LeaseAtReceipt {
    async fn renew(&self) -> Result<Term> {
        let term = self.0.renew().await?;
        Ok(Term { sent: self.1.now(), ..term })
    }

    async fn lost(&self) -> LossReason {
        self.0.lost().await
    }

    async fn release(&self) -> Result<()> {
        self.0.release().await
    }

    async fn release_after(&self, rest: Duration) -> Result<bool> {
        self.0.release_after(rest).await
    }

    async fn raise(&self, token: FencingToken) -> Result<bool> {
        self.0.raise(token).await
    }

    fn native(&self) -> Option<Arc<dyn Any + Send + Sync>> {
        self.0.native()
    }
}

#[test]
fn a_client_that_counts_from_the_answer_is_caught() {
    let simulation = Simulation::of_memory().with_client(|wire| Arc::new(TermAtReceipt(wire)));
    let failure = caught(&simulation, 50).expect("a violation");
    assert!(failure.what.contains("believes") || failure.what.contains("believed"), "{failure}");
    assert_eq!(simulation.run(failure.seed), Err(failure), "it runs alone");
}
