//! What is asked of every store, with the same parts in the same order.

use std::time::Duration;

use crate::report::{Part, Report};
use crate::rounds::{Load, cycles, many_grants, rates};
use crate::way::{Store, Way};
use crate::{
    allocations, as_child, crash, crowd, in_a_task, is_quick, is_wanted, leases, processes,
};

/// The ways of a store, and what its ratios should be.
#[derive(Clone, Debug)]
pub struct Plan<K> {
    /// The store's name, the first word of each part's.
    pub store: &'static str,
    /// lockkit, each task with a client of its own.
    pub ours: Way<K>,
    /// lockkit's own requests, sent by a bare client.
    pub hand: Option<Way<K>>,
    /// The fewest requests of a mutex with expiry.
    pub floor: Way<K>,
    /// A queue by the store's own means, and nothing else.
    pub fair: Option<Way<K>>,
    /// lockkit with other settings.
    pub variants: Vec<Variant<K>>,
    /// What a user would take instead.
    pub peers: Vec<Way<K>>,
    /// What the ratios should be.
    pub goals: Goals,
    /// The waiters of a name; 0 where the store is not asked for a crowd.
    pub crowd: usize,
    /// The ttl of the holder that is killed; `None` where one process has the whole store.
    pub killed_ttl: Option<Duration>,
}

/// lockkit with another setting, and what its ratios should be.
#[derive(Clone, Copy, Debug)]
pub struct Variant<K> {
    /// The way.
    pub way: Way<K>,
    /// Beside the same floors.
    pub goals: Goals,
}

/// What the ratios should be, as in `<= 1.45`; empty where nothing is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Goals {
    /// Acquire and release alone, beside the floor.
    pub alone: &'static str,
    /// The same beside the requests sent by hand.
    pub hand: &'static str,
    /// Hand-offs between clients of their own, beside the fair floor, at 8 and at 32 waiters.
    pub hand_off: [&'static str; 2],
    /// 64 tasks on 64 names, beside the floor.
    pub names: &'static str,
}

const ONE: &str = "lockkit, one client";

/// Runs the parts of a store that the command line asks for, and writes its report.
///
/// # Panics
/// If a part does.
pub fn run<S: Store>(plan: &Plan<S::Kind>, start: fn() -> S) {
    let ways: Vec<_> =
        plan.all_ours().chain([plan.floor]).chain(plan.fair).chain(plan.peers.clone()).collect();
    let killed_ttl = plan.killed_ttl.unwrap_or_default();
    if as_child::<S>(&ways) || crash::is_holder::<S>(killed_ttl) {
        return;
    }
    let mut report = Report::new(plan.store, start().server());
    let wanted = |part: &str| is_wanted(&format!("{}/{part}", plan.store));
    let rounds = if is_quick() { 3 } else { 5 };
    if wanted("alone") {
        report.add(alone(plan, start, rounds));
    }
    if wanted("hand_off") {
        hand_offs(plan, start, rounds).into_iter().for_each(|part| report.add(part));
    }
    if wanted("processes") && plan.killed_ttl.is_some() {
        let ways: Vec<_> = [plan.ours, plan.fair.unwrap_or(plan.floor)].into();
        let part = processes(&start(), &ways, rounds, 8, Duration::ZERO, window());
        report.add(part.ratio(ways[0].label, ways[1].label, ""));
    }
    if wanted("names") {
        report.add(names(plan, start, rounds));
    }
    if wanted("waiters") && plan.crowd > 0 {
        let (rounds, count) = if is_quick() { (1, plan.crowd / 10) } else { (3, plan.crowd) };
        crowd(start, rounds, count).into_iter().for_each(|part| report.add(part));
    }
    if wanted("leases") {
        let count = if is_quick() { 1_000 } else { 10_000 };
        leases(&start(), count).into_iter().for_each(|part| report.add(part));
    }
    if wanted("allocations") {
        report.add(allocations(&start(), &[plan.ours, plan.floor]));
    }
    if wanted("crash") && plan.killed_ttl.is_some() {
        report.add(crash::crash(&start(), rounds, killed_ttl));
    }
    if wanted("grants") {
        let (ours, floor) = (plan.ours, plan.floor);
        let count = if is_quick() { 5_000 } else { 20_000 };
        report.add(in_a_task(async move { many_grants(&start(), ours, floor, count).await }));
    }
    report.write();
}

fn window() -> Duration {
    Duration::from_millis(if is_quick() { 1_000 } else { 2_000 })
}

fn alone<S: Store>(plan: &Plan<S::Kind>, start: fn() -> S, rounds: usize) -> Part {
    let ways: Vec<_> =
        plan.all_ours().chain(plan.hand).chain([plan.floor]).chain(plan.peers.clone()).collect();
    let mut part = in_a_task({
        let ways = ways.clone();
        async move { cycles(&start(), &ways, rounds, 4).await }
    });
    part = part.ratio(plan.ours.label, plan.floor.label, plan.goals.alone);
    for variant in &plan.variants {
        part = part.ratio(variant.way.label, plan.floor.label, variant.goals.alone);
    }
    if let Some(hand) = plan.hand {
        part = part.ratio(plan.ours.label, hand.label, plan.goals.hand);
        part = part.ratio(hand.label, plan.floor.label, "");
    }
    beside_peers(part, plan.ours.label, plan)
}

fn hand_offs<S: Store>(plan: &Plan<S::Kind>, start: fn() -> S, rounds: usize) -> Vec<Part> {
    let one = plan.ours.clients(1, ONE);
    let ways: Vec<_> =
        plan.all_ours().chain([one]).chain(plan.fair).chain(plan.peers.clone()).collect();
    let all = [(2, 0), (8, 0), (32, 0), (8, 5), (32, 5)];
    let loads = if is_quick() { &all[1..4] } else { &all[..] };
    let mut parts = Vec::new();
    for &(tasks, hold) in loads {
        let goal = |goals: Goals| match (tasks, hold) {
            (8, 0) => goals.hand_off[0],
            (32, 0) => goals.hand_off[1],
            _ => "",
        };
        let load =
            Load { tasks, hold: Duration::from_millis(hold), own_names: false, window: window() };
        let ways = ways.clone();
        let mut part = in_a_task(async move { rates(&start(), &ways, rounds, load).await });
        if let Some(fair) = plan.fair {
            part = part.ratio(plan.ours.label, fair.label, goal(plan.goals));
            for variant in &plan.variants {
                part = part.ratio(variant.way.label, fair.label, goal(variant.goals));
            }
            part = part.ratio(one.label, fair.label, "");
        }
        parts.push(beside_peers(part, plan.ours.label, plan));
    }
    parts
}

fn names<S: Store>(plan: &Plan<S::Kind>, start: fn() -> S, rounds: usize) -> Part {
    let one = plan.ours.clients(1, ONE);
    let ways: Vec<_> = [one, plan.floor].into_iter().chain(plan.peers.clone()).collect();
    let load = Load { tasks: 64, hold: Duration::ZERO, own_names: true, window: window() };
    let part = in_a_task(async move { rates(&start(), &ways, rounds, load).await });
    beside_peers(part.ratio(one.label, plan.floor.label, plan.goals.names), one.label, plan)
}

impl<K: Copy> Plan<K> {
    fn all_ours(&self) -> impl Iterator<Item = Way<K>> {
        [self.ours].into_iter().chain(self.variants.iter().map(|variant| variant.way))
    }
}

fn beside_peers<K>(part: Part, ours: &str, plan: &Plan<K>) -> Part {
    plan.peers.iter().fold(part, |part, peer| part.ratio(ours, peer.label, ""))
}
