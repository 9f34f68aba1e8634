//! Random walks: a few clients do random things to a few names, one after the other, and each answer must
//! be one that the contract allows.
//!
//! A walk is a list of steps that follows from a seed (`step`). `World` takes the steps on the store, and
//! keeps a model beside it: who holds, until when at least and at most, who waits and in which order. A
//! step whose answer could be either, because a term ends meanwhile, is not taken: the world lets the
//! term run out first. A walk that fails is made shorter for as long as it still fails, and told as a story.

mod act;
mod step;
mod world;

use std::sync::Arc;
use std::time::Duration;

use super::context::Context;
use super::faults::{Link, Linked};
use super::outcome::Outcome;
use super::stop::{Stop, Verdict, all, require_in_time};
use crate::LockProvider;
use step::{CLIENTS, Step, steps};
use world::World;

/// How long the bytes of each are on their way where they walk over links.
const DELAYS: [Duration; CLIENTS] =
    [Duration::ZERO, Duration::from_millis(4), Duration::from_millis(15)];
/// How many steps a walk has.
const STEPS: usize = 40;
/// How many walks there are in virtual time.
const WALKS: u64 = 60;
/// For how long walks begin in real time.
const REAL_BUDGET: Duration = Duration::from_secs(8);
/// For how long a walk that failed is made shorter in real time.
const SHRINK_BUDGET: Duration = Duration::from_secs(30);
/// How far apart the seeds of walks side by side begin.
const APART: u64 = 1_000_000;
/// The first seed, unless this variable of the environment says.
const SEED: &str = "LOCKKIT_SEED";

/// What the clients of a walk reach their store over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// Nothing between.
    Nothing,
    /// Links of uneven length.
    Links,
}

/// Walks from one seed after the other, until the budget is used up or an answer is wrong. In real time,
/// which mostly passes in waits, several do so side by side.
pub(super) async fn walks(cx: &Context, over: Over) -> Verdict {
    let first = std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let walked = if cx.is_virtual() {
        walks_from(cx, over, first).await?
    } else {
        let [second, third] = [first + APART, first + 2 * APART];
        let walked = tokio::join!(
            walks_from(cx, over, first),
            walks_from(cx, over, second),
            walks_from(cx, over, third)
        );
        all([walked.0, walked.1, walked.2])?
            .into_iter()
            .fold((0, 0), |(walks, steps), walked| (walks + walked.0, steps + walked.1))
    };
    // Each walk may have ended at its first step, where a step takes longer than terms allow.
    let (least, taken) = (STEPS as u64, walked.1);
    require_in_time!(taken >= least, "{taken} steps were in time, which proves nothing");
    cx.notes.count("walks", walked.0);
    cx.notes.count("steps of them", taken);
    Ok(())
}

/// How many walks there were, and how many steps they took.
async fn walks_from(cx: &Context, over: Over, first: u64) -> Verdict<(u64, u64)> {
    let mut walks = Walks::begin(cx, over, first).await?;
    let end = cx.clock.now().saturating_add(REAL_BUDGET);
    let mut seed = first;
    while if cx.is_virtual() { seed - first < WALKS } else { cx.clock.now() < end } {
        let steps = steps(seed, STEPS);
        match walks.walk(&steps).await {
            Ok(()) => {}
            Err((stop, story)) => match wrong(cx, stop) {
                Ok(why) => return Err(walks.told(seed, steps, (why, story)).await),
                Err(stop) => return Err(stop.of(format_args!("the walk of seed {seed}"))),
            },
        }
        seed += 1;
    }
    Ok((seed - first, walks.taken))
}

/// Why a walk is wrong, whatever the machine did; in virtual time no machine makes it late.
fn wrong(cx: &Context, stop: Stop) -> Result<String, Stop> {
    match stop {
        Stop::Final(Outcome::Failed(why)) => Ok(why),
        Stop::Late(why) if cx.is_virtual() => Ok(why),
        stop => Err(stop),
    }
}

/// The walks of one run of the case.
struct Walks<'a> {
    cx: &'a Context,
    clients: Vec<Arc<dyn LockProvider>>,
    _links: Vec<Arc<dyn Link>>,
    delays: [Duration; CLIENTS],
    /// What one step may take.
    room: Duration,
    /// The number of the walk: each has names of its own.
    count: u64,
    /// How many steps were taken.
    taken: u64,
}

impl<'a> Walks<'a> {
    async fn begin(cx: &'a Context, over: Over, seed: u64) -> Verdict<Self> {
        let (mut clients, mut links) = (Vec::new(), Vec::new());
        let delays = if over == Over::Links { DELAYS } else { [Duration::ZERO; CLIENTS] };
        for delay in delays {
            if over == Over::Links {
                let Linked { client, link } = cx.linked().await?;
                link.delay(delay).await?;
                clients.push(client);
                links.push(link);
            } else {
                clients.push(cx.connect().await?);
            }
        }
        let mut slowest = Duration::ZERO;
        for client in clients.iter().cycle().take(2 * CLIENTS) {
            let request = cx.request(&format!("measured-{seed}"))?;
            let begun = cx.clock.now();
            let grant = cx.granted(&**client, &request).await?;
            slowest = slowest.max(cx.clock.now().saturating_since(begun));
            grant.lease.release().await?;
        }
        let least = Duration::from_millis(if cx.is_virtual() { 2 } else { 200 });
        let room = (slowest * 2).clamp(least, cx.odd_ttl() / 6);
        Ok(Self { cx, clients, _links: links, delays, room, count: seed * 1000, taken: 0 })
    }

    /// Takes the steps; if one fails, why, and the story so far.
    async fn walk(&mut self, steps: &[Step]) -> Result<(), (Stop, Vec<String>)> {
        self.count += 1;
        let world = World::new(self.cx, &self.clients, &self.delays, self.room, self.count);
        let mut world = world.map_err(|stop| (stop, Vec::new()))?;
        let walked = async {
            for step in steps {
                world.take(*step).await?;
                if world.is_unsure() {
                    break;
                }
                self.taken += 1;
            }
            world.finish().await
        };
        match walked.await {
            Ok(()) => Ok(()),
            Err(stop) => {
                let story = world.story();
                world.abandon().await;
                Err((stop, story))
            }
        }
    }

    /// Makes a walk that failed as short as it can be, and tells it.
    async fn told(
        &mut self,
        seed: u64,
        mut steps: Vec<Step>,
        mut shortest: (String, Vec<String>),
    ) -> Stop {
        let end = self.cx.clock.now().saturating_add(SHRINK_BUDGET);
        let mut part = steps.len();
        while part > 0 {
            let mut at = 0;
            while at < steps.len() {
                if !self.cx.is_virtual() && self.cx.clock.now() >= end {
                    break;
                }
                let mut fewer = steps.clone();
                fewer.drain(at..steps.len().min(at + part));
                let walked =
                    self.walk(&fewer).await.map_err(|(stop, story)| (wrong(self.cx, stop), story));
                if let Err((Ok(why), story)) = walked {
                    shortest = (why, story);
                    steps = fewer;
                } else {
                    at += part;
                }
            }
            part /= 2;
        }
        let (why, story) = shortest;
        // The story tells more than the last calls, which are those of the shortest walk's tries.
        self.cx.notes.calls().forget();
        Stop::failed(format!(
            "{why}\n  What was done (seed {seed}, made shorter):\n    {}",
            story.join("\n    ")
        ))
    }
}
