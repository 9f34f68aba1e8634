//! Random walks: a few clients do random things to a few names, one after the other, and each answer must
//! be one that the contract allows.
//!
//! A walk is a list of steps that follows from a seed (`step`). `World` takes the steps on the store, and
//! keeps a model beside it: who holds, until when at least and at most, who waits and in which order. A
//! step whose answer could be either, because a term ends meanwhile, is not taken: the world lets the
//! term run out first. A walk that fails is made shorter for as long as it still fails, and told as a story.
//!
//! A scene (`scene`) is a walk that is not random: a holder, a waiter and a newcomer under a combination of
//! circumstances, of which each two meet in some scene (`pairs`).

mod act;
mod clients;
mod faults;
mod operators;
mod pairs;
mod passing;
mod scene;
mod step;
mod terms;
mod world;

use std::time::Duration;

use futures_util::future::join_all;

use super::context::Context;
use super::outcome::Outcome;
use super::stop::{Stop, Verdict, all, require_in_time};
use clients::Clients;
pub(super) use clients::Over;
use scene::{Scene, scenes};
use step::{CLIENTS, Step, steps};
use world::World;

/// How many steps a walk has.
const STEPS: usize = 40;
/// How many walks there are in virtual time; in real time the budget ends them.
const WALKS: u64 = 60;
/// How many scenes are played side by side in real time: most of it passes in waits.
const SCENES_AT_A_TIME: usize = 4;
/// For how long walks begin in real time.
const REAL_BUDGET: Duration = Duration::from_secs(8);
/// For how long a walk that failed is made shorter in real time.
const SHRINK_BUDGET: Duration = Duration::from_secs(30);
/// How far apart the seeds of walks side by side begin.
const APART: u64 = 1_000_000;
/// The first seed, unless this variable of the environment says.
const SEED: &str = "LOCKKIT_SEED";

/// Walks from one seed after the other, until the budget is used up or an answer is wrong. In real time,
/// which mostly passes in waits, several do so side by side.
pub(super) async fn walks(cx: &Context, over: Over) -> Verdict {
    let first = seed();
    let count = if cx.is_virtual() { WALKS } else { 10 * WALKS };
    let from = |first: u64| (first..first + count).map(Walk::random).collect();
    let lanes = if cx.is_virtual() {
        vec![from(first)]
    } else {
        vec![from(first), from(first + APART), from(first + 2 * APART)]
    };
    let walked = side_by_side(cx, over, lanes).await?;
    cx.notes.count("walks", walked.walks);
    cx.notes.count("steps of them", walked.steps);
    Ok(())
}

/// Plays the scenes of a seed, until all were played, the budget is used up, or an answer is wrong.
pub(super) async fn combinations(cx: &Context, over: Over) -> Verdict {
    let seed = seed();
    let scenes = scenes(seed).into_iter().map(|scene| Walk::scene(seed, scene));
    let mut lanes = vec![Vec::new(); if cx.is_virtual() { 1 } else { SCENES_AT_A_TIME }];
    let count = lanes.len();
    scenes.enumerate().for_each(|(number, scene)| lanes[number % count].push(scene));
    let all: usize = lanes.iter().map(Vec::len).sum();
    let walked = side_by_side(cx, over, lanes).await?;
    cx.notes.count("combinations", walked.walks);
    cx.notes.count("of", u64::try_from(all).unwrap_or(u64::MAX));
    Ok(())
}

/// The first seed: of the environment, or 1.
fn seed() -> u64 {
    std::env::var(SEED).ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

/// What is walked, and what a failure calls it.
#[derive(Clone, Debug)]
struct Walk {
    called: String,
    steps: Vec<Step>,
}

impl Walk {
    fn random(seed: u64) -> Self {
        Self { called: format!("seed {seed}"), steps: steps(seed, STEPS) }
    }

    fn scene(seed: u64, scene: Scene) -> Self {
        Self { called: format!("seed {seed}, {scene}"), steps: scene.steps() }
    }
}

/// How many walks there were, and how many steps they took.
#[derive(Clone, Copy, Debug, Default)]
struct Walked {
    walks: u64,
    steps: u64,
}

/// Walks each lane's walks one after the other, and the lanes side by side.
async fn side_by_side(cx: &Context, over: Over, lanes: Vec<Vec<Walk>>) -> Verdict<Walked> {
    let lanes = lanes.into_iter().enumerate();
    let walked = join_all(lanes.map(|(lane, walks)| in_turn(cx, over, lane, walks))).await;
    let walked = all(walked)?.into_iter().fold(Walked::default(), |sum, lane| Walked {
        walks: sum.walks + lane.walks,
        steps: sum.steps + lane.steps,
    });
    // Each walk may have ended at its first step, where a step takes longer than terms allow.
    let (least, taken) = (STEPS as u64, walked.steps);
    require_in_time!(taken >= least, "{taken} steps were in time, which proves nothing");
    Ok(walked)
}

async fn in_turn(cx: &Context, over: Over, lane: usize, lane_of: Vec<Walk>) -> Verdict<Walked> {
    let mut walks = Walks::begin(cx, over, lane).await?;
    let end = cx.clock.now().saturating_add(REAL_BUDGET);
    let mut walked = Walked::default();
    for walk in lane_of {
        if !cx.is_virtual() && cx.clock.now() >= end {
            break;
        }
        if let Err((stop, story)) = walks.walk(&walk.steps).await {
            return Err(match wrong(cx, stop) {
                Ok(why) => walks.told(walk, (why, story)).await,
                Err(stop) => stop.of(format_args!("the walk of {}", walk.called)),
            });
        }
        walked.walks += 1;
        walked.steps = walks.taken;
    }
    Ok(walked)
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
    clients: Clients,
    /// What one step may take.
    room: Duration,
    /// The number of the walk: each has names of its own.
    count: u64,
    /// How many steps were taken.
    taken: u64,
}

impl<'a> Walks<'a> {
    async fn begin(cx: &'a Context, over: Over, lane: usize) -> Verdict<Self> {
        let clients = Clients::connect(cx, over).await?;
        let mut slowest = Duration::ZERO;
        for client in clients.all().iter().cycle().take(2 * CLIENTS) {
            let request = cx.request(&format!("measured-{lane}"))?;
            let begun = cx.clock.now();
            let grant = cx.granted(&**client, &request).await?;
            slowest = slowest.max(cx.clock.now().saturating_since(begun));
            grant.lease.release().await?;
        }
        let least = Duration::from_millis(if cx.is_virtual() { 2 } else { 200 });
        let room = (slowest * 2).clamp(least, cx.odd_ttl() / 6);
        let count = u64::try_from(lane).unwrap_or(0) * APART;
        Ok(Self { cx, clients, room, count, taken: 0 })
    }

    /// Takes the steps; if one fails, why, and the story so far.
    async fn walk(&mut self, steps: &[Step]) -> Result<(), (Stop, Vec<String>)> {
        self.count += 1;
        let world = World::new(self.cx, &mut self.clients, self.room, self.count);
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
        Walk { called, mut steps, .. }: Walk,
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
            "{why}\n  What was done ({called}, made shorter):\n    {}",
            story.join("\n    ")
        ))
    }
}
