//! The scripts under clients with clocks of their own that lose pushes and answers, pause, leave and die: no two
//! believe at once, tokens grow, the order is kept, and what has ended is gone.
//!
//! `LOCKKIT_SEED=7 cargo test -p lockkit-redis --test it -- scripts::` reruns one seed.

pub(crate) mod chance;
mod clients;
mod oracle;
mod store;
mod world;

use std::time::Instant;

use clients::Flaw;
use store::Edit;
use testbed::RedisServer;
use world::{Rules, World};

use crate::common::report;

/// Where a broken protocol must have been noticed.
const NOTICED_WITHIN: u64 = 12_000;

/// A seed of its own for each run, or the one to be rerun.
pub(crate) fn seed() -> u64 {
    let fresh =
        || u64::from(std::process::id()) << 32 | u64::from(Instant::now().elapsed().subsec_nanos());
    std::env::var("LOCKKIT_SEED").ok().map_or_else(fresh, |seed| seed.parse().unwrap())
}

fn no_rule_breaks(grants: u64, rules: Rules) {
    let server = RedisServer::start().unwrap();
    let (seed, began) = (seed(), Instant::now());
    let mut world = World::new(&server, seed, rules, &[]);
    let outcome = world.run(grants).and_then(|()| world.leave());
    let counts = world.counts();
    report(&format!("redis: seed {seed}, {rules:?}: {counts:?} in {:.1?}", began.elapsed()));
    if let Err(why) = outcome {
        panic!("LOCKKIT_SEED={seed}: {why}");
    }
    let mut least = vec![(counts.pushed, 10), (counts.in_answers, 20), (counts.withdrawn, 40)];
    if rules.faults == Rules::default().faults {
        least.push((counts.purged, 50));
    }
    let is_enough = least.iter().all(|(count, part)| *count > grants / part / 10);
    assert!(is_enough, "too little of {counts:?}");
}

#[test]
fn no_rule_breaks_over_a_thousand_grants() {
    no_rule_breaks(700, Rules::default());
    no_rule_breaks(300, Rules { names: 24, faults: 30, ..Rules::default() });
}

#[test]
#[ignore = "minutes; `cargo xtask soak` runs it"]
fn no_rule_breaks_over_twenty_thousand_grants() {
    no_rule_breaks(12_000, Rules::default());
    no_rule_breaks(4_000, Rules { beat: 110, ..Rules::default() });
    no_rule_breaks(4_000, Rules { names: 24, faults: 30, ..Rules::default() });
}

/// A mistake, in the scripts or in the client, and what convicts it.
struct Break {
    what: &'static str,
    edits: &'static [Edit],
    flaw: Flaw,
    convicted_by: &'static [&'static str],
}

const fn in_client(what: &'static str, flaw: Flaw, by: &'static [&'static str]) -> Break {
    Break { what, edits: &[], flaw, convicted_by: by }
}

const fn in_script(
    what: &'static str,
    edits: &'static [Edit],
    by: &'static [&'static str],
) -> Break {
    Break { what, edits, flaw: Flaw::None, convicted_by: by }
}

const BREAKS: [Break; 14] = [
    in_client("belief from the push's arrival", Flaw::FromArrival, &["overlap", "token"]),
    in_client(
        "the whole life counted as the heartbeat's age",
        Flaw::WholeLife,
        &["overlap", "token"],
    ),
    in_client("a late push trusted", Flaw::LateTrusted, &["overlap", "token"]),
    in_script(
        "a release without the comparison",
        &[("value == ARGV[1]", "value")],
        &["overlap", "barged", "order"],
    ),
    in_script(
        "a renewal without the comparison",
        &[("redis.call('GET', L) ~= ARGV[1]", "not redis.call('GET', L)")],
        &["overlap"],
    ),
    Break {
        what: "a first term above the ttl",
        edits: &[("head .. '.' .. token, 'PX', ttl", "head .. '.' .. token, 'PX', ttl + 400")],
        flaw: Flaw::LongFirst,
        convicted_by: &["overlap"],
    },
    in_script(
        "a token by coarse time, without the last one",
        &[
            ("time[1] .. string.sub('00000' .. time[2], -6)", "time[1] .. '000000'"),
            ("last >= token", "false"),
        ],
        &["token"],
    ),
    in_script(
        "a free name taken past the queue",
        &[("'EXISTS', L, Q, X", "'EXISTS', L")],
        &["barged", "order", "ended"],
    ),
    in_script("last in, first out", &[("'ZPOPMIN', Q", "'ZPOPMAX', Q")], &["order"]),
    in_script(
        "a withdrawal leaves the grant",
        &[("elseif is_held then\n  hand_on('')\nelseif", "elseif")],
        &["ended"],
    ),
    in_script("no tombstones", &[("redis.call('ZADD', X, now + TOMB, id)", "")], &["ended"]),
    in_script(
        "a waiter of a live client dropped",
        &[("is_dead = age >= LIFE", "is_dead = age >= LIFE / 2")],
        &["purged", "order", "barged"],
    ),
    in_script(
        "a push of a grant that is short",
        &[(
            "if age > DEAF then return nil end\n",
            "if age > DEAF then return nil end\n redis.call('RPUSH', 'pushes', client .. ' ' .. word)\n",
        )],
        &["overlap", "token"],
    ),
    in_client("deaths and gaps ignored", Flaw::IgnoresDeath, &["starved"]),
];

/// Each in turn, on one server.
fn each_break_is_convicted(breaks: impl Iterator<Item = &'static Break>) {
    let server = RedisServer::start().unwrap();
    for Break { what, edits, flaw, convicted_by } in breaks {
        let (seed, began) = (seed(), Instant::now());
        let rules = Rules { flaw: *flaw, ..Rules::default() };
        let mut world = World::new(&server, seed, rules, edits);
        let outcome = world.run(NOTICED_WITHIN).and_then(|()| world.leave());
        let why = outcome.expect_err(&format!("{what}: not noticed, LOCKKIT_SEED={seed}"));
        let (grants, first) = (world.counts().grants, why.lines().next().unwrap_or_default());
        report(&format!("redis: {what}: after {grants} grants, {:.1?}: {first}", began.elapsed()));
        let by = first.split(':').next().unwrap_or_default();
        assert!(convicted_by.contains(&by), "{what}, LOCKKIT_SEED={seed}: {why}");
    }
}

/// Convicted only after some thousand grants.
fn is_late(it: &&Break) -> bool {
    matches!(it.convicted_by, ["starved"])
        || ["a renewal without the comparison", "a withdrawal leaves the grant"].contains(&it.what)
}

#[test]
fn each_deliberate_break_that_shows_soon_is_convicted() {
    each_break_is_convicted(BREAKS.iter().filter(|it| !is_late(it)));
}

#[test]
#[ignore = "minutes; `cargo xtask soak` runs it"]
fn each_deliberate_break_that_shows_late_is_convicted() {
    each_break_is_convicted(BREAKS.iter().filter(is_late));
}
