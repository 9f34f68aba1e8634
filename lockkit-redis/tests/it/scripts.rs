//! The scripts' invariants, under random steps of clients that crash, cancel, replay and barge.
//!
//! `LOCKKIT_SEED=7 cargo test -p lockkit-redis --test it -- scripts::` reruns one seed.

pub(crate) mod chance;
mod deed;
mod model;
mod store;
mod world;

use std::time::{Duration, Instant};

use deed::{Deed, Pass};
use store::{Cut, Store, keys};
use testbed::RedisServer;
use world::World;

/// How many steps a run takes, unless `LOCKKIT_STEPS` says.
const STEPS: u64 = 100_000;
/// Where the run gives up having done too little: a fast machine has less time for expiries.
const MOST_STEPS: u64 = 500_000;
/// Where a broken script must have been noticed.
const NOTICED_WITHIN: u64 = 300_000;

/// A seed of its own for each run, or the one to be rerun.
pub(crate) fn seed() -> u64 {
    let fresh =
        || u64::from(std::process::id()) << 32 | u64::from(Instant::now().elapsed().subsec_nanos());
    std::env::var("LOCKKIT_SEED").ok().map_or_else(fresh, |seed| seed.parse().unwrap())
}

/// What the run did not do often enough to show anything.
fn too_little(world: &World) -> Option<&'static str> {
    let counts = &world.counts;
    let enough = [
        ("grants", counts.grants, 3_000),
        ("confirmed", counts.confirmed, 500),
        ("replayed", counts.replayed, 500),
        ("handed on", counts.handed_on, 500),
        ("passed", counts.passed, 200),
        ("passed over several", counts.passed_several, 10),
        ("passed again", counts.passed_again, 5),
        ("passes refused", counts.pass_refused, 300),
        ("expired", counts.expired, 500),
        ("reservations expired", counts.reservations_expired, 20),
        ("refused by a tombstone", counts.refused_by_tombstone, 200),
        ("late", counts.late, 3_000),
        ("foreign", counts.foreign, 1_500),
        ("ours removed by a foreign client", counts.foreign_removed_ours, 20),
        ("forgotten", counts.forgotten, 5),
    ];
    enough.into_iter().find(|(_, count, least)| count < least).map(|(what, ..)| what)
}

#[test]
fn every_invariant_holds_after_each_of_100_000_random_steps() {
    let server = RedisServer::start().unwrap();
    let (seed, began) = (seed(), Instant::now());
    let mut world = World::new(&server, seed, None);
    println!("seed {seed}");
    let steps = std::env::var("LOCKKIT_STEPS").ok();
    let mut outcome = world.run(steps.map_or(STEPS, |steps| steps.parse().unwrap()));
    while outcome.is_ok() && too_little(&world).is_some() && world.counts.steps < MOST_STEPS {
        outcome = world.run(world.counts.steps + 10_000);
    }
    if let Err(why) = outcome.and_then(|()| world.leave()) {
        panic!("LOCKKIT_SEED={seed}: {why}");
    }
    println!("{:#?} in {:?}", world.counts, began.elapsed());
    assert_eq!(too_little(&world), None, "LOCKKIT_SEED={seed}");
    // A life, a reservation, and what is kept longer than both.
    std::thread::sleep(Duration::from_millis(4_500));
    let left = world.keys();
    let kept = |key: &String| key.ends_with("}:f") || key.ends_with("}:x");
    assert!(left.iter().all(kept), "left over: {left:?}");
}

/// A random run found it: the withdrawal of the one who is named came before the hand-off did.
#[test]
fn a_late_hand_off_to_one_who_was_withdrawn_frees_the_name() {
    let server = RedisServer::start().unwrap();
    let (mut store, keys) = (Store::new(&server, None), keys("a"));
    let mut step = |deed: Deed| {
        let words = deed.words(&keys[0]);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        store.step(&keys, &words).1
    };
    let [first, second] = [1, 2].map(|n| format!("{n:032x}.{:016x}", 0));
    let ask = |id: &String| Deed::Ask { id: id.clone(), ttl: 5_000, waits: true };
    let held = step(ask(&first));
    assert_eq!((&held.holder, &step(ask(&second)).queue), (&first, &vec![second.clone()]));
    let late = Deed::Pass(Pass {
        from: first.clone(),
        token: held.fence["token"].parse::<u64>().unwrap() + 1,
        to: Some((second.clone(), 5_000)),
        ended: vec![(first.clone(), false)],
    });
    assert_eq!(step(Deed::Withdraw { id: second, tomb: true }).holder, first);
    assert_eq!(step(late).holder, "");
}

#[test]
fn the_model_notices_each_rule_that_is_cut_out_of_the_scripts() {
    let cuts = [
        ("the tombstone of an acquire", "buried and tonumber(buried) > NOW", "false"),
        (
            "the id of a release",
            "(is_ended or holder == NEXT) and holder == f[1]",
            "holder == f[1]",
        ),
        (
            "the id of a renewal",
            "redis.call('GET', L) ~= ID or redis.call('HGET', F, 'id') ~= ID then return unless_replica(0)",
            "false then return 0",
        ),
        (
            "the reservation, at a renewal",
            "redis.call('GET', L) ~= ID or redis.call('HGET', F, 'id') ~= ID then return unless_replica(0)",
            "redis.call('GET', L) ~= ID then return 0",
        ),
        ("the token's growth", "+ AHEAD + 1, NOW)", "+ AHEAD + 1, NOW) - 3000000 * (NOW % 2)"),
        (
            "the token's time",
            "math.max(tonumber(f[2] or '0') + AHEAD + 1, NOW)",
            "tonumber(f[2] or '0') + AHEAD + 1",
        ),
        (
            "the tokens that were handed on by",
            "math.max(tonumber(f[2] or '0') + AHEAD + 1, NOW)",
            "(f[2] and tonumber(f[2]) + 1 or NOW)",
        ),
        ("the queue's head", "holder or not line[1] or line[1] == ID", "true"),
        (
            "the head of a hand-over",
            "local head = waiter(0)\n  if not head then return",
            "local head = waiter(-1)\n  if not head then return",
        ),
        ("the hand-over of a release", "'released', ID) end\n  hand_over()", "'released', ID) end"),
        ("the end of the last grant", "redis.call('HDEL', F, 'id')", ""),
        ("the leaving of a release", "if ended[2] or not held then leave(unpack(ended)) end", ""),
        ("the next holder's place", "leave(NEXT)", ""),
        ("the token of a pass", "and tonumber(f[2]) <= TOKEN", ""),
        (
            "the reservation, at a pass",
            "and holder == f[1] and tonumber",
            "and holder and f[2] and tonumber",
        ),
        ("the lives of the queue", "redis.call('ZREM', W, ...)", ""),
        ("the end of the queue", "redis.call('PEXPIRE', Q, LASTS)", "redis.call('PEXPIRE', Q, 1)"),
        ("the holder of a withdrawal", "if holder == ID then\n", "if holder then\n"),
        ("the fence's life", "redis.call('PEXPIRE', F, FENCE + ttl)", ""),
    ];
    let server = RedisServer::start().unwrap();
    for (what, from, to) in cuts {
        let seed = seed();
        let mut world = World::new(&server, seed, Some(Cut { from, to }));
        let outcome = world.run(NOTICED_WITHIN);
        let why = outcome.expect_err(&format!("{what}: not noticed, LOCKKIT_SEED={seed}"));
        println!("{what}: {}", why.lines().next().unwrap_or_default());
    }
}
