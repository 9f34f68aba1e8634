//! What can be unusual about a store that keeps the contract.

use std::sync::LazyLock;
use std::time::Duration;

use lockkit_core::conformance::{Case, Level};
use lockkit_core::{Applied, Expiry, Fairness, Guarantees, TtlRange, WakeUp};

use crate::broken::flaw::Flaw;
use crate::broken::habits::Habits;
use crate::broken::rules::Rules;

/// What is unusual about a store.
#[derive(Clone, Debug)]
pub(crate) struct Manner {
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    /// The cases that need real time, and run here in each run of the tests.
    pub(crate) in_real_time: &'static [&'static str],
    /// What each call takes, half of it on the way there.
    pub(crate) call: Duration,
    /// The ttls that it grants.
    pub(crate) range: TtlRange,
    /// The store itself, and its client behind a link.
    pub(crate) small: Flaw,
    wake_up: WakeUp,
    fairness: Fairness,
    /// The level of the only cases to which it looks unusual; `None`: it does to all.
    level: Option<Level>,
}

const SECOND: Duration = Duration::from_secs(1);
const QUARTER: Duration = Duration::from_millis(250);
const CALL: Duration = Duration::from_millis(150);

/// All of them.
pub(crate) fn manners() -> &'static [Manner] {
    static MANNERS: LazyLock<Vec<Manner>> =
        LazyLock::new(|| [in_what_it_asks(), in_how_it_waits(), in_time()].concat());
    &MANNERS
}

fn in_what_it_asks() -> Vec<Manner> {
    vec![
        Manner::in_two_round_trips(
            "two-round-trips",
            "an attempt first has the store make room for the name; without an answer to that, it says \
             that it had no effect",
            Applied::No,
        ),
        Manner::in_two_round_trips(
            "two-round-trips-maybe",
            "the same; without an answer to that, it says that it may have had an effect",
            Applied::Maybe,
        ),
    ]
}

fn in_how_it_waits() -> Vec<Manner> {
    vec![
        Manner {
            in_real_time: &["AT-14"],
            ..Manner::polled(
                "polls-each-250-ms",
                "a waiter is told nothing, and asks again each 250 ms",
                QUARTER,
                |ttl| ttl.max(QUARTER * 5 / 4),
            )
        },
        Manner {
            in_real_time: &["AT-14", "AT-15"],
            fairness: Fairness::Eventual,
            ..Manner::polled(
                "polls-each-second",
                "a waiter is told nothing, and asks again each second; no order is promised",
                SECOND,
                |ttl| ttl.max(SECOND * 5 / 4),
            )
        },
    ]
}

fn in_time() -> Vec<Manner> {
    vec![
        Manner {
            name: "slow-calls",
            what: "each call takes 150 ms",
            in_real_time: &["AT-14", "LV-20"],
            call: CALL,
            ..Manner::USUAL
        },
        Manner {
            name: "long-ttls",
            what: "the least ttl is 5 s",
            in_real_time: &["AT-14", "C9-02"],
            range: TtlRange { min: 5 * SECOND, ..TtlRange::ANY },
            ..Manner::USUAL
        },
        Manner {
            name: "whole-seconds",
            what: "ttls go in steps of 1 s",
            in_real_time: &["AT-14", "AT-15", "C9-02", "LV-20"],
            range: TtlRange { min: SECOND, granularity: SECOND, ..TtlRange::ANY },
            ..Manner::USUAL
        },
        Manner {
            name: "all-at-once",
            what: "two round trips for an attempt, 150 ms for a call, polls each second, ttls of whole \
                   seconds from 5 s on",
            call: CALL,
            range: TtlRange { min: 5 * SECOND, granularity: SECOND, ..TtlRange::ANY },
            wake_up: WakeUp::Poll(SECOND),
            small: Manner::in_two_round_trips("", "", Applied::No)
                .small
                .with_rules(Manner::polled_rules(SECOND, |ttl| ttl.max(SECOND * 5 / 4))),
            ..Manner::USUAL
        },
    ]
}

impl Manner {
    /// The small store as it is.
    const USUAL: Self = Self {
        name: "usual",
        what: "nothing is unusual",
        in_real_time: &[],
        call: Duration::ZERO,
        range: TtlRange::ANY,
        small: Flaw::NONE,
        wake_up: WakeUp::Push,
        fairness: Fairness::Fifo,
        level: None,
    };

    /// The store whose client, behind a link, has it make room for a name before it asks for the name;
    /// an attempt whose first call got no answer says this of its effect.
    const fn in_two_round_trips(name: &'static str, what: &'static str, effect: Applied) -> Self {
        let habits = Habits { makes_room_first: Some(effect), ..Habits::CORRECT };
        let small = Flaw::habit(name, what, &[], habits);
        Self { name, what, small, level: Some(Level::Link), ..Self::USUAL }
    }

    /// The store whose waiters keep their places by asking again each `every`; a place lasts for its ttl,
    /// or longer than that where the ttl is shorter.
    const fn polled(
        name: &'static str,
        what: &'static str,
        every: Duration,
        place_lasts: fn(Duration) -> Duration,
    ) -> Self {
        let small = Flaw::rule(name, what, &[], Self::polled_rules(every, place_lasts));
        Self { name, what, small, wake_up: WakeUp::Poll(every), ..Self::USUAL }
    }

    const fn polled_rules(every: Duration, place_lasts: fn(Duration) -> Duration) -> Rules {
        Rules { wakes: |_| false, polled_every: Some(every), place_lasts, ..Rules::CORRECT }
    }

    /// Whether this case can tell the store from the small one.
    pub(crate) fn concerns(&self, case: &Case) -> bool {
        self.level.is_none_or(|level| case.level() == level)
    }

    pub(crate) fn guarantees(&self, small: Guarantees) -> Guarantees {
        let mut guarantees = small;
        guarantees.expiry = Expiry::Ttl(self.range);
        guarantees.wake_up = self.wake_up;
        guarantees.fairness = self.fairness;
        guarantees
    }
}
