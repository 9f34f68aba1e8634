//! Good histories at random: no false alarm.

use lockkit_core::conformance::history::History;
use proptest::prelude::*;

use super::truth::{events, plans};

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_right_store_and_fence_raise_no_alarm(
        plans in plans(12, 20),
        others in plans(6, 5),
    ) {
        let mut history = History::new();
        for event in events(&plans, "one") {
            history.push(event);
        }
        for mut event in events(&others, "two") {
            event.attempt.process += 1000;
            history.push(event);
        }
        let verdict = history.check();
        prop_assert!(verdict.is_ok(), "{:?}", verdict);
    }
}
